"""Parts made apart and merged give the files of a plain run, byte for byte, whatever is killed, and of nothing else."""

from __future__ import annotations

import json
import logging
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from itertools import combinations_with_replacement, pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from preprocess_examples import WRITERS, in_a_process, json_lines, pair, reference

from megadape.data import Part, PreprocessSettings, Progress, load_manifest, preprocess_keys
from megadape.data.preprocess import merge_parts, preprocess_part, run_command
from megadape.data.preprocessing.arguments import preprocess_settings
from megadape.data.reading.formats import CutOptions
from megadape.data.reading.plan import Plan, Shard, plan_corpus
from megadape.data.reading.records import Selection
from megadape.data.reading.shares import divide
from megadape.errors import DataError
from megadape.faults import POINTS, VARIABLE

TOOL = Path(__file__).parents[2] / "tools" / "preprocess_data.py"
TEXTS = [f"{n} " + "word " * (n % 50) for n in range(400)]
OPTIONS: dict[str, Any] = {"append_eod": True, "block_bytes": 1000, "shard_bytes": 5000}
BROKEN = [b"broken", b"[1]", b'{"no": "text"}', b'{"text": 7}', b"\xff\xfe", b'{"text": "\\ud800"}']


def settings_of(folder: Path, inputs: Sequence[Path] | None = None, **options: Any) -> PreprocessSettings:
    """Of the corpus ``folder/in`` into ``folder/out``."""
    prefix = options.pop("prefix", folder / "out")
    return preprocess_settings(inputs or [folder / "in"], prefix, "byte", {}, **{**OPTIONS, **options})


def files(folder: Path) -> dict[str, bytes | None]:
    """Everything in a folder, hidden or not."""
    return {path.name: path.read_bytes() if path.is_file() else None for path in folder.iterdir()}


def made_whole(folder: Path, **options: Any) -> dict[str, bytes | None]:
    """What one process makes of the same corpus, elsewhere under the same name."""
    preprocess_keys(settings_of(folder, prefix=folder / "whole" / "out", **options))
    return files(folder / "whole")


def make_all(what: PreprocessSettings, count: int, order: Sequence[int] | None = None) -> None:
    for number in order or range(1, count + 1):
        preprocess_part(what, Part(number, count))


def kill(call: Callable[[], object], fault: str) -> None:
    pid = in_a_process(call, {VARIABLE: fault})
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    """A folder with one file of 400 documents, and the means to preprocess it."""
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "x.jsonl").write_bytes(json_lines(TEXTS))
    return tmp_path


def with_bad_lines(content: bytes, places: Sequence[int]) -> bytes:
    lines = content.splitlines(keepends=True)
    for number, place in enumerate(places):
        lines.insert(place % (len(lines) + 1), BROKEN[number % len(BROKEN)] + b"\n")
    return b"".join(lines)


@pytest.mark.parametrize("form", WRITERS)
@given(
    texts=st.lists(st.text(max_size=200), min_size=1, max_size=12).filter(any),
    bad=st.lists(st.integers(0, 100), max_size=5),
    count=st.integers(1, 5),
    sizes=st.sampled_from([(7, 400), (64, 600), (1000, 2000)]),
    workers=st.sampled_from([1, 1, 1, 2]),
)
@settings(max_examples=5)
def test_every_format_in_any_number_of_parts(
    form: str, texts: list[str], bad: list[int], count: int, sizes: tuple[int, int], workers: int
) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder, source = Path(name), Path(name) / "in"
        source.mkdir()
        WRITERS[form](source, texts)
        (source / "b.jsonl").write_bytes(with_bad_lines(json_lines(texts), bad))
        (source / "c.txt").write_bytes(b"\xff" if bad else b"")
        block, shard = sizes
        options: dict[str, Any] = {
            "block_bytes": block,
            "shard_bytes": shard,
            "on_bad_line": "quarantine",
            "max_line_bytes": 300,
        }
        wanted = made_whole(folder, **options)
        what = settings_of(folder, **options, prefix=folder / "parts" / "out", workers=workers)
        make_all(what, count)
        merge_parts(what, count)
        assert files(folder / "parts") == wanted
        assert load_manifest(folder / "parts" / "out", verify=True).bad >= len(bad)


