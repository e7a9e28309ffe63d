"""The doctor finds what is broken, says what mends it, and survives what it examines."""

from __future__ import annotations

import json
import os
import resource
import shlex
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from megadape.attention.native import Missing, load
from megadape.doctor.base import Check, Finding, Subject
from megadape.doctor.examination import examine_all
from megadape.doctor.folders import look_at_run_folder
from megadape.doctor.gpus import Seen, judge
from megadape.doctor.processor import look_at_attention, look_at_threads
from megadape.doctor.registry import CHECKS
from megadape.doctor.report import summary, worst
from megadape.doctor.worker import examine

OPEN_FILES = 128
THREADS = str(2 * (os.cpu_count() or 1))

APEX = {"apex/__init__.py": "from pyramid.session import UnencryptedCookieSessionFactoryConfig\n"}
UNBUILT_APEX = {
    "apex/__init__.py": "",
    "apex/optimizers/__init__.py": "class FusedAdam: ...\n",
    "apex/normalization/__init__.py": "",
    "apex/normalization/fused_layer_norm.py": "def fused_layer_norm_affine(): ...\n",
}
NO_DEEPSPEED = {"deepspeed/__init__.py": "raise RuntimeError('built for another torch')\n"}


def install(folder: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


def only(*names: str) -> list[Check]:
    return [replace(check, needs=()) for check in CHECKS if check.name in names]


def by_name(findings: list[Finding]) -> dict[str, Finding]:
    return {finding.name: finding for finding in findings}


@pytest.fixture
def read_only(tmp_path: Path) -> Iterator[Path]:
    """A folder in which nobody can write: for a superuser, a file system that is mounted so."""
    folder = tmp_path / "read-only"
    folder.mkdir()
    if os.geteuid() != 0:
        folder.chmod(0o555)
        yield folder
        folder.chmod(0o755)
        return
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "ro,size=64g", "tmpfs", folder], check=False).returncode:
        pytest.skip("this system lets nobody mount a tmpfs")
    yield folder
    subprocess.run(["umount", folder], check=True)


def test_a_machine_with_everything_broken(tmp_path: Path, read_only: Path) -> None:
    packages = install(tmp_path / "packages", APEX | NO_DEEPSPEED)
    (tmp_path / "bin").mkdir()
    environment = {**os.environ, "PATH": str(tmp_path / "bin"), "PYTHONPATH": str(packages), "OMP_NUM_THREADS": THREADS}
    environment["OMP_WAIT_POLICY"] = "passive"  # threads that wait for one another would spin
    environment.pop("CXX", None)
    done = subprocess.run(
        [sys.executable, "-m", "megadape", "doctor", "--json", "--run", read_only / "run"],
        env=environment,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (OPEN_FILES, 2048)),
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 1, done.stderr
    assert "Traceback" not in done.stderr
    report = json.loads(done.stdout)
    assert report["state"] == "problem"
    found = {each["name"]: each for each in report["findings"]}
    assert {name for name, each in found.items() if each["state"] == "problem"} == {
        "compiler",
        "open files",
        "run folder",
        "apex",
        "deepspeed",
    }
    expected = {
        "compiler": ("looked for c++, g++, clang++", "g++"),
        "open files": (f"{OPEN_FILES} at once", "ulimit -n 2048"),
        "run folder": (str(read_only / "run"), "run_dir"),
        "apex": ("another one, not NVIDIA's", "pip uninstall apex"),
        "deepspeed": ("built for another torch", str(packages)),
        "threads": (f"OMP_NUM_THREADS is {THREADS}", "export OMP_NUM_THREADS="),
        "ninja": ("not on PATH", "export PATH=" if Path(sys.executable).with_name("ninja").exists() else "ninja"),
        "deepspeed training": ("needs deepspeed", "mend deepspeed"),
    }
    for name, (seen, remedy) in expected.items():
        assert seen in found[name]["seen"], name
        assert remedy in found[name]["remedy"], name
    assert all(each["remedy"] for each in found.values() if each["state"] != "ok")
    # what is not broken works all the same
    assert {found[name]["state"] for name in ("torch", "attention", "gloo", "training")} == {"ok"}


