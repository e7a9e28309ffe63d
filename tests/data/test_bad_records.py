"""Records that give no document: named, counted, kept; never a document less, whatever the format and the blocks."""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st
from preprocess_examples import frames, json_lines, members, pair, reference

from megadape.data import DatasetManifest, preprocess_files
from megadape.errors import DataError

BAD = [
    b'{"text": "cut',
    b'{"text": "\xff"}',
    b'{"text": "\\ud800"}',
    b'{"text": NaN}',
    b'{"text": null}',
    b'{"no": 1}',
    b"[1]",
    b"\xed\xa0\x80",
    b'{"text": "a"}{"text": "b"}',
    b"\0",
]
COMPRESS = {"": bytes, ".gz": members, ".zst": frames}


def numbers(manifest: DatasetManifest) -> tuple[int, int, int, int]:
    return manifest.records, manifest.documents, manifest.bad, manifest.passed_over


def quarantined(prefix: Path) -> list[dict[str, Any]]:
    path = prefix.with_name(f"{prefix.name}.quarantine.jsonl")
    return [json.loads(line) for line in path.read_text().splitlines()]


def content_of(entry: dict[str, Any]) -> bytes:
    return entry["text"].encode() if "text" in entry else base64.b64decode(entry["base64"])


LINES = st.one_of(st.text(max_size=40), st.sampled_from(BAD), st.just(b" \t"))


@pytest.mark.parametrize("ending", COMPRESS)
@given(
    lines=st.lists(LINES, max_size=25),
    block=st.sampled_from([1, 10, 80, 10_000]),
    last=st.booleans(),
)
@settings(max_examples=12)
def test_every_bad_line_is_found_by_its_line_and_kept(
    ending: str, lines: list[str | bytes], block: int, last: bool
) -> None:
    lines = ["first", *lines]
    written = [json.dumps({"text": line}).encode() if isinstance(line, str) else line for line in lines]
    good = [line for line in lines if isinstance(line, str)]
    bad = [(n, line) for n, line in enumerate(lines, 1) if isinstance(line, bytes) and line.strip()]
    with tempfile.TemporaryDirectory() as name:
        path, prefix = Path(name) / f"x.jsonl{ending}", Path(name) / "out"
        path.write_bytes(COMPRESS[ending](b"\n".join(written) + b"\n" * last))
        options: dict[str, Any] = {"append_eod": True, "block_bytes": block, "shard_bytes": 2000}
        manifest = preprocess_files([path], prefix, on_bad_line="quarantine", **options)
        assert pair(prefix) == reference(good)
        assert numbers(manifest) == (len(good) + len(bad), len(good), len(bad), 0)
        assert [(entry["line"], content_of(entry)) for entry in quarantined(prefix)] == bad
        assert {entry["file"] for entry in quarantined(prefix)} <= {str(path)}
        skipped = preprocess_files([path], prefix, on_bad_line="skip", **options)
        assert (pair(prefix), numbers(skipped)) == (reference(good), numbers(manifest))
        if bad:
            with pytest.raises(DataError, match=rf"x.jsonl{ending}, line {bad[0][0]}: "):
                preprocess_files([path], prefix, **options)


@pytest.mark.parametrize(("policy", "workers"), [("error", 2), ("skip", 1), ("quarantine", 2)])
def test_a_malformed_line_in_the_middle_of_200000_loses_nothing(tmp_path: Path, policy: str, workers: int) -> None:
    path, prefix = tmp_path / "x.jsonl", tmp_path / "out"
    lines = [b'{"text": "line %d"}' % n for n in range(200_000)]
    lines[100_000] = b'{"text": "line 100000'
    path.write_bytes(b"\n".join(lines) + b"\n")
    run = partial(preprocess_files, [path], prefix, append_eod=True, on_bad_line=policy, workers=workers)
    if policy == "error":
        with pytest.raises(DataError, match=r"x\.jsonl, line 100001: not valid JSON .*line 100000'"):
            run()
        assert [one.name for one in tmp_path.iterdir()] == ["x.jsonl"]
        return
    assert numbers(run()) == (200_000, 199_999, 1, 0)
    assert pair(prefix) == reference([f"line {n}" for n in range(200_000) if n != 100_000])
    if policy == "quarantine":
        (entry,) = quarantined(prefix)
        assert (entry["line"], entry["text"]) == (100_001, '{"text": "line 100000')