@pytest.mark.parametrize("separator", ["", "<sep>"])
@given(
    texts=st.lists(
        st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\r\n\ufeff")), min_size=1, max_size=8
    ),
    count=st.integers(1, 6),
    shard=st.sampled_from([30, 100]),
)
@settings(max_examples=6)
def test_documents_between_separator_lines(separator: str, texts: list[str], count: int, shard: int) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder, between = Path(name), f"\n{separator}\n"
        (folder / "in").mkdir()
        content = between.join(f"{text}\u00fc\nand {text}x" for text in texts).encode()
        middle = len(content) // 2
        (folder / "in" / "a.txt").write_bytes(content[:middle] + b"\xff" + content[middle:])
        options: dict[str, Any] = {"document_separator": separator, "block_bytes": 20, "shard_bytes": shard}
        options |= {"on_bad_line": "quarantine"}
        (folder / "in" / "b.txt").write_bytes(content)
        wanted = made_whole(folder, **options)
        what = settings_of(folder, **options, prefix=folder / "parts" / "out")
        make_all(what, count)
        merge_parts(what, count)
        assert files(folder / "parts") == wanted


def test_many_keys_conditions_and_any_order_of_the_parts(tmp_path: Path) -> None:
    records = [{"title": f"t{n}", "body": "b" * (n % 90), "lang": "de" if n % 3 else "en"} for n in range(300)]
    (tmp_path / "in").mkdir()
    for name, some in (("a", records[:200]), ("b", records[200:])):
        (tmp_path / "in" / f"{name}.jsonl").write_text("".join(json.dumps(record) + "\n" for record in some))
    options: dict[str, Any] = {"json_keys": ("title", "body"), "where": {"lang": ("de",)}}
    wanted = made_whole(tmp_path, **options)
    what = settings_of(tmp_path, **options, prefix=tmp_path / "parts" / "out")
    make_all(what, 4, order=[3, 1, 4, 2])
    made = merge_parts(what, 4)
    assert files(tmp_path / "parts") == wanted
    assert [made[key].passed_over for key in made] == [100, 100]
    assert [source.passed_over for source in made["title"].sources] == [67, 33]


def test_a_default_shard_is_divided_when_parts_would_be_empty(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "x.jsonl").write_bytes(json_lines(TEXTS))
    default: dict[str, Any] = {"block_bytes": 1 << 20, "shard_bytes": 1 << 26}
    what = settings_of(tmp_path, **default)
    marks = [preprocess_part(what, Part(number, 3)).mark for number in (1, 2, 3)]
    documents = [mark.keys[0].documents for mark in marks if mark is not None]
    assert sum(documents) == 400
    assert min(documents) > 80
    merge_parts(what, 3)
    assert pair(tmp_path / "out") == reference(TEXTS)


MERGE_POINTS = [point for point in POINTS if point.startswith("preprocess.") and point != "preprocess.before_encode"]
"""Places at which a merge can be killed."""
PART_POINTS = [
    "after_plan",
    "before_encode",
    "after_write",
    "before_flush",
    "before_mark",
    "after_mark",
    "after_complete",
]
"""Places at which the making of a part can be killed."""


