"""What can be read, and what of it: keys, conditions, tables, standard input, datasets of Hugging Face."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from preprocess_examples import json_lines, pair, reference

from megadape.data import (
    DatasetManifest,
    IndexedDataset,
    PreprocessSettings,
    load_manifest,
    preprocess_files,
    preprocess_keys,
    tokenizer_settings,
)
from megadape.data.preprocessing.arguments import parse_conditions
from megadape.data.reading.records import Selection, UnusableError
from megadape.errors import DataError

ROOT = Path(__file__).parents[2]


def keys_settings(inputs: tuple[Path, ...], prefix: Path, **options: Any) -> PreprocessSettings:
    return PreprocessSettings(
        inputs=inputs, prefix=prefix, tokenizer=tokenizer_settings("byte"), append_eod=True, **options
    )


def records_with_titles(path: Path) -> list[tuple[str, str]]:
    texts = [(f"text {n}" * (n % 3), f"title {n}") for n in range(50)]
    lines = [{"text": text, "meta": {"title": title}, "part": n % 3} for n, (text, title) in enumerate(texts)]
    path.write_text("\n".join(map(json.dumps, lines)))
    return texts


@pytest.mark.parametrize("workers", [1, 2])
def test_several_keys_make_several_datasets_in_one_pass(tmp_path: Path, workers: int) -> None:
    texts = records_with_titles(tmp_path / "x.jsonl")
    with (tmp_path / "x.jsonl").open("a") as file:
        file.write('\n{"text": "without a title"}\n')
    given = keys_settings(
        (tmp_path / "x.jsonl",),
        tmp_path / "out",
        json_keys=("text", "meta.title"),
        on_bad_line="quarantine",
        workers=workers,
    )
    manifests = preprocess_keys(given)
    assert pair(tmp_path / "out_text") == reference([text for text, _ in texts])
    assert pair(tmp_path / "out_meta.title") == reference([title for _, title in texts])
    for key, manifest in manifests.items():
        assert load_manifest(tmp_path / f"out_{key}", verify=True) == manifest
        assert (manifest.json_key, manifest.records, manifest.bad) == (key, 51, 1)
        assert manifest.quarantine == "out.quarantine.jsonl"
    assert manifests["text"].empty_documents == 17
    assert manifests["meta.title"].empty_documents == 0
    assert len((tmp_path / "out.quarantine.jsonl").read_text().splitlines()) == 1


def test_keys_that_cannot_be_told_apart(tmp_path: Path) -> None:
    for keys, message in ((("a", "a"), "the same dataset twice"), (("a", "b/c"), "cannot be a part of a file's name")):
        with pytest.raises(DataError, match=message):
            preprocess_files([tmp_path], tmp_path / "out", json_keys=keys)


@pytest.mark.parametrize(
    ("record", "key", "value"),
    [
        ({"a": {"b": "x"}}, "a.b", "x"),
        ({"a": {"b": "x"}, "a.b": "literal"}, "a.b", "literal"),
        ({"a": {"b.c": "x"}}, "a.b.c", "x"),
        ({"a": {"b": {"c": "x"}}}, "a.b.c", "x"),
        ({"": {"": "x"}}, ".", "x"),
        ({"a": "x"}, "a.b", None),
        ({"a": {}}, "a.b", None),
        ({}, "a.b", None),
    ],
)
def test_nested_keys(record: dict[str, object], key: str, value: str | None) -> None:
    selection = Selection((key,), {})
    if value is None:
        with pytest.raises(UnusableError, match="has no key"):
            selection(record)
    else:
        assert selection(record) == (value,)


VALUES = st.one_of(st.sampled_from(["a", "b", "1", "true", "null"]), st.integers(0, 2), st.booleans(), st.none())


@given(values=st.lists(st.tuples(VALUES, VALUES), min_size=1, max_size=20))
@settings(max_examples=50)
def test_conditions(values: list[tuple[object, object]]) -> None:
    def written(value: object) -> str:
        return value if isinstance(value, str) else json.dumps(value)

    where = parse_conditions(["m.one=a", "m.one=1", "two=true"])
    selection = Selection(("text",), where)
    for one, two in values:
        wanted = written(one) in ("a", "1") and written(two) == "true"
        assert selection({"m": {"one": one}, "two": two, "text": "x"}) == (("x",) if wanted else None)
    assert selection({"text": "x"}) is None
    assert selection({"m": 5, "two": "true"}) is None


@pytest.mark.parametrize("block", [1, 2, 3, 4, 100])
def test_a_byte_order_mark_costs_no_line(tmp_path: Path, block: int) -> None:
    (tmp_path / "x.jsonl").write_bytes(b"\xef\xbb\xbf" + json_lines(["a", "b"]))
    (tmp_path / "y.txt").write_bytes("\ufeffone\n\ntwo".encode())
    options: dict[str, Any] = {"append_eod": True, "document_separator": "", "block_bytes": block, "shard_bytes": block}
    preprocess_files([tmp_path / "x.jsonl", tmp_path / "y.txt"], tmp_path / "out", **options)
    assert pair(tmp_path / "out") == reference(["a", "b", "one", "two"])


def test_records_that_are_passed_over_are_counted_whatever_they_hold(tmp_path: Path) -> None:
    texts = records_with_titles(tmp_path / "x.jsonl")
    (tmp_path / "y.jsonl").write_text('{"part": 0}\n{"part": 1}\n{"part": 5}\n[]\n')
    options: dict[str, Any] = {"where": parse_conditions(["part=1", "part=2"]), "on_bad_line": "skip"}
    manifest = preprocess_files(
        [tmp_path / "x.jsonl", tmp_path / "y.jsonl"], tmp_path / "out", append_eod=True, block_bytes=100, **options
    )
    assert pair(tmp_path / "out") == reference([text for n, (text, _) in enumerate(texts) if n % 3])
    assert (manifest.records, manifest.documents, manifest.bad, manifest.passed_over) == (54, 33, 2, 19)
    assert [(s.records, s.documents, s.bad, s.passed_over) for s in manifest.sources] == [(50, 33, 0, 17), (4, 0, 2, 2)]
    assert manifest.where == {"part": ("1", "2")}
    with pytest.raises(DataError, match=r"0 documents in 1 sources hold no text, 50 are passed over"):
        preprocess_files([tmp_path / "x.jsonl"], tmp_path / "out", where={"part": ("9",)})
    (tmp_path / "z.txt").write_text("text")
    with pytest.raises(DataError, match=r"z\.txt is plain text and has no keys"):
        preprocess_files([tmp_path / "z.txt"], tmp_path / "out", **options)


@pytest.mark.parametrize("given", ["part", "=x"])
def test_a_condition_that_is_none(given: str) -> None:
    with pytest.raises(DataError, match=f"--where {given} is not KEY=VALUE"):
        parse_conditions([given])


def test_sums_that_do_not_agree_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    path.write_bytes(json_lines(["a", "b"]))
    record = preprocess_files([path], tmp_path / "out").model_dump()
    for change, message in (
        ({"bad": 1}, "records must be documents"),
        ({"records": 3, "bad": 1}, "records must be the sum"),
        ({"empty_documents": 3}, "empty_documents are some"),
    ):
        with pytest.raises(ValueError, match=message):
            DatasetManifest.model_validate(record | change)
    old = {key: value for key, value in record.items() if key not in ("records", "bad", "passed_over", "where")}
    old["sources"] = [{key: source[key] for key in ("path", "size", "sha256")} for source in record["sources"]]
    assert DatasetManifest.model_validate(old).records == 2


def test_tables_of_any_row_groups_give_the_columns_asked_for(tmp_path: Path) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    texts = [f"text {n} " * (n % 7) for n in range(500)]
    meta = [{"title": f"title {n}", "part": n % 2} for n in range(500)]
    rows = pa.table({"text": pa.array(texts, pa.large_string()), "meta": meta, "other": [b"\xff" * 1000] * 500})
    for size in (1, 170, 1000):
        parquet.write_table(rows, tmp_path / "x.parquet", row_group_size=size)
        manifests = preprocess_keys(
            keys_settings(
                (tmp_path / "x.parquet",),
                tmp_path / "out",
                json_keys=("text", "meta.title"),
                where={"meta.part": ("1",)},
                block_bytes=2000,
                shard_bytes=9000,
            )
        )
        assert pair(tmp_path / "out_text") == reference(texts[1::2])
        assert pair(tmp_path / "out_meta.title") == reference([one["title"] for one in meta[1::2]])
        assert manifests["text"].passed_over == 250
        assert manifests["text"].sources[0].size == (tmp_path / "x.parquet").stat().st_size
    (tmp_path / "y.parquet").write_bytes(b"PAR1 no table PAR1")
    with pytest.raises(DataError, match=r"y\.parquet is not a Parquet file"):
        preprocess_files([tmp_path / "y.parquet"], tmp_path / "out")
    parquet.write_table(rows[:0], tmp_path / "z.parquet")
    preprocess_files([tmp_path / "x.parquet", tmp_path / "z.parquet"], tmp_path / "all", append_eod=True)
    assert pair(tmp_path / "all") == reference(texts)


def test_standard_input(tmp_path: Path) -> None:
    texts = [f"text {n} " * (n % 50) for n in range(3000)]
    command = [sys.executable, "-m", "megadape", "preprocess", "--tokenizer-type", "byte", "--input", "-"]
    command += ["--output-prefix", str(tmp_path / "out"), "--workers", "2"]
    done = subprocess.run(command, input=json_lines(texts), capture_output=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert b"cannot be read again: this run cannot be resumed" in done.stderr
    assert b"3,000 records: 3,000 documents, 0 bad, 0 passed over" in done.stdout
    assert pair(tmp_path / "out") == reference(texts)
    assert load_manifest(tmp_path / "out").sources[0].size == len(json_lines(texts))
    done = subprocess.run([*command, "--resume"], input=b"", capture_output=True, check=False, cwd=ROOT)
    assert done.returncode == 2
    assert done.stderr == b"megadape: standard input cannot be read a second time: leave --resume out\n"


@pytest.mark.slow
def test_datasets_of_hugging_face(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    import datasets

    texts = [f"text {n} \ud83d\ude00".encode("utf-16", "surrogatepass").decode("utf-16") * (n % 5) for n in range(300)]
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "train.jsonl").write_bytes(json_lines(texts))
    saved = datasets.Dataset.from_dict({"text": texts[::-1]})
    datasets.DatasetDict({"train": saved, "test": saved.select(range(10))}).save_to_disk(tmp_path / "saved")
    options: dict[str, Any] = {"append_eod": True, "block_bytes": 500, "shard_bytes": 2000}
    for name, expected in (
        (f"hf:{tmp_path}/data", texts),
        (f"hf:{tmp_path}/saved", texts[::-1]),
        (f"hf:{tmp_path}/saved@test", texts[::-1][:10]),
    ):
        manifest = preprocess_files([name], tmp_path / "out", **options)
        assert pair(tmp_path / "out") == reference(expected)
        assert (manifest.sources[0].path, manifest.sources[0].documents) == (name, len(expected))
    with pytest.raises(DataError, match=r"hf:.*/data, row 1: the object has no key 'body'"):
        preprocess_files([f"hf:{tmp_path}/data"], tmp_path / "out", json_key="body")
    with pytest.raises(DataError, match=r"cannot read hf:.*@nothing: "):
        preprocess_files([f"hf:{tmp_path}/data@nothing"], tmp_path / "out")
    with pytest.raises(DataError, match=r"hf: names no dataset"):
        preprocess_files(["hf:"], tmp_path / "out")


def test_a_missing_library_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "x.parquet").write_bytes(b"")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(DataError, match=r"x\.parquet needs pyarrow: pip install 'megadape\[parquet\]'"):
        preprocess_files([tmp_path / "x.parquet"], tmp_path / "out")
    with pytest.raises(DataError, match=r"hf:x needs datasets: pip install 'megadape\[hf-datasets\]'"):
        preprocess_files(["hf:x"], tmp_path / "out")


def test_inputs_of_every_kind_keep_their_order(tmp_path: Path) -> None:
    (tmp_path / "b.jsonl").write_bytes(json_lines(["one", "two"]))
    (tmp_path / "a.txt").write_text("three")
    (tmp_path / "c.json").write_text('[{"text": "four"}]')
    (tmp_path / "e.jsonl").write_text("")
    inputs = [tmp_path / "b.jsonl", tmp_path / "e.jsonl", tmp_path / "a.txt", tmp_path / "*.json", tmp_path]
    manifest = preprocess_files(inputs, tmp_path / "out", append_eod=True)
    assert pair(tmp_path / "out") == reference(["one", "two", "three", "four"])
    assert [Path(source.path).name for source in manifest.sources] == ["b.jsonl", "e.jsonl", "a.txt", "c.json"]
    assert len(IndexedDataset(tmp_path / "out")) == 4
