"""The bytes are those of the plainest program, whatever the texts, the format, the blocks, the workers, the kills."""

from __future__ import annotations

import json
import os
import random
import signal
import tempfile
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from preprocess_examples import WRITERS, frames, in_a_process, json_lines, pair, reference

from megadape.data import DatasetManifest, load_manifest, preprocess_files
from megadape.faults import POINTS, VARIABLE

TEXTS = st.one_of(
    st.text(),
    st.sampled_from(["", "<|endoftext|>", "</s>", "\0", "\u2028", '"]},{"text": "', "\\", "\r\n", "\ufeff"]),
    st.text(min_size=1).map(lambda text: (text * 300)[:300]),
)


def numbers(manifest: DatasetManifest) -> tuple[int, int, int, int]:
    return manifest.records, manifest.documents, manifest.bad, manifest.passed_over


@pytest.mark.parametrize("form", WRITERS)
@given(
    texts=st.lists(TEXTS, min_size=1, max_size=12).filter(any),
    block=st.sampled_from([7, 64, 1000]),
    shard=st.sampled_from([300, 1000, 5000]),
)
@settings(max_examples=12)
def test_every_format_gives_the_bytes_of_the_reference(form: str, texts: list[str], block: int, shard: int) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "in").mkdir()
        WRITERS[form](folder / "in", texts)
        if form == "txt":
            texts = [text.removeprefix("\ufeff") for text in texts]
        manifest = preprocess_files(
            [folder / "in"], folder / "out", append_eod=True, block_bytes=block, shard_bytes=shard
        )
        assert pair(folder / "out") == reference(texts)
        assert numbers(manifest) == (len(texts), len(texts), 0, 0)
        assert manifest.empty_documents == texts.count("")
        assert sorted(path.name for path in folder.iterdir()) == ["in", "out.bin", "out.idx", "out.json"]


SEPARATORS = {"": "\n\n", "<sep>": "\n<sep>\n"}


