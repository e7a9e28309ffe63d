"""Runs are listed, followed and drawn from their folders alone, whatever state those are in."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import asdict, replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rich.console import Console
from tiny_runs import ROOT, command
from typer.testing import CliRunner

from megadape.cli import app
from megadape.errors import MonitoringError
from megadape.monitoring.curves import curve_of
from megadape.monitoring.life import look_for_life
from megadape.monitoring.listing import find_runs, list_runs, table_rows
from megadape.monitoring.page import short_names
from megadape.monitoring.rows import Follower, read_tail
from megadape.monitoring.standing import look_at
from megadape.monitoring.view import panel, sparkline
from megadape.training.supervision.heartbeat import Heartbeat, write_heartbeat
from megadape.training.supervision.outcome import write_outcome


def megadape(*words: object) -> tuple[int, str]:
    result = CliRunner().invoke(app, [str(word) for word in words])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, result.output


@pytest.fixture
def runs(trained: Path, tmp_path: Path) -> Path:
    """A copy to damage."""
    return Path(shutil.copytree(trained, tmp_path / "runs"))


def test_the_list_tells_done_from_stopped(trained: Path) -> None:
    code, said = megadape("runs", "--json", trained)
    assert code == 0
    stopped, done = json.loads(said)
    assert (stopped["state"], stopped["step"], stopped["steps"], stopped["exit_code"]) == ("resumable", 3, 6, 75)
    assert stopped["reason"] == "--stop-after-steps 3"
    assert (done["state"], done["step"], done["steps"], done["exit_code"]) == ("done", 5, 5, 0)
    last = json.loads((trained / "done/metrics.jsonl").read_text().splitlines()[-1])
    assert {key: done[key] for key in ("loss", "tokens_per_second", "grad_norm")} == {
        key: last[key] for key in ("loss", "tokens_per_second", "grad_norm")
    }
    rows = [json.loads(line) for line in (trained / "done/metrics.jsonl").read_text().splitlines()]
    assert done["validation_loss"] == rows[3]["validation_loss"]
    code, said = megadape("runs", trained)
    assert "2 runs: 1 resumable, 1 done" in said
    assert str(trained / "sub/stopped") in said


def test_what_holds_no_run_is_named(tmp_path: Path) -> None:
    with pytest.raises(MonitoringError, match="is no folder"):
        list_runs([tmp_path / "nowhere"])
    with pytest.raises(MonitoringError, match="no run in"):
        list_runs([tmp_path])
    assert megadape("runs", tmp_path)[0] == 2
    assert megadape("watch", tmp_path / "nowhere")[0] == 2


def test_links_that_go_round_are_not_followed(runs: Path) -> None:
    (runs / "sub/round").symlink_to(runs)
    (runs / "sub/linked").symlink_to(runs / "done")
    (runs / ".hidden").mkdir()
    shutil.copytree(runs / "done", runs / ".hidden/run")
    found = sorted(str(path.relative_to(runs)) for path in find_runs(runs))
    assert found == ["done", "sub/linked", "sub/stopped"]


def heartbeat(run_dir: Path, **changes: Any) -> Heartbeat:
    """This process as a rank of the run."""
    beat = Heartbeat("now", 0, os.uname().nodename, os.getpid(), 3, "update", 1.0, 300.0, 7, time.time())
    beat = replace(beat, **changes)
    write_heartbeat(run_dir, beat)
    return beat


def at_work(run_dir: Path) -> None:
    """As if it had just been started."""
    shutil.rmtree(run_dir / "heartbeats", ignore_errors=True)
    write_outcome(run_dir, "running", 3, "")


def test_a_run_that_says_that_it_runs_is_believed_as_long_as_it_lives(runs: Path) -> None:
    run = runs / "sub/stopped"
    at_work(run)
    assert look_at(run).state == "running", "it has only just begun"
    heartbeat(run)
    standing = look_at(run)
    assert (standing.state, standing.reason) == ("running", "")
    assert standing.seconds_left is not None
    path = run / "heartbeats/rank-00000.json"
    os.utime(path, (time.time() - 3600,) * 2)
    assert look_at(run).state == "stalled"
    assert "rank 0 is silent for 3600 s" in look_at(run).reason
    heartbeat(run, seconds=400.0)
    assert look_at(run).state == "stalled", "it is at its phase for longer than it may"
    heartbeat(run, pid=2**22 + 1)
    assert look_at(run).state == "resumable"
    assert "killed" in look_at(run).reason
    heartbeat(run, rank=1)
    assert look_at(run).state == "stalled"
    assert "rank 0 is gone" in look_at(run).reason
    heartbeat(run, time=time.time() - 1e9)
    assert look_for_life(run, 5.0).life == "partly gone", "a process younger than the heartbeat is another one"
    heartbeat(run, host="elsewhere", pid=1)
    assert look_at(run).state == "running"
    heartbeat(run, rank=1, host="elsewhere", pid=1, phase="end")
    heartbeat(run, phase="end")
    assert look_at(run).state == "running", "it is about to say how it ended"
    heartbeat(run, phase="end", pid=2**22 + 1)
    path = run / "heartbeats/rank-00001.json"
    os.utime(path, (time.time() - 60,) * 2)
    assert look_at(run).state == "resumable", "interrupted: nobody has said how it ended"


def test_a_suspended_process_is_seen_at_once(runs: Path) -> None:
    run, sleeper = runs / "sub/stopped", subprocess.Popen(["sleep", "100"])
    try:
        at_work(run)
        heartbeat(run, pid=sleeper.pid)
        assert look_at(run).state == "running"
        sleeper.send_signal(signal.SIGSTOP)
        os.waitpid(sleeper.pid, os.WUNTRACED)
        standing = look_at(run)
        assert standing.state == "stalled"
        assert f"kill -CONT {sleeper.pid}" in standing.reason
    finally:
        sleeper.kill()
        sleeper.wait()


DAMAGE = {
    "no outcome": ("outcome.json", None, "no outcome.json"),
    "half an outcome": ("outcome.json", b'{"state": "do', "outcome.json cannot be read"),
    "another outcome": ("outcome.json", b'{"state": "done"}', "outcome.json cannot be read"),
    "no settings": ("settings.yaml", None, "no settings.yaml"),
    "no YAML": ("settings.yaml", b"a: [", "settings.yaml cannot be read"),
    "no text": ("settings.yaml", b"\xff\xfe\x00\x01", "settings.yaml"),
    "other settings": ("settings.yaml", b"- 1\n- 2\n", "no training.steps"),
    "no metrics": ("metrics.jsonl", None, ""),
    "zeros": ("metrics.jsonl", b"\0" * 5000 + b"\n", ""),
    "wrong types": ("metrics.jsonl", b'{"step": 4, "loss": "x", "seconds": [], "grad_norm": NaN}\n', ""),
    "a heartbeat of nothing": ("heartbeats/rank-00000.json", b"[1]", ""),
}


@pytest.mark.parametrize(("name", "content", "said"), DAMAGE.values(), ids=DAMAGE)
def test_a_damaged_folder_is_named_and_shown(runs: Path, name: str, content: bytes | None, said: str) -> None:
    path = runs / "done" / name
    path.unlink(missing_ok=True)
    if content is not None:
        path.write_bytes(content)
    standing = look_at(runs / "done")
    assert said in standing.reason
    assert (standing.state == "unknown") == (name == "outcome.json")
    assert len(table_rows([standing])[0]) == 9
    code, text = megadape("runs", runs)
    assert (code, "Traceback" in text) == (0, False)
    assert megadape("watch", "--once", runs / "done")[0] == 0
    code, text = megadape("runs", runs / "done", "--page", runs / "page.html")
    assert code == 0, text
    assert "<h1>done</h1>" in (runs / "page.html").read_text()


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.sampled_from(["outcome.json", "settings.yaml", "metrics.jsonl", "heartbeats/rank-00000.json"]),
    st.one_of(
        st.binary(max_size=80),
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
            lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
            max_leaves=6,
        ).map(lambda value: json.dumps(value).encode() + b"\n"),
    ),
)
def test_whatever_a_file_holds_nothing_is_raised(trained: Path, name: str, content: bytes) -> None:
    path = trained / "sub/stopped" / name
    before = path.read_bytes()
    try:
        path.write_bytes(content)
        standing = look_at(trained / "sub/stopped")
        json.dumps(asdict(standing), default=str)
        table_rows([standing])
        Console(file=open(os.devnull, "w")).print(panel(standing, {}))  # noqa: SIM115, PTH123
    finally:
        path.write_bytes(before)


VALUES = st.one_of(st.none(), st.text(max_size=3), st.floats(), st.lists(st.integers(), max_size=2))


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.dictionaries(st.sampled_from([*Heartbeat.__annotations__]), VALUES, max_size=3),
    st.dictionaries(st.sampled_from(["state", "exit_code", "step", "reason", "time", "job"]), VALUES, max_size=2),
)
def test_whatever_stands_in_the_right_places_nothing_is_raised(
    trained: Path, beat: dict[str, Any], said: dict[str, Any]
) -> None:
    run = trained / "sub/stopped"
    files = {run / "heartbeats/rank-00000.json": beat, run / "outcome.json": {"state": "running", **said}}
    before = {path: path.read_bytes() for path in files}
    try:
        for path, changes in files.items():
            path.write_text(json.dumps({**json.loads(before[path]), **changes}))
        standing = look_at(run)
        table_rows([standing])
        Console(file=open(os.devnull, "w")).print(panel(standing, {}))  # noqa: SIM115, PTH123
    finally:
        for path, content in before.items():
            path.write_bytes(content)


def test_a_follower_reads_each_row_once_and_a_new_file_anew(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    follower = Follower(path)
    assert follower.update() == []
    with path.open("w") as file:
        for step in range(1, 4):
            file.write(json.dumps({"step": step, "loss": 1.0}) + "\n")
        file.write('{"step": 4, "lo')
        file.flush()
        assert [row["step"] for row in follower.update()] == [1, 2, 3]
        assert follower.update() == []
        file.write('ss": 2.0}\n')
    assert [row["loss"] for row in follower.update()] == [2.0]
    again = tmp_path / "again"
    again.write_text("".join(json.dumps({"step": step, "loss": 3.0 if step == 2 else 1.0}) + "\n" for step in (1, 2)))
    again.replace(path)
    assert [(row["step"], row["loss"]) for row in follower.update()] == [(2, 3.0)]
    assert sorted(follower.rows) == [1, 2]


def test_of_a_long_file_the_newest_rows_are_read(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text("".join(json.dumps({"step": step, "loss": 1.5, "seconds": 0.1}) + "\n" for step in range(1, 9001)))
    steps = [row["step"] for row in read_tail(path)]
    assert steps == list(range(steps[0], 9001))
    assert 1000 < len(steps) < 2000


def test_a_sparkline_falls_as_the_loss_does() -> None:
    assert sparkline([3.0, 2.0, 1.0]) == "█▅▁"
    assert len(sparkline(list(range(1000)))) == 48
    assert sparkline([1.0, 1.0]) == "▁▁"
    assert sparkline([]) == "-"


def test_a_long_curve_is_thinned_and_keeps_its_extremes() -> None:
    rows = [{"step": step, "loss": 100.0 if step == 777 else 1.0} for step in range(1, 5001)]
    curve = curve_of([*rows, {"step": 5001, "loss": None}], "loss", 300)
    assert curve is not None
    assert len(curve.steps) == 300
    assert max(curve.high) == 100.0
    assert curve.thinned
    assert curve_of(rows, "validation_loss") is None


class Links(HTMLParser):
    """Everything that a page would load."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.loaded: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.loaded += [value or "" for name, value in attrs if name in ("src", "href", "data")]
        assert tag not in ("script", "link", "iframe")


