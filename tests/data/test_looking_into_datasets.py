"""Inspecting, validating and measuring datasets."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from dataset_examples import TEXTS_A, TEXTS_B, preprocess_texts, takes_less_than, word_tokenizer, write_pair
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from megadape.data import IndexedDatasetWriter
from megadape.data.indexed_tables import map_file
from megadape.data.maintenance import (
    inspect_dataset,
    measure_lengths,
    merge_datasets,
    shuffle_dataset,
    split_dataset,
    validate_dataset,
    view_document,
)
from megadape.data.maintenance.statistics import histogram_of
from megadape.data.maintenance.validation import _blocks
from megadape.errors import DataError
from megadape.evaluation.figures import draw_lengths, write_lengths_csv


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    return preprocess_texts(tmp_path / "a", TEXTS_A)


def test_an_inspection_says_what_a_dataset_is(dataset: Path, tmp_path: Path) -> None:
    merge_datasets([dataset, dataset], tmp_path / "twice")
    shuffle_dataset(tmp_path / "twice", tmp_path / "mixed", 5)
    inspection = inspect_dataset(tmp_path / "mixed")
    facts = dict(inspection.facts)
    size = 2 * (sum(len(text.encode()) for text in TEXTS_A) + len(TEXTS_A))
    assert facts["token type"] == "uint16"
    assert facts["bin"] == f"{2 * size:,} bytes"
    assert facts["documents"] == "10, 0 of them without tokens"
    assert facts["tokens"] == f"{size:,}"
    assert facts["tokenizer"] == "byte, 257 tokens"
    assert facts["end token"] == "256, after every document"
    assert facts["text"] == f"{size - 10} bytes, {(size - 10) / size:.2f} a token; 2 documents are empty texts"
    assert facts["merge"] == "of a, a"
    assert facts["shuffle"] == "of twice; seed 5"
    assert [row[0] for row in inspection.sources] == [str(tmp_path / "a.jsonl")] * 2


def test_a_dataset_of_another_program_is_inspected_too(tmp_path: Path) -> None:
    prefix = write_pair(tmp_path / "a", [[[1, 2], [3]], [], [[4]]], "i4")
    facts = dict(inspect_dataset(prefix).facts)
    assert facts["manifest"].startswith("none: ")
    assert (facts["sequences"], facts["documents"]) == ("3", "3, 1 of them without tokens")
    assert [one.tolist() for one in view_document(prefix, 0).sequences] == [[1, 2], [3]]
    assert view_document(prefix, 1).sequences == ()
    assert [one.tolist() for one in view_document(prefix, -1).sequences] == [[4]]
    with pytest.raises(DataError, match=r"nothing says which tokenizer wrote .*a: it has no manifest"):
        view_document(prefix, 0, decode=True)
    for number in (3, -4):
        with pytest.raises(DataError, match=f"has no document {number}: it has 3, numbered from 0"):
            view_document(prefix, number)


def test_a_damaged_manifest_is_told_and_the_rest_is_shown(dataset: Path) -> None:
    dataset.with_suffix(".json").write_text("{}")
    facts = dict(inspect_dataset(dataset).facts)
    assert "is not the manifest of a dataset" in facts["manifest"]
    assert facts["documents"].startswith("5,")


def test_documents_are_decoded_by_the_datasets_own_tokenizer(dataset: Path, tmp_path: Path) -> None:
    assert [view_document(dataset, number, decode=True).text for number in range(len(TEXTS_A))] == TEXTS_A
    words = preprocess_texts(tmp_path / "w", ["a b b", "b"], **word_tokenizer(tmp_path / "words.json"))
    (tmp_path / "words.json").unlink()
    assert view_document(words, 0, decode=True).text == "a b b"
    assert view_document(words, 1).sequences[0].tolist() == [1, 3]


@pytest.mark.parametrize("deep", [False, True])
def test_sound_datasets_are_called_sound(dataset: Path, tmp_path: Path, deep: bool) -> None:
    other = preprocess_texts(tmp_path / "b", TEXTS_B)
    merge_datasets([dataset, other], tmp_path / "ab")
    shuffle_dataset(tmp_path / "ab", tmp_path / "mixed", 1)
    split_dataset(tmp_path / "mixed", "5,3,1", by="hash")
    merge_datasets([tmp_path / "mixed_train", tmp_path / "mixed_test"], tmp_path / "joined")
    write_pair(tmp_path / "foreign", [[[1], [2]], []])
    write_pair(tmp_path / "empty", [])
    for name in ("a", "ab", "mixed", "mixed_train", "mixed_valid", "mixed_test", "joined", "foreign", "empty"):
        verdict = validate_dataset(tmp_path / name, deep=deep)
        verdict.require_sound()
        assert f"{name} is sound: " in str(verdict)
        unknown = name in ("foreign", "empty")
        assert ("there is no manifest" in str(verdict)) == unknown
        assert ("digests and all" in str(verdict)) == (deep and not unknown)


def change_json(**changes: object) -> Callable[[Path], None]:
    def change(prefix: Path) -> None:
        path = prefix.with_suffix(".json")
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))

    return change


def change_bytes(ending: str, at: int, value: bytes) -> Callable[[Path], None]:
    def change(prefix: Path) -> None:
        path = prefix.with_suffix(ending)
        content = bytearray(path.read_bytes())
        content[at : at + len(value)] = value
        path.write_bytes(content)

    return change


def rewrite(documents: list[list[int]]) -> Callable[[Path], None]:
    """The pair anew, beside a manifest of the old one."""
    return lambda prefix: (write_pair(prefix, [[document] for document in documents]), None)[1]


DAMAGES: dict[str, tuple[Callable[[Path], None], bool, str]] = {
    "an id outside of the vocabulary": (
        change_bytes(".bin", 2, b"\x01\x01"),
        False,
        r"a.bin holds the id 257 at token 1, but ids are 0 to 256",
    ),
    "no end token": (
        change_bytes(".bin", 2 * (4 + 1 + 10) - 2, b"\x20\x00"),
        False,
        r"document 2 of .*a does not end with the end token 256",
    ),
    "another id": (change_bytes(".bin", 0, b"\x70"), True, r"a.bin is not what it was when a.json was written"),
    "another token type": (change_bytes(".idx", 17, b"\x03"), False, r"says that tokens are uint16, but .*says int16"),
    "data cut": (
        lambda prefix: prefix.with_suffix(".bin").write_bytes(b""),
        False,
        r"a.bin has 0 bytes, but its index",
    ),
    "index cut": (lambda prefix: prefix.with_suffix(".idx").write_bytes(b"MM"), False, r"a.idx is truncated"),
    "sizes": (change_bytes(".idx", 34, b"\x05"), False, r"a.idx places sequence 1 where the one before does not end"),
    "documents": (change_bytes(".idx", -8, b"\x04"), False, r"runs from 0 to 4, but must run from 0 to 5"),
    "counts": (change_json(tokens=3), False, r"a.json says 3 tokens, but .*a.idx has"),
    "sizes in the manifest": (change_json(bin_size=3), False, r"says that a.bin has 3 bytes, but it has"),
    "a digest": (change_json(idx_sha256="0" * 64), True, r"a.idx is not what it was when a.json was written"),
    "no manifest": (change_json(format="x"), False, r"a.json is not the manifest of a dataset \(format: "),
    "a tokenizer": (
        lambda prefix: change_json(
            tokenizer=json.loads(prefix.with_suffix(".json").read_text())["tokenizer"] | {"digest": "0" * 64}
        )(prefix),
        False,
        r"the tokenizer in .* is not the one that wrote the dataset",
    ),
    "other files": (rewrite([[1, 2, 256]]), False, r"says 5 documents, but .*a.idx has 1"),
}


@pytest.mark.parametrize("case", DAMAGES)
def test_every_damage_is_found(dataset: Path, case: str) -> None:
    damage, needs_deep, message = DAMAGES[case]
    damage(dataset)
    with pytest.raises(DataError, match=message):
        validate_dataset(dataset, deep=True).require_sound()
    shallow = validate_dataset(dataset)
    if needs_deep:
        assert shallow.problems == ()
    else:
        with pytest.raises(DataError, match=message):
            shallow.require_sound()


def test_all_problems_are_told_at_once(dataset: Path) -> None:
    change_bytes(".bin", 0, b"\xff\xff")(dataset)
    change_bytes(".bin", 2 * 3, b"\x00\x00")(dataset)
    change_json(tokens=7, documents=9)(dataset)
    change_json(operations=[{"name": "shuffle", "inputs": []}])(dataset)
    with pytest.raises(DataError) as told:
        validate_dataset(dataset, deep=True).require_sound()
    assert "a has 7 problems:" in str(told.value)
    for part in (
        "counts 5 records",
        "5 came out of its sources",
        "9 documents, but",
        "7 tokens",
        "id 65535 at token 0",
    ):
        assert part in str(told.value)
    for part in ("document 0 of", "a.bin is not what it was"):
        assert part in str(told.value)


def test_several_wrong_places_of_a_kind_are_counted(tmp_path: Path) -> None:
    texts = ["ab"] * 100
    prefix = preprocess_texts(tmp_path / "a", texts)
    tokens = np.fromfile(prefix.with_suffix(".bin"), np.uint16)
    tokens[30:60] = 999
    tokens.tofile(prefix.with_suffix(".bin"))
    problems = "".join(validate_dataset(prefix).problems)
    assert "the id 999 at token 30 (and 29 others)" in problems
    assert "document 10 of" in problems
    assert "(and 9 others) does not end" in problems


def test_negative_ids_are_a_problem_without_a_manifest_too(tmp_path: Path) -> None:
    prefix = write_pair(tmp_path / "a", [[[5, -6]]], "i4")
    assert validate_dataset(prefix).problems == (f"{prefix}.bin holds the id -6 at token 1, but ids are not negative",)


def test_multimodal_indexes_are_validated_when_asked(tmp_path: Path) -> None:
    prefix = write_pair(tmp_path / "a", [[[5], [6]]])
    with prefix.with_suffix(".idx").open("ab") as file:
        file.write(b"\0\1")
    assert validate_dataset(prefix, multimodal=True).problems == ()
    assert dict(inspect_dataset(prefix, multimodal=True).facts)["sequences"] == "2, each with a mode"
    with pytest.raises(DataError, match="fits multimodal=True"):
        validate_dataset(prefix).require_sound()


def test_a_sample_of_a_large_dataset_reaches_from_its_first_to_its_last_block(tmp_path: Path) -> None:
    with (tmp_path / "x").open("wb") as file:
        file.truncate((10 << 30) + 5)
    data = map_file(tmp_path / "x")
    sample = _blocks(data, deep=False)
    assert (sample[0], sample[-1], len(sample), len(set(sample))) == (0, 10 << 8, 64, 64)
    assert _blocks(data, deep=True) == list(range((10 << 8) + 1))


def test_validating_takes_little_memory_and_tells_how_far_it_is(tmp_path: Path) -> None:
    prefix = tmp_path / "x"
    with IndexedDatasetWriter(prefix, "u1") as writer:
        for _ in range(16):
            writer.add_documents(np.arange(2 << 20, dtype=np.uint8), np.full(2 << 10, 1 << 10))
    seen: list[tuple[int, int]] = []
    assert takes_less_than(
        8 << 20, lambda: validate_dataset(prefix, deep=True, tell=lambda *progress: seen.append(progress))
    )
    assert validate_dataset(prefix, deep=True).problems == ()
    assert seen[-8:] == [(number * 4 << 20, 32 << 20) for number in range(1, 9)]


@given(lengths=st.lists(st.integers(0, 300), min_size=1, max_size=40))
@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_lengths_are_measured(tmp_path: Path, lengths: list[int]) -> None:
    with IndexedDatasetWriter(tmp_path / "x", "u2") as writer:
        writer.add_documents(np.zeros(sum(lengths), np.uint16), lengths)
    measured = measure_lengths(tmp_path / "x")
    assert (measured.documents, measured.empty, measured.tokens) == (len(lengths), lengths.count(0), sum(lengths))
    assert measured.mean == pytest.approx(np.mean(lengths))
    assert measured.median == pytest.approx(np.median(lengths))
    assert measured.percentiles[99] == pytest.approx(np.percentile(lengths, 99))
    assert measured.longest == max(lengths)
    assert measured.bytes_per_token is None


@given(lengths=st.lists(st.one_of(st.integers(0, 20), st.integers(0, 10**6)), min_size=1, max_size=40))
def test_a_histogram_counts_every_document_once(lengths: list[int]) -> None:
    histogram = histogram_of(np.sort(np.array(lengths, np.int64)))
    assert (np.diff(histogram.edges) > 0).all()
    for (low, high), documents, tokens in zip(
        pairwise(histogram.edges.tolist()), histogram.documents, histogram.tokens, strict=True
    ):
        inside = [length for length in lengths if low <= length < high]
        assert (documents, tokens) == (len(inside), sum(inside))
    assert histogram.documents.sum() == sum(length > 0 for length in lengths)
    if max(lengths):
        assert histogram.documents[0] > 0
        assert histogram.documents[-1] > 0


@pytest.mark.parametrize("lengths", [[0], [7], [2048] * 9, list(range(100, 140)), [0, 1, 3, 10**5, 60, 70, 1000]])
def test_lengths_are_drawn_and_their_numbers_written(tmp_path: Path, lengths: list[int]) -> None:
    with IndexedDatasetWriter(tmp_path / "x", "u1") as writer:
        writer.add_documents(np.zeros(sum(lengths), np.uint8), lengths)
    measured = measure_lengths(tmp_path / "x")
    for name in ("one.png", "two.png", "x.svg"):
        draw_lengths(measured, tmp_path / name, title="a title")
    assert (tmp_path / "one.png").read_bytes() == (tmp_path / "two.png").read_bytes()
    drawn = (tmp_path / "x.svg").read_text()
    assert ("documents without tokens are not shown" in drawn) == (0 in lengths)
    assert (f"median {measured.median:,.10g}" in drawn) == (measured.median >= 1)
    write_lengths_csv(measured, tmp_path / "x.csv")
    with (tmp_path / "x.csv").open(newline="") as file:
        rows = [{key: int(value) for key, value in row.items()} for row in csv.DictReader(file)]
    assert sum(row["documents"] for row in rows) == len(lengths)
    assert sum(row["tokens"] for row in rows) == sum(lengths)


def test_bytes_a_token_come_from_the_manifest(dataset: Path, tmp_path: Path) -> None:
    text = sum(len(text.encode()) for text in TEXTS_A)
    assert measure_lengths(dataset).bytes_per_token == pytest.approx(text / (text + len(TEXTS_A)))
    write_pair(tmp_path / "none", [])
    with pytest.raises(DataError, match="has no documents"):
        measure_lengths(tmp_path / "none")