@pytest.mark.parametrize("separator", SEPARATORS)
@pytest.mark.parametrize("compressed", [False, True])
@given(
    texts=st.lists(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\r\n\ufeff")), min_size=1),
    block=st.sampled_from([3, 30, 1000]),
    last=st.sampled_from(["", "\n"]),
)
@settings(max_examples=20)
def test_documents_between_separator_lines(
    separator: str, compressed: bool, texts: list[str], block: int, last: str
) -> None:
    texts = [f"{text}\u00fc\nand {text}x" for text in texts]
    with tempfile.TemporaryDirectory() as name:
        content = (SEPARATORS[separator].join(texts) + last).encode()
        path = Path(name) / ("a.txt.zst" if compressed else "a.txt")
        path.write_bytes(frames(content) if compressed else content)
        options: dict[str, Any] = {"document_separator": separator, "block_bytes": block, "shard_bytes": 300}
        manifest = preprocess_files([path], Path(name) / "out", append_eod=True, **options)
        assert pair(Path(name) / "out") == reference(texts)
        assert manifest.documents == len(texts)


def mixed_corpus(folder: Path, count: int = 240) -> list[str]:
    """The same kind of texts in four formats; all texts in their order."""
    order = random.Random(1)
    texts = [f"{n} " + "wörd <|endoftext|> " * order.randrange(40) if n % 9 else "" for n in range(count)]
    folder.mkdir()
    part = count // 4
    (folder / "a.jsonl").write_bytes(json_lines(texts[:part]))
    (folder / "b.jsonl.zst").write_bytes(frames(json_lines(texts[part : 2 * part])))
    (folder / "c.json").write_text(json.dumps([{"text": text} for text in texts[2 * part : 3 * part]]))
    for number, text in enumerate(texts[3 * part :]):
        (folder / f"d{number:03d}.txt").write_text(text)
    return texts


def outputs(prefix: Path, endings: Sequence[str] = ("bin", "idx", "json", "quarantine.jsonl")) -> list[bytes]:
    return [path.read_bytes() for e in endings if (path := prefix.with_name(f"{prefix.name}.{e}")).exists()]


def test_any_number_of_workers_and_any_mixture_of_formats(tmp_path: Path) -> None:
    texts = mixed_corpus(tmp_path / "in")
    (tmp_path / "in" / "e.jsonl").write_bytes(b'{"text": 1}\n' + json_lines(["more"]) + b"\xff\n")
    found = []
    for workers in (1, 2, 3):
        prefix = tmp_path / str(workers) / "out"
        options: dict[str, Any] = {"on_bad_line": "quarantine", "block_bytes": 700, "shard_bytes": 9000}
        manifest = preprocess_files([tmp_path / "in"], prefix, append_eod=True, workers=workers, **options)
        assert numbers(manifest) == (len(texts) + 3, len(texts) + 1, 2, 0)
        assert pair(prefix) == reference([*texts, "more"])
        found.append(outputs(prefix))
    assert found[0] == found[1] == found[2]
    assert len(found[0]) == 4


KILLED = [point for point in POINTS if point.startswith("preprocess.")]
"""Places at which a run can be killed."""


def kill_once(prefix: Path, run: partial[DatasetManifest], order: random.Random) -> bool:
    """Go on with the work and kill it somewhere; whether it was killed before its end."""
    point = order.choice([*KILLED, *[""] * 4])
    count = order.choice([1, 2, 3, 7])
    pid = in_a_process(partial(run, resume=True), {VARIABLE: f"{point}=kill@{count}"} if point else {})
    if not point:
        time.sleep(order.random() * 0.15)
        os.kill(pid, signal.SIGKILL)
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    assert status in (0, -signal.SIGKILL)
    return status != 0


def test_a_run_that_is_killed_again_and_again_makes_the_same_bytes(
    tmp_path: Path, record_property: pytest.RecordProperty
) -> None:
    mixed_corpus(tmp_path / "in")
    options: dict[str, Any] = {"block_bytes": 600, "shard_bytes": 2500, "append_eod": True, "on_bad_line": "quarantine"}
    with (tmp_path / "in" / "a.jsonl").open("ab") as file:
        file.write(b"broken\n")
    preprocess_files([tmp_path / "in"], tmp_path / "whole" / "out", **options)
    wanted = outputs(tmp_path / "whole" / "out")
    prefix, order, kills, finished = tmp_path / "killed" / "out", random.Random(5), 0, 0
    run = partial(preprocess_files, [tmp_path / "in"], prefix, **options)
    while kills < 20:
        if kill_once(prefix, run, order):
            kills += 1
        if kills == 20 or order.random() < 0.15:
            run(resume=True)
            assert outputs(prefix) == wanted
            assert sorted(path.name for path in prefix.parent.iterdir()) == [
                "out.bin",
                "out.idx",
                "out.json",
                "out.quarantine.jsonl",
            ]
            for path in prefix.parent.iterdir():
                path.unlink()
            finished += 1
    assert load_manifest(tmp_path / "whole" / "out", verify=True).bad == 1
    assert finished > 1
    record_property("trials", f"{kills} kills of a preprocessing, each resumed")


@pytest.mark.parametrize("point", KILLED)
def test_a_kill_at_every_point(tmp_path: Path, point: str) -> None:
    texts = mixed_corpus(tmp_path / "in", 40)
    options: dict[str, Any] = {"block_bytes": 300, "shard_bytes": 1200, "append_eod": True}
    run = partial(preprocess_files, [tmp_path / "in"], tmp_path / "out", **options)
    pid = in_a_process(
        run, {VARIABLE: f"{point}=kill@2" if point.startswith("preprocess.before_e") else f"{point}=kill"}
    )
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL
    run(resume=True)
    assert pair(tmp_path / "out") == reference(texts)
    assert load_manifest(tmp_path / "out", verify=True).documents == 40
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in", "out.bin", "out.idx", "out.json"]
