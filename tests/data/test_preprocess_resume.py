"""A killed run: gone on with when asked, kept otherwise, never mixed with other work, never written by two at once."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from preprocess_examples import in_a_process, json_lines, pair, reference

from megadape.data import Interrupted, Progress, load_manifest, preprocess_files
from megadape.data.preprocessing.journal import Journal
from megadape.data.tokenizers.train import TrainTokenizerSettings, train_tokenizer
from megadape.errors import DataError
from megadape.faults import VARIABLE

TOOL = Path(__file__).parents[2] / "tools" / "preprocess_data.py"
TEXTS = [f"{n} " + "word " * (n % 50) for n in range(400)]
OPTIONS: dict[str, Any] = {"append_eod": True, "block_bytes": 1000, "shard_bytes": 5000}
PARTIAL = ".out.partial"


def corpus(folder: Path) -> Path:
    path = folder / "x.jsonl"
    path.write_bytes(json_lines(TEXTS))
    return path


def kill(call: Callable[[], object], fault: str) -> None:
    pid = in_a_process(call, {VARIABLE: fault})
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL


@pytest.fixture
def killed(tmp_path: Path) -> partial[Any]:
    """A run that was killed when three shards were done, and the means to start it again."""
    run = partial(preprocess_files, [corpus(tmp_path)], tmp_path / "out", **OPTIONS)
    kill(run, "preprocess.after_mark=kill@3")
    return run


def test_what_is_left_is_gone_on_with_when_asked_and_only_then(
    tmp_path: Path, killed: partial[Any], caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(
        DataError, match=r"out: an unfinished preprocessing is there, 3 of \d+ shards done.*--no-resume"
    ):
        killed()
    seen: list[Progress] = []
    with caplog.at_level(logging.INFO):
        killed(resume=True, progress=seen.append)
    assert "going on, 3 of" in caplog.text
    assert seen[0].resumed_documents > 50
    assert seen[-1].documents == 400
    assert seen[-1].fraction == 1
    assert seen[-1].documents_per_second * seen[-1].seconds == pytest.approx(400 - seen[-1].resumed_documents)
    assert pair(tmp_path / "out") == reference(TEXTS)


def test_what_is_left_is_discarded_when_asked(
    tmp_path: Path, killed: partial[Any], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        killed(resume=False)
    assert "it is discarded" in caplog.text
    assert pair(tmp_path / "out") == reference(TEXTS)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.bin", "out.idx", "out.json", "x.jsonl"]


def test_nothing_left_to_do(tmp_path: Path, killed: partial[Any], caplog: pytest.LogCaptureFixture) -> None:
    first = killed(resume=True)
    written = (tmp_path / "out.bin").stat().st_mtime_ns
    with caplog.at_level(logging.INFO):
        assert killed(resume=True) == first
        assert "nothing to do" in caplog.text
        assert (tmp_path / "out.bin").stat().st_mtime_ns == written
    (tmp_path / "x.jsonl").touch()
    killed(resume=True)
    assert (tmp_path / "out.bin").stat().st_mtime_ns > written
    assert killed(resume=True, append_eod=False).tokens < first.tokens


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"append_eod": False}, "append_eod was true and is false"),
        ({"json_key": "body"}, r'json_keys was \["text"\] and is \["body"\]'),
        ({"where": {"n": ("1",)}}, r'where was {} and is {"n": \["1"\]}'),
        ({"max_line_bytes": 7}, "max_line_bytes was 268435456 and is 7"),
        ({"block_bytes": 999}, "block_bytes was 1000 and is 999"),
        ({"tokenizer": "sentencepiece"}, "tokenizer was byte, digest .* and is sentencepiece .*, digest"),
        ({"more": True}, r"more\.txt was not among the inputs"),
        ({"touched": True}, r"x\.jsonl has changed since"),
    ],
)
def test_other_work_is_refused_with_the_difference(
    tmp_path: Path, killed: partial[Any], change: dict[str, Any], message: str
) -> None:
    options, inputs = dict(change), [tmp_path / "x.jsonl"]
    if options.pop("more", False):
        (tmp_path / "more.txt").write_text("more")
        inputs.append(tmp_path / "more.txt")
    if options.pop("touched", False):
        with inputs[0].open("ab") as file:
            file.write(json_lines(["more"]))
    if "tokenizer" in options:
        train_tokenizer(TrainTokenizerSettings(inputs=(inputs[0],), output=tmp_path / "t", vocab_size=300))
        options["tokenizer_options"] = {"model": tmp_path / "t"}
    with pytest.raises(DataError, match=f"but of other work: .*{message}"):
        preprocess_files(inputs, tmp_path / "out", **{**OPTIONS, **options}, resume=True)
    assert Journal(tmp_path / PARTIAL).read() is not None


def test_the_number_of_workers_and_the_treatment_of_bad_lines_may_change(tmp_path: Path) -> None:
    path = corpus(tmp_path)
    with path.open("ab") as file:
        file.write(b"bad\n" + json_lines(["end"]))
    run = partial(preprocess_files, [path], tmp_path / "out", **OPTIONS)
    with pytest.raises(DataError, match=r"line 401: not valid JSON .*\(\d+ of \d+ shards done: --resume goes on from"):
        run()
    kill(partial(run, resume=True, on_bad_line="skip", shard_bytes=5000), "preprocess.before_manifest=kill")
    assert run(resume=True, on_bad_line="quarantine", workers=2).bad == 1
    assert pair(tmp_path / "out") == reference([*TEXTS, "end"])


def test_but_not_once_one_was_met(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    path.write_bytes(b"bad\n" + json_lines(TEXTS))
    run = partial(preprocess_files, [path], tmp_path / "out", **OPTIONS)
    kill(partial(run, on_bad_line="skip"), "preprocess.after_mark=kill@2")
    with pytest.raises(DataError, match="on_bad_line was skip and is quarantine"):
        run(resume=True, on_bad_line="quarantine")
    assert run(resume=True, on_bad_line="skip").bad == 1


def test_a_treatment_that_was_changed_is_the_one_that_counts(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    path.write_bytes(json_lines(TEXTS[:200]) + b"bad\n" + json_lines(TEXTS[200:]))
    run = partial(preprocess_files, [path], tmp_path / "out", **OPTIONS)
    with pytest.raises(DataError, match="line 201: not valid JSON"):
        run()
    kill(partial(run, resume=True, on_bad_line="skip"), "preprocess.before_manifest=kill")
    with pytest.raises(DataError, match="on_bad_line was skip and is error"):
        run(resume=True)
    assert run(resume=True, on_bad_line="skip").bad == 1
    assert pair(tmp_path / "out") == reference(TEXTS)


def test_damage_to_what_was_left_is_found(tmp_path: Path, killed: partial[Any]) -> None:
    data = tmp_path / PARTIAL / "out.bin"
    content = bytearray(data.read_bytes())
    content[10] ^= 1
    data.write_bytes(content)
    with pytest.raises(
        DataError, match=r"out\.bin is not what the killed run wrote there: start again with --no-resume"
    ):
        killed(resume=True)
    data.unlink()
    with pytest.raises(DataError, match=r"\.out\.partial lacks files of the killed run"):
        killed(resume=True)
    killed(resume=False)
    assert pair(tmp_path / "out") == reference(TEXTS)


def test_a_torn_mark_does_not_count(tmp_path: Path, killed: partial[Any]) -> None:
    journal = tmp_path / PARTIAL / "journal.jsonl"
    lines = journal.read_bytes().splitlines(keepends=True)
    for torn in (lines[2][:-1], lines[2][:20], b"\0" * 100):
        journal.write_bytes(b"".join(lines[:2]) + torn)
        mark = Journal(journal.parent).read()
        assert mark is not None
        assert mark.shard == 2
        assert journal.read_bytes() == b"".join(lines[:2])
    killed(resume=True)
    assert pair(tmp_path / "out") == reference(TEXTS)


def test_two_runs_do_not_write_the_same_dataset(tmp_path: Path) -> None:
    path = corpus(tmp_path)
    run = partial(preprocess_files, [path], tmp_path / "out", **OPTIONS)
    refused: list[str] = []

    def try_another(_: Progress) -> None:
        if not refused:
            with pytest.raises(DataError, match="out is being written by process") as error:
                run()
            refused.append(str(error.value))

    run(progress=try_another)
    assert f"process {os.getpid()} on " in refused[0]
    assert pair(tmp_path / "out") == reference(TEXTS)


def test_an_interruption_says_what_is_kept(tmp_path: Path) -> None:
    run = partial(preprocess_files, [corpus(tmp_path)], tmp_path / "out", **OPTIONS)

    def interrupt(after: int, progress: Progress) -> None:
        if progress.documents > after:
            raise KeyboardInterrupt

    with pytest.raises(Interrupted, match="nothing was written"):
        run(progress=partial(interrupt, 0))
    assert [path.name for path in tmp_path.iterdir()] == ["x.jsonl"]
    with pytest.raises(Interrupted, match=r"\d+ of \d+ shards done: --resume goes on from there"):
        run(progress=partial(interrupt, 200))
    run(resume=True)
    assert pair(tmp_path / "out") == reference(TEXTS)


def test_a_source_that_changes_under_way_is_an_error(tmp_path: Path) -> None:
    path = corpus(tmp_path)

    def grow(progress: Progress) -> None:
        with path.open("ab") as file:
            file.write(b"\n")

    with pytest.raises(DataError, match=r"x\.jsonl has changed while it was read"):
        preprocess_files([path], tmp_path / "out", progress=grow, **OPTIONS)
    assert not (tmp_path / "out.bin").exists()


def test_a_full_disk_keeps_what_is_done(tmp_path: Path) -> None:
    run = partial(preprocess_files, [corpus(tmp_path)], tmp_path / "out", **OPTIONS)
    os.environ[VARIABLE] = "preprocess.before_flush=disk_full@4"
    try:
        with pytest.raises(OSError, match="No space left"):
            run()
    finally:
        del os.environ[VARIABLE]
    run(resume=True)
    assert pair(tmp_path / "out") == reference(TEXTS)


def test_a_killed_worker_and_a_resumed_run_of_the_tool(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    path.write_bytes(json_lines(TEXTS * 30))
    words = [sys.executable, str(TOOL), "--input", str(path), "--output-prefix", str(tmp_path / "out" / "x")]
    words += ["--tokenizer-type", "byte", "--append-eod", "--workers", "2", "--resume"]
    tool = partial(subprocess.run, words, capture_output=True, text=True, check=False, timeout=120)
    done = tool(env={**os.environ, VARIABLE: "preprocess.before_encode=kill"})
    assert done.returncode == 2
    assert "was killed by signal 9, as the system does when memory runs out" in done.stderr
    done = tool(env={**os.environ, VARIABLE: "preprocess.after_complete=kill"})
    assert done.returncode == -signal.SIGKILL
    done = tool()
    assert done.returncode == 0, done.stderr
    assert "going on, complete but for its last step" in done.stderr
    prefix = tmp_path / "out" / "x_text_document"
    assert pair(prefix) == reference(TEXTS * 30)
    assert load_manifest(prefix, verify=True).records == 12_000