def test_the_page_holds_its_pictures(trained: Path, tmp_path: Path) -> None:
    code, said = megadape("runs", trained, "--page", tmp_path / "all.html")
    assert code == 0, said
    text = (tmp_path / "all.html").read_text()
    loaded = Links(text).loaded
    assert len(loaded) == 5, "loss, validation loss, learning rate, gradient norm, speed"
    assert all(link.startswith("data:image/svg+xml;base64,") for link in loaded)
    assert all(name in text for name in ("done", "stopped", "resumable"))
    assert "1 resumable, 1 done" in text
    assert megadape("runs", trained, "--page", tmp_path / "all.txt")[0] == 2
    code, said = megadape("watch", "--once", trained / "sub/stopped", "--page", tmp_path / "one.html")
    assert len(Links((tmp_path / "one.html").read_text()).loaded) == 4, "no validation"


def test_names_on_a_page_tell_runs_apart() -> None:
    folders = [Path("/r/a/run"), Path("/r/b/run"), Path("/r/b/run")]
    assert short_names(folders) == {"a/run": folders[0], "b/run": folders[1]}
    assert list(short_names(folders[:1])) == ["run"]


def test_a_run_that_has_ended_is_told_with_its_exit_code(trained: Path, runs: Path) -> None:
    code, said = megadape("watch", trained / "done")
    assert (code, "exit code 0" in said) == (0, True)
    code, said = megadape("watch", trained / "sub/stopped")
    assert code == 75
    assert "resumable after step 3, exit code 75: --stop-after-steps 3" in said
    write_outcome(runs / "done", "failed", 5, "the loss is no number")
    code, said = megadape("watch", runs / "done")
    assert (code, "the loss is no number" in said) == (1, True)
    at_work(runs / "done")
    heartbeat(runs / "done", pid=2**22 + 1)
    code, said = megadape("watch", runs / "done")
    assert (code, "it was killed" in said) == (75, True)


