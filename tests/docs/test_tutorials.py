"""The tutorials, executed from their own text: files are written, changes applied, commands run, in order.

A block of ``sh`` runs in the tutorial's folder; a block with a file's name as its caption is that file; one whose
caption begins with "Not executed" is for readers alone.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from pages import ROOT, TUTORIALS, Block, blocks, logical_lines
from typer.testing import CliRunner

NOT_EXECUTED = "Not executed"
SECONDS = 240
PLAIN = re.compile(r"megadape [^|><;&$*`()#]+( > [\w.]+)?")
COMPOUND = re.compile(r"(for|while|if) ")

pytestmark = pytest.mark.timeout(900)


def prepare(folder: Path, page: Path) -> None:
    """A folder like a clone: only what a tutorial may change is a copy."""
    for name in ("tools", "slurm"):
        (folder / name).symlink_to(ROOT / name)
    shutil.copytree(ROOT / "configs", folder / "configs")
    if any(block.caption.startswith("megadape/") for block in blocks(page)):
        shutil.copytree(ROOT / "megadape", folder / "megadape", ignore=shutil.ignore_patterns("__pycache__"))


def write(folder: Path, block: Block) -> None:
    """The file that a block shows, or the change of one."""
    target = folder / block.caption
    if block.language == "diff":
        command = ["git", "apply", "--unidiff-zero", "-"]
        environment = {**os.environ, "GIT_CEILING_DIRECTORIES": str(folder.parent)}
        done = subprocess.run(
            command, input=block.text, text=True, cwd=folder, env=environment, capture_output=True, check=False
        )
        assert done.returncode == 0, done.stderr
        return
    assert target.parent.is_dir(), f"{target.parent} is not there"
    target.write_text(block.text)


def run_shell(folder: Path, text: str) -> str:
    """A block as a shell runs it, with this interpreter's programs."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "120"}
    environment["PATH"] = f"{Path(sys.executable).parent}:{environment['PATH']}"
    command = ["bash", "-euo", "pipefail", "-c", text]
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=SECONDS, check=False
    )
    assert done.returncode == 0, f"{text}\n{done.stdout}\n{done.stderr}"
    return done.stdout + done.stderr


def run_here(folder: Path, line: str) -> str:
    """A plain command of megadape in this process, which has imported everything already."""
    from megadape.cli import app

    command, _, file = line.partition(" > ")
    result = CliRunner().invoke(app, shlex.split(command)[1:])
    assert result.exit_code == 0, f"{line}\n{result.output}\n{result.exception!r}"
    if file:
        (folder / file).write_text(result.stdout)
    return result.output


def run_block(folder: Path, text: str) -> str:
    """A block line by line, or as a whole where its lines are parts of a loop."""
    lines = list(logical_lines(text))
    if any(COMPOUND.match(line) for line in lines):
        return run_shell(folder, text)
    return "".join(run_here(folder, line) if PLAIN.fullmatch(line) else run_shell(folder, line) for line in lines)


def follow(page: Path, folder: Path) -> str:
    """Everything that a tutorial says, done; what the commands said."""
    prepare(folder, page)
    said = ""
    for block in blocks(page):
        if block.caption.startswith(NOT_EXECUTED):
            continue
        if block.caption:
            write(folder, block)
        elif block.language == "sh":
            said += run_block(folder, block.text)
    return said


def open_tutorial(name: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.chdir(folder)
    page = next(page for page in TUTORIALS if page.stem == name)
    return follow(page, folder)


@pytest.mark.slow
def test_own_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said = open_tutorial("own-text", tmp_path, monkeypatch)
    assert re.search(r"8192 +│ +\d", said), said
    assert list((tmp_path / "runs/books/evaluation").glob("heads-*.png"))


@pytest.mark.slow
def test_study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said = open_tutorial("study", tmp_path, monkeypatch)
    assert said.count("all 2 runs are done; now: ") == 2
    report = (tmp_path / "studies/my-study/report/report.md").read_text()
    assert "dape-kerple" in report


def test_new_encoding(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said = open_tutorial("new-encoding", tmp_path, monkeypatch)
    assert "reference" in said.partition("equal:")[2]
    assert "the settings are valid" in said


@pytest.mark.slow
@pytest.mark.usefixtures("all_cores")
def test_layouts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said = open_tutorial("layouts", tmp_path, monkeypatch)
    assert '"resumable"' in said
    assert "latest_universal" in said


def test_slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said = open_tutorial("slurm", tmp_path, monkeypatch)
    assert "#SBATCH --account=my-project" in said
    assert "gpu-a007" in said


def test_every_tutorial_is_followed() -> None:
    tests = {name.removeprefix("test_").replace("_", "-") for name in globals() if name.startswith("test_")}
    assert {page.stem for page in TUTORIALS} <= tests
    for page in TUTORIALS:
        unknown = [block for block in blocks(page) if block.language in ("bash", "shell", "console")]
        assert not unknown, f"{page.name}: a block is executed if its language is sh"