@pytest.mark.parametrize("ending", COMPRESS)
@pytest.mark.parametrize("block", [7000, 1 << 20])
def test_a_line_that_is_too_long_is_bad_and_the_next_is_not(tmp_path: Path, ending: str, block: int) -> None:
    def line(size: int) -> bytes:
        return json.dumps({"text": "a" * (size - 12)}).encode()

    lines = [line(99), line(100), line(101), line(50), line(3_000_000), b'{"text": "end"}', line(2_500_000)]
    path, prefix = tmp_path / f"x.jsonl{ending}", tmp_path / "out"
    path.write_bytes(COMPRESS[ending](b"\n".join(lines)))
    options: dict[str, Any] = {"max_line_bytes": 100, "block_bytes": block, "shard_bytes": 1 << 20}
    manifest = preprocess_files([path], prefix, append_eod=True, on_bad_line="quarantine", **options)
    assert pair(prefix) == reference(["a" * 87, "a" * 88, "a" * 38, "end"])
    assert numbers(manifest) == (7, 4, 3, 0)
    entries = quarantined(prefix)
    assert [(entry["line"], entry["size"]) for entry in entries] == [(3, 101), (5, 3_000_000), (7, 2_500_000)]
    for entry in entries:
        assert entry["reason"] == f"{entry['size']} bytes are more than max_line_bytes (100)"
        assert lines[entry["line"] - 1].startswith(content_of(entry))
        assert entry["truncated"] is True