def test_the_terminal_shows_the_newest_numbers(trained: Path) -> None:
    console = Console(force_terminal=True, width=100, record=True, file=open(os.devnull, "w"))  # noqa: SIM115, PTH123
    console.print(panel(look_at(trained / "done"), {1: {"step": 1, "loss": 2.0}, 2: {"step": 2, "loss": 1.0}}))
    text = console.export_text()
    loss = json.loads((trained / "done/metrics.jsonl").read_text().splitlines()[-1])["loss"]
    for expected in (f"{loss:.4f}", "step 5/5", "100 %", "█▁", "tokens/s", "MiB"):
        assert expected in text


@pytest.mark.slow
def test_a_real_run_is_followed_from_its_first_steps_to_its_end(corpus: Path, tmp_path: Path) -> None:
    run_dir, page = tmp_path / "run", tmp_path / "page.html"
    run_dir.mkdir()
    words = command(run_dir, corpus, "training.steps=1000000", "checkpoint.save_every=100000")
    trainer = subprocess.Popen(words, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    try:
        deadline = time.monotonic() + 120
        while look_at(run_dir).step < 3 and time.monotonic() < deadline:
            assert trainer.poll() is None, trainer.communicate()[1]
            time.sleep(0.1)
        standing = look_at(run_dir)
        assert (standing.state, standing.steps) == ("running", 1000000)
        watcher = subprocess.Popen(
            [sys.executable, "-m", "megadape", "watch", run_dir, "--page", page, "--every", "0.5"],
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
        )
        while not page.exists() and time.monotonic() < deadline:
            time.sleep(0.1)
        trainer.send_signal(signal.SIGTERM)
        said, _ = watcher.communicate(timeout=60)
        assert trainer.wait(timeout=60) == 75
    finally:
        trainer.kill()
    assert watcher.returncode == 75
    assert re.search(r"running {2}step \d+/1000000 {2}loss \d", said), said
    assert "exit code 75: SIGTERM on rank 0" in said


def test_listing_waits_for_no_torch(trained: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from megadape.monitoring.listing import list_runs\n"
        "list_runs([Path(sys.argv[1])]); import megadape.monitoring.watching\n"
        "print(sorted({'torch', 'deepspeed', 'pydantic', 'matplotlib'} & set(sys.modules)))"
    )
    result = subprocess.run([sys.executable, "-c", code, trained], capture_output=True, text=True, check=True)
    assert "torch" not in result.stdout
    assert "matplotlib" not in result.stdout