@pytest.mark.parametrize("seed", range(2))
def test_parts_and_merges_that_are_killed_again_and_again(corpus: Path, seed: int) -> None:
    order, kills, count = random.Random(seed), 0, 3
    (corpus / "in" / "x.jsonl").write_bytes(with_bad_lines(json_lines(TEXTS[:200]), [7, 100, 150]))
    WRITERS["zst"](corpus / "in", TEXTS[200:])
    options: dict[str, Any] = {"on_bad_line": "quarantine", "shard_bytes": 2500, "block_bytes": 600}
    wanted = made_whole(corpus, **options)
    what = settings_of(corpus, **options, prefix=corpus / "parts" / "out")
    steps: list[tuple[Callable[[], object], list[str]]]
    steps = [(partial(preprocess_part, what, Part(n, count)), PART_POINTS) for n in order.sample((1, 2, 3), 3)]
    steps.append((partial(merge_parts, what, count), [point.split(".")[1] for point in MERGE_POINTS]))
    for step, points in steps:
        for number in (1, 1, 2):
            point = order.choice([*points, ""] if number > 1 else points)
            pid = in_a_process(step, {VARIABLE: f"preprocess.{point}=kill@{number}" if point else ""})
            if not point:
                time.sleep(order.random() * 0.05)
                os.kill(pid, signal.SIGKILL)
            status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
            assert status in (0, -signal.SIGKILL)
            kills += status != 0
        step()
    assert kills >= 4
    assert files(corpus / "parts") == wanted


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a corpus, what one process makes of it, and three parts."""
    folder = tmp_path_factory.mktemp("made")
    (folder / "in").mkdir()
    (folder / "in" / "x.jsonl").write_bytes(with_bad_lines(json_lines(TEXTS), [40, 200]))
    made_whole(folder, on_bad_line="quarantine")
    make_all(settings_of(folder, prefix=folder / "parts" / "out", on_bad_line="quarantine"), 3)
    return folder


@pytest.mark.parametrize("point", MERGE_POINTS)
def test_a_merge_that_is_killed_at_every_point(made: Path, tmp_path: Path, point: str) -> None:
    shutil.copytree(made / "parts", tmp_path, dirs_exist_ok=True)
    what = settings_of(made, prefix=tmp_path / "out", on_bad_line="quarantine")
    kill(partial(merge_parts, what, 3), f"{point}=kill")
    merge_parts(what, 3)
    assert files(tmp_path) == files(made / "whole")


def test_a_merge_goes_on_behind_the_parts_that_it_has_copied(corpus: Path, caplog: pytest.LogCaptureFixture) -> None:
    wanted = made_whole(corpus)
    what = settings_of(corpus, prefix=corpus / "parts" / "out")
    make_all(what, 3)
    kill(partial(merge_parts, what, 3), "preprocess.after_mark=kill@2")
    with pytest.raises(DataError, match="but of other work: work was the merging of 3 parts and is the whole corpus"):
        preprocess_keys(what.model_copy(update={"resume": True}))
    seen: list[Progress] = []
    merge_parts(what, 3, seen.append)
    assert seen[0].resumed_documents == seen[-1].documents - (seen[0].documents - seen[0].resumed_documents)
    assert seen[0].resumed_documents > 200
    assert files(corpus / "parts") == wanted
    with caplog.at_level(logging.INFO):
        merge_parts(what, 3)
    assert "has no parts: nothing to do" in caplog.text
    again = what.model_copy(update={"resume": True})
    assert "all is merged, complete" in preprocess_part(again, Part(2, 3)).summary()
    assert files(corpus / "parts") == wanted


def test_a_merge_that_is_killed_while_it_removes_the_parts(corpus: Path) -> None:
    what = settings_of(corpus)
    make_all(what, 3)
    kill(partial(merge_parts, what, 3), "preprocess.after_publish=kill")
    for path in (corpus / ".out.parts" / "1-of-3").iterdir():
        path.unlink()
    merge_parts(what, 3)
    assert sorted(path.name for path in corpus.iterdir()) == ["in", "out.bin", "out.idx", "out.json"]


def test_missing_and_unfinished_parts_are_named_with_what_makes_them(corpus: Path) -> None:
    what = settings_of(corpus)
    with pytest.raises(DataError, match=r"4 of 4 parts cannot be merged: part 1 is missing, part 2 is missing"):
        merge_parts(what, 4)
    preprocess_part(what, Part(1, 4))
    kill(partial(preprocess_part, what, Part(3, 4)), "preprocess.after_mark=kill@1")
    with pytest.raises(DataError) as error:
        merge_parts(what, 4)
    assert "part 1" not in str(error.value)
    for said in ("part 2 is missing, part 3 is unfinished, part 4 is missing", "--part 2/4, --part 3/4, --part 4/4"):
        assert said in str(error.value)
    assert not (corpus / ".out.partial").exists()
    make_all(what, 4)
    merge_parts(what, 4)
    assert pair(corpus / "out") == reference(TEXTS)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"append_eod": False}, "append_eod was true and is false"),
        ({"where": {"n": ("1",)}}, r'where was {} and is {"n": \["1"\]}'),
        ({"max_line_bytes": 700}, "max_line_bytes was 268435456 and is 700"),
        ({"more": True}, "some of the inputs were added, removed or changed since"),
        ({"touched": True}, r"x\.jsonl has changed since"),
    ],
)
def test_parts_of_other_work_are_refused(corpus: Path, change: dict[str, Any], message: str) -> None:
    make_all(settings_of(corpus), 2)
    options = dict(change)
    if options.pop("more", False):
        (corpus / "in" / "y.txt").write_text("more")
    if options.pop("touched", False):
        (corpus / "in" / "x.jsonl").touch()
    what = settings_of(corpus, **options)
    with pytest.raises(DataError, match=rf"part 1 is of other work \(.*{message}.*part 2 is of other work"):
        merge_parts(what, 2)
    with pytest.raises(DataError, match=f"part 2 of 2 .* made and not merged, but of other work: .*{message}"):
        preprocess_part(what, Part(2, 2))
    assert not (corpus / "out.bin").exists()
    again = what.model_copy(update={"resume": False})
    make_all(again, 2)
    merge_parts(what, 2)
    assert files(corpus)["out.bin"] == made_whole(corpus, **options)["out.bin"]


def test_a_damaged_part_is_found(corpus: Path) -> None:
    what = settings_of(corpus)
    make_all(what, 3)
    for name in ("key-0.bin", "key-0.lengths"):
        path = corpus / ".out.parts" / "2-of-3" / name
        right = path.read_bytes()
        for wrong in (right[:-4], right + b"\0\0\0\0", bytes([right[0] ^ 1]) + right[1:]):
            path.write_bytes(wrong)
            with pytest.raises(DataError, match=rf"2-of-3/{name} is not what was written there: make its part again"):
                merge_parts(what, 3)
            assert not (corpus / "out.bin").exists()
        path.write_bytes(right)
    merge_parts(what, 3)
    assert pair(corpus / "out") == reference(TEXTS)


def test_two_processes_do_not_make_the_same_part(corpus: Path) -> None:
    what = settings_of(corpus)
    refused: list[str] = []

    def try_another(_: Progress) -> None:
        if not refused:
            for call in (partial(preprocess_part, what, Part(2, 3)), partial(merge_parts, what, 3)):
                with pytest.raises(DataError) as error:
                    call()
                refused.append(str(error.value))
            preprocess_part(what, Part(3, 3))

    preprocess_part(what, Part(2, 3), try_another)
    assert f"part 2 of 3 of {corpus / 'out'} is being written by process {os.getpid()} on " in refused[0]
    assert "part 1 is missing, part 2 is being made, part 3 is missing" in refused[1]
    preprocess_part(what, Part(1, 3))
    merge_parts(what, 3)
    assert pair(corpus / "out") == reference(TEXTS)


@pytest.mark.parametrize(("form", "place"), [("jsonl", 390), ("txt", 300), ("jsonl", 2)])
def test_an_error_names_file_and_line_as_on_one_machine(corpus: Path, form: str, place: int) -> None:
    options: dict[str, Any] = {}
    path = corpus / "in" / "x.jsonl"
    if form == "jsonl":
        path.write_bytes(with_bad_lines(json_lines(TEXTS), [place]))
    else:
        path.unlink()
        lines = [b"\xff", b""] if place else []
        content = "\n\n".join(TEXTS).encode().splitlines()
        path = corpus / "in" / "x.txt"
        path.write_bytes(b"\n".join([*content[: 2 * place], *lines, *content[2 * place :]]))
        options["document_separator"] = ""
    with pytest.raises(DataError) as whole:
        preprocess_keys(settings_of(corpus, **options, prefix=corpus / "whole" / "out"))
    told = []
    for number in (1, 2, 3, 4):
        try:
            preprocess_part(settings_of(corpus, **options), Part(number, 4))
        except DataError as error:
            told.append(str(error).partition(" (")[0])
    assert told == [str(whole.value).partition(" (")[0]]
    assert f"{path}, line " in told[0]


def test_bad_lines_of_all_parts_are_counted_together(corpus: Path) -> None:
    (corpus / "in" / "x.jsonl").write_bytes(with_bad_lines(json_lines(TEXTS), [5, 300, 310]))
    options: dict[str, Any] = {"on_bad_line": "quarantine"}
    what = settings_of(corpus, **options, max_bad_lines=2)
    make_all(what, 3)
    with pytest.raises(
        DataError, match=r"more than max_bad_lines \(2\).* have 3 together \(1 in part 1, 2 in part [23]\)"
    ):
        merge_parts(what, 3)
    wanted = made_whole(corpus, **options)
    merge_parts(settings_of(corpus, **options, max_bad_lines=3), 3)
    assert {name: content for name, content in files(corpus).items() if name.startswith("out")} == wanted
    with pytest.raises(DataError, match=r"more than max_bad_lines \(0\) bad lines; the last is .*x\.jsonl, line 6: "):
        preprocess_part(settings_of(corpus, **options, max_bad_lines=0), Part(1, 3))


def test_how_bad_lines_are_treated_may_change_until_one_is_met(corpus: Path) -> None:
    (corpus / "in" / "x.jsonl").write_bytes(with_bad_lines(json_lines(TEXTS), [390]))
    for number in (1, 2):
        preprocess_part(settings_of(corpus), Part(number, 3))
    with pytest.raises(DataError, match=r"x\.jsonl, line 391: .* shards done: --resume goes on from there"):
        preprocess_part(settings_of(corpus), Part(3, 3))
    preprocess_part(settings_of(corpus, on_bad_line="skip"), Part(3, 3))
    with pytest.raises(DataError, match=r"part 3 is of other work \(on_bad_line was skip and is quarantine"):
        merge_parts(settings_of(corpus, on_bad_line="quarantine"), 3)
    assert merge_parts(settings_of(corpus, on_bad_line="skip"), 3)["text"].bad == 1
    assert pair(corpus / "out") == reference(TEXTS)


def test_more_parts_than_shards(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    WRITERS["gz"](tmp_path / "in", TEXTS)
    what = settings_of(tmp_path)
    said = [run_command(what, f"{number}/3", None)[0] for number in (1, 2, 3)]
    assert "part 1 of 3" in said[0]
    assert "is complete: 1 of 1 shards, 400 documents" in said[0]
    assert all("has nothing to do: the inputs make 1 shards, fewer than parts" in one for one in said[1:])
    assert run_command(what, None, 3)[0].startswith(f"{tmp_path / 'out'}: 400 documents")
    assert pair(tmp_path / "out") == reference(TEXTS)


def test_an_empty_corpus_is_an_error_of_the_merge(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for name in "abc":
        (tmp_path / "in" / f"{name}.jsonl").write_bytes(b"\n")
    make_all(settings_of(tmp_path), 2)
    with pytest.raises(DataError, match="the corpus is empty: 0 documents in 3 sources hold no text"):
        merge_parts(settings_of(tmp_path), 2)
    assert not (tmp_path / "out.bin").exists()


@pytest.mark.parametrize(
    ("part", "merge", "message"),
    [
        ("2", None, "--part 2 is not I/N, such as 2/8"),
        ("1/2/3", None, "is not I/N"),
        ("-1/2", None, "is not I/N"),
        ("0/2", None, "there is no part 0 of 2: parts are counted from 1 to 2"),
        ("3/2", None, "there is no part 3 of 2"),
        ("1/0", None, "there can be 1 to 100000 parts, not 0"),
        (None, 0, "there can be 1 to 100000 parts, not 0"),
        ("1/2", 2, "give one of the two"),
    ],
)
def test_wrong_arguments_are_named(corpus: Path, part: str | None, merge: int | None, message: str) -> None:
    with pytest.raises(DataError, match=message):
        run_command(settings_of(corpus), part, merge)
    assert list(files(corpus)) == ["in"]


def test_standard_input_cannot_be_divided(tmp_path: Path) -> None:
    for part, merge in (("1/2", None), (None, 2)):
        with pytest.raises(DataError, match="standard input cannot be divided into parts: give files"):
            run_command(settings_of(tmp_path, [Path("-")]), part, merge)


def test_parts_in_the_folder_of_the_texts_are_no_texts(corpus: Path) -> None:
    (corpus / "in" / "x.jsonl").write_bytes(with_bad_lines(json_lines(TEXTS), [390]))
    what = settings_of(corpus, prefix=corpus / "in" / "out", on_bad_line="quarantine")
    make_all(what, 3)
    merge_parts(what, 3)
    make_all(what, 3)
    merge_parts(what, 3)
    assert pair(corpus / "in" / "out") == reference(TEXTS)


def plan_of(sizes: Sequence[int]) -> Plan:
    with tempfile.TemporaryDirectory() as name:
        for number, size in enumerate(sizes):
            Path(name, f"{number:03d}.jsonl").write_bytes(b"x" * size)
        return plan_corpus([name], CutOptions(Selection(("text",), {}), None, 1 << 20, 1000, 1))


@given(sizes=st.lists(st.integers(1, 9), min_size=1, max_size=8), count=st.integers(1, 9))
@settings(max_examples=60)
def test_shares_are_the_plan_and_as_even_as_can_be(sizes: list[int], count: int) -> None:
    pieces = [shard.pieces[0] for shard in plan_of([1] * len(sizes)).shards]

    class Sized(Shard):
        @property
        def size(self) -> int:
            return sizes[self.first_source]

    plan = Plan((), tuple(Sized((piece,), number) for number, piece in enumerate(pieces)), ())
    shares = divide(plan, count)
    assert [number for share in shares for number in range(share.start, share.stop)] == list(range(len(sizes)))
    assert len(shares) == count
    assert [len(share) > 0 for share in shares] == [number < len(sizes) for number in range(count)]
    cuts = combinations_with_replacement(range(len(sizes) + 1), count - 1)
    best = min(max(sum(sizes[a:b]) for a, b in pairwise((0, *cut, len(sizes)))) for cut in cuts)
    assert max(sum(sizes[share.start : share.stop]) for share in shares) == best


def test_the_tool_and_the_command(corpus: Path) -> None:
    words = ["--input", str(corpus / "in"), "--output-prefix", "out/x", "--tokenizer-type", "byte", "--append-eod"]
    call = partial(subprocess.run, cwd=corpus, capture_output=True, text=True, check=False, timeout=120)
    command = [sys.executable, "-m", "megadape", "preprocess"]
    done = call([*command, *words, "--part", "2/2"])
    assert done.returncode == 0, done.stderr
    assert "part 2 of 2 of out/x is complete: " in done.stdout + done.stderr
    done = call([*command, *words, "--merge-parts", "2"])
    assert done.returncode == 2
    assert "1 of 2 parts cannot be merged: part 1 is missing; make them with the same command and --part 1/2" in (
        " ".join(done.stderr.split())
    )
    for number in (1, 2):
        done = call([sys.executable, str(TOOL), *words, "--part", f"{number}/2", "--workers", "2"])
        assert done.returncode == 0, done.stderr
    done = call([sys.executable, str(TOOL), *words, "--merge-parts", "2"])
    assert done.returncode == 0, done.stderr
    assert "out/x_text_document: 400 documents" in done.stdout
    assert sorted(path.name for path in (corpus / "out").iterdir()) == [
        f"x_text_document.{ending}" for ending in ("bin", "idx", "json")
    ]
    assert pair(corpus / "out" / "x_text_document") == reference(TEXTS)