def test_documents_of_plain_text_that_are_too_long_or_not_utf8(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.txt").write_bytes(b"good\n<sep>\n" + b"long line\n" * 50 + b"<sep>\nb\xffad\n<sep>\nend\n")
    (tmp_path / "in" / "b.txt.gz").write_bytes(gzip.compress(b"x" * 300 + b"\n<sep>\nlast"))
    options: dict[str, Any] = {"max_line_bytes": 100, "on_bad_line": "quarantine", "append_eod": True}
    for block in (3, 1000):
        manifest = preprocess_files(
            [tmp_path / "in"], tmp_path / "out", document_separator="<sep>", block_bytes=block, **options
        )
        assert pair(tmp_path / "out") == reference(["good", "end", "last"])
        assert numbers(manifest) == (6, 3, 3, 0)
        entries = [(entry["line"], entry["size"]) for entry in quarantined(tmp_path / "out")]
        assert entries == [(3, 499), (54, 4), (1, 300)]
    manifest = preprocess_files([tmp_path / "in"], tmp_path / "out", **{**options, "max_line_bytes": 600})
    assert numbers(manifest) == (2, 1, 1, 0)
    assert manifest.undecodable == (str(tmp_path / "in" / "a.txt"),)
    entry = quarantined(tmp_path / "out")[0]
    assert (entry["line"], entry["reason"]) == (54, "byte 0xff is not valid UTF-8")
    assert content_of(entry) == (tmp_path / "in" / "a.txt").read_bytes()


@pytest.mark.parametrize("ending", [".gz", ".zst"])
@pytest.mark.parametrize("kind", ["jsonl", "json", "txt"])
def test_damage_in_a_compressed_file_costs_what_follows_and_is_counted(tmp_path: Path, ending: str, kind: str) -> None:
    texts = [hashlib.sha512(b"%d" % n).hexdigest() for n in range(6000)]
    content = {
        "jsonl": json_lines(texts),
        "json": json.dumps([{"text": text} for text in texts]).encode(),
        "txt": "\n\n".join(texts).encode(),
    }[kind]
    whole = {".gz": gzip.compress, ".zst": zstandard.compress}[ending](content)
    (tmp_path / "in").mkdir()
    path, prefix = tmp_path / "in" / f"a.{kind}{ending}", tmp_path / "out"
    (tmp_path / "in" / "b.jsonl").write_bytes(json_lines(["after"]))
    path.write_bytes(whole[: len(whole) * 2 // 3])
    options: dict[str, Any] = {"append_eod": True, "block_bytes": 5000}
    if kind == "txt":
        options["document_separator"] = ""
    with pytest.raises(DataError, match=rf"a.{kind}{ending}, after line \d+: the file is truncated or damaged"):
        preprocess_files([tmp_path / "in"], prefix, **options)
    manifest = preprocess_files([tmp_path / "in"], prefix, on_bad_line="quarantine", **options)
    assert manifest.bad == 1
    assert 100 < manifest.documents < 6000
    assert pair(prefix) == reference([*texts[: manifest.documents - 1], "after"])
    entry = quarantined(prefix)[0]
    assert entry["rest_of_file"] is True
    assert texts[manifest.documents - 1].startswith(entry["text"][-20:]) or entry["text"] in content.decode()
    assert manifest.sources[0].size == path.stat().st_size


LISTS = [
    ('[{"text": "a"}, {"text": 5}, {"text": "b"}]', ["a", "b"], [(1, '{"text": 5}')]),
    (
        '[{"text": "a"},\n{"text": "b"} {"text": "c"},\n\n{"text": "d"}]',
        ["a", "d"],
        [(2, '{"text": "b"} {"text": "c"}')],
    ),
    ('[{"text": "a"},\n]', ["a"], [(2, "")]),
    ('[{"text": "a"},\n{"text": "b"}\n', ["a", "b"], [(3, "")]),
    ('[{"text": "a"},\n{"text": "b', ["a"], [(2, '{"text": "b')]),
    ('[{"text": "a"}]\n\nmore', ["a"], [(3, "more")]),
    ('[{"text": "a"}}', ["a"], [(1, "")]),
    ('[{"text": "[]{},\\\\\\" "},\n[], {"text": "b"}]', ['[]{},\\" ', "b"], [(2, "[]")]),
]


@pytest.mark.parametrize("block", [1, 1000])
@pytest.mark.parametrize(("content", "texts", "bad"), LISTS)
def test_bad_elements_of_a_list(
    tmp_path: Path, content: str, texts: list[str], bad: list[tuple[int, str]], block: int
) -> None:
    (tmp_path / "x.json").write_text(content)
    manifest = preprocess_files(
        [tmp_path / "x.json"], tmp_path / "out", on_bad_line="quarantine", append_eod=True, block_bytes=block
    )
    assert pair(tmp_path / "out") == reference(texts)
    assert [(entry["line"], entry["text"]) for entry in quarantined(tmp_path / "out")] == bad
    assert manifest.bad == len(bad)


def test_bad_rows_of_a_table(tmp_path: Path) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    rows = pa.table({"text": pa.array([b"one", None, b"\xff", "zwölf".encode(), b""], pa.binary()), "n": range(5)})
    parquet.write_table(rows, tmp_path / "x.parquet", row_group_size=2)
    manifest = preprocess_files([tmp_path / "x.parquet"], tmp_path / "out", on_bad_line="quarantine", append_eod=True)
    assert pair(tmp_path / "out") == reference(["one", "zwölf", ""])
    assert numbers(manifest) == (5, 3, 2, 0)
    assert [(entry["row"], entry["reason"]) for entry in quarantined(tmp_path / "out")] == [
        (2, "the value of 'text' must be a string, not a null"),
        (3, "the value of 'text' must be a string, not a sequence of bytes that are not UTF-8"),
    ]
    with pytest.raises(DataError, match=r"x\.parquet, row 2: the value of 'text' must be a string, not a null"):
        preprocess_files([tmp_path / "x.parquet"], tmp_path / "out")
    with pytest.raises(DataError, match=r"x\.parquet has no column 'body'.*they are text, n"):
        preprocess_files([tmp_path / "x.parquet"], tmp_path / "out", json_key="body", on_bad_line="skip")


def test_too_many_bad_lines_stop_everything(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    path.write_bytes(json_lines(["a"]) + b"bad\n" * 3)
    assert preprocess_files([path], tmp_path / "out", on_bad_line="skip", max_bad_lines=3).bad == 3
    before = pair(tmp_path / "out")
    with pytest.raises(DataError, match=r"more than max_bad_lines \(2\) bad lines; the last is .*x.jsonl, line 4: "):
        preprocess_files([path], tmp_path / "out", on_bad_line="skip", max_bad_lines=2)
    assert pair(tmp_path / "out") == before
    path.write_bytes(b"bad\n" * 3)
    with pytest.raises(DataError, match="hold no text, 3 records are bad"):
        preprocess_files([path], tmp_path / "out", on_bad_line="skip")


def test_values_that_nobody_asks_for_cost_no_text(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    others = [b"NaN", b"-Infinity", b"1" * 5000, b'"\\ud800"', b"1e999"]
    path.write_bytes(b"".join(b'{"text": "%d", "other": %s}\n' % line for line in enumerate(others)))
    preprocess_files([path], tmp_path / "out", append_eod=True)
    assert pair(tmp_path / "out") == reference([str(n) for n in range(len(others))])


def test_a_folder_may_hold_its_own_quarantine(tmp_path: Path) -> None:
    (tmp_path / "x.jsonl").write_bytes(json_lines(["a"]) + b"bad\n")
    first = preprocess_files([tmp_path], tmp_path / "out", on_bad_line="quarantine")
    assert preprocess_files([tmp_path], tmp_path / "out", on_bad_line="quarantine") == first
    assert [entry["text"] for entry in quarantined(tmp_path / "out")] == ["bad"]