@pytest.mark.slow
def test_a_sound_machine_is_called_so(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "megadape", "doctor", "--run", tmp_path / "new" / "run"],
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
        env={key: value for key, value in os.environ.items() if key != "PYTHONPATH"},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert not (tmp_path / "new").exists(), "what was made to try is removed"
    for check in CHECKS:
        assert f" {check.name} " in done.stdout
    assert "PROBLEM" not in done.stdout
    assert done.stdout.count("one update and a checkpoint") == 2


def test_an_apex_without_its_kernels_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(install(tmp_path, UNBUILT_APEX)))
    (finding,) = examine_all(only("apex"), Subject(tmp_path))
    assert finding.state == "problem"
    assert "fused_layer_norm_cuda" in finding.seen
    assert "C++ and CUDA extensions" in str(finding.remedy)


LIBRARIES = {
    "kills the process": ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", "SIGSEGV"),
    "leaves": ("import os; os.write(2, b'cannot go on\\n'); os._exit(3)", "exit code 3 (cannot go on)"),
    "hangs": ("import time; time.sleep(1000)", "did not end within"),
    "exits": ("raise SystemExit('no licence')", "no licence"),
    "has nothing": ("", "has no initialize"),
}


def test_what_a_library_does_to_its_process_is_a_finding(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for what, (code, said) in LIBRARIES.items():
        monkeypatch.setenv("PYTHONPATH", str(install(tmp_path / what, {"deepspeed/__init__.py": f"{code}\n"})))
        checks = [replace(check, seconds=3) for check in only("deepspeed", "disk", "python")]
        findings = by_name(list(examine_all([*checks[::-1], *checks[:1]], Subject(tmp_path))))
        assert findings["deepspeed"].state == "problem", what
        assert said in findings["deepspeed"].seen, what
        assert findings["deepspeed"].remedy, what
        assert findings["disk"].state != "problem", "the next check has a new process"


def test_a_check_that_raises_is_a_problem_of_its_name() -> None:
    def look(subject: Subject) -> Iterator[Finding]:
        yield Finding("first", "ok", "seen")
        raise KeyError("MemTotal")

    first, second = examine(Check("meter", look), Subject(Path("runs")))
    assert (first.name, second.name, second.state) == ("first", "meter", "problem")
    assert "test_doctor.py" in second.seen
    assert "MemTotal" in second.seen
    assert second.remedy


def test_too_few_files_even_on_request(tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    code = (
        "import resource; resource.setrlimit(resource.RLIMIT_NOFILE, (200, 200))\n"
        "from pathlib import Path; from megadape.doctor.limits import look_at_open_files\n"
        "from megadape.doctor.base import Subject\n"
        "(finding,) = look_at_open_files(Subject(Path('runs'))); print(finding.state, finding.remedy)"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert said.startswith("problem")
    assert "limits.conf" in said
    assert (soft, hard) == resource.getrlimit(resource.RLIMIT_NOFILE)


def run_folder(path: Path, *, named: bool = True) -> Finding:
    (finding,) = look_at_run_folder(Subject(path, named=named))
    return finding


def test_a_run_folder_that_works_is_left_as_it_was(tmp_path: Path) -> None:
    run = tmp_path / "run"
    (run / "checkpoints").mkdir(parents=True)
    (run / "metrics.jsonl").write_text("{}\n")
    before = sorted(tmp_path.rglob("*"))
    assert run_folder(run).state == "ok"
    assert run_folder(tmp_path / "a/b/c").state == "ok"
    assert sorted(tmp_path.rglob("*")) == before
    assert (run / "metrics.jsonl").read_text() == "{}\n"


def test_run_folders_that_cannot_be_written(tmp_path: Path, read_only: Path) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "run/metrics.jsonl").mkdir(parents=True)
    cases = {
        read_only: "read-only" if os.geteuid() == 0 else "chmod u+rwx",
        read_only / "run": shlex.quote(str(read_only)),
        tmp_path / "file" / "run": "a file has that name",
        tmp_path / "file": "a file has that name",
        tmp_path / "run": "choose another folder",
    }
    for path, remedy in cases.items():
        finding = run_folder(path)
        assert finding.state == "problem", path
        assert str(path) in finding.seen
        assert remedy in str(finding.remedy), (path, finding)
        # nobody asked about the default folder
        assert run_folder(path, named=False).state == "warning"


def test_threads_are_held_against_what_is_granted(monkeypatch: pytest.MonkeyPatch) -> None:
    states = {}
    for asked in ("1", "100000", "many", "0"):
        monkeypatch.setenv("OMP_NUM_THREADS", asked)
        (finding,) = look_at_threads(Subject(Path("runs")))
        states[asked] = finding.state
    assert states == {"1": "ok", "100000": "warning", "many": "warning", "0": "warning"}


def test_without_native_kernels_it_says_why_and_what_is_used_instead(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("megadape.attention.native.library.LIBRARY_NAME", "gone.so")
    (finding,) = look_at_attention(Subject(Path("runs")))
    assert finding.state == "warning"
    assert "backend tiled" in finding.seen
    assert "gone.so is missing" in finding.seen
    assert "pip install" in str(finding.remedy)


@pytest.mark.skipif(isinstance(load(), Missing), reason="the native kernels are not built")
def test_native_kernels_are_held_against_the_reference(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MEGADAPE_NATIVE_ISA", raising=False)
    (finding,) = look_at_attention(Subject(Path("runs")))
    assert finding.state == "ok"
    assert "backend native" in finding.seen
    monkeypatch.setattr("megadape.doctor.processor.TOLERANCE", 0.0)
    assert next(iter(look_at_attention(Subject(Path("runs"))))).state == "problem", "they differ by rounding"
    monkeypatch.setenv("MEGADAPE_NATIVE_ISA", "avx1024")
    (finding,) = look_at_attention(Subject(Path("runs")))
    assert (finding.state, finding.remedy) == ("problem", "unset MEGADAPE_NATIVE_ISA")


GPU = Seen("570.1", ("H100, 80 GiB",), "", "13.0", 1, "", None)


@pytest.mark.parametrize(
    ("seen", "state", "said"),
    [
        (GPU, "ok", "1 of 1 usable"),
        (Seen(None, (), "", None, 0, "", None), "ok", "training on the CPU"),
        (Seen(None, (), "", "13.0", 0, "no driver", None), "warning", "no NVIDIA driver"),
        (replace(GPU, built_for=None, usable=0), "problem", "built for CPUs"),
        (replace(GPU, usable=0, visible=""), "warning", "CUDA_VISIBLE_DEVICES"),
        (replace(GPU, listed=(), complaint="Driver/library version mismatch", usable=0), "problem", "differ"),
        (replace(GPU, usable=0, refusal="RuntimeError: driver too old"), "problem", "driver too old"),
    ],
    ids=["sound", "none", "no driver", "torch for CPUs", "hidden", "mismatch", "too old"],
)
def test_gpus_that_cannot_be_used_are_told_apart(seen: Seen, state: str, said: str) -> None:
    finding = judge(seen)
    assert finding.state == state
    assert said in finding.seen
    assert (finding.remedy is None) == (state == "ok")


def test_the_summary_names_what_is_to_be_mended() -> None:
    ok, warning, problem = Finding("a", "ok", "x"), Finding("b", "warning", "x", "y"), Finding("c", "problem", "x", "y")
    assert (worst([ok]), worst([ok, warning]), worst([problem, warning])) == ("ok", "warning", "problem")
    assert summary([ok]) == "everything is fine"
    assert "no problem" in summary([ok, warning])
    assert "to be mended: c" in summary([ok, warning, problem, problem])
