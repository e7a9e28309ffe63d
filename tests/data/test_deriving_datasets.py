"""Merging, splitting, shuffling: no document is lost or changed, the manifest stays true, nothing is half written."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from dataset_examples import (
    TEXTS_A,
    TEXTS_B,
    Documents,
    contents,
    documents_of,
    preprocess_texts,
    takes_less_than,
    word_tokenizer,
    write_pair,
)
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from megadape.data import (
    IndexedDataset,
    IndexedDatasetWriter,
    load_manifest,
    load_tokenizer,
    preprocess_files,
    split_sequences,
)
from megadape.data.maintenance import merge_datasets, shuffle_dataset, split_dataset, validate_dataset
from megadape.data.maintenance.gathering import copy_documents, gather
from megadape.data.maintenance.metering import Meter
from megadape.data.maintenance.shuffling import document_order
from megadape.errors import DataError, TokenizerError

DOCUMENTS = st.lists(st.lists(st.lists(st.integers(0, 99), max_size=4), max_size=3), max_size=8)
PARTS = ("train", "valid", "test")


@pytest.fixture
def two(tmp_path: Path) -> tuple[Path, Path]:
    return preprocess_texts(tmp_path / "a", TEXTS_A), preprocess_texts(tmp_path / "b", TEXTS_B)


def texts_of(prefix: Path) -> list[str]:
    tokenizer = load_tokenizer(prefix)
    return [tokenizer.decode([token for one in document for token in one]) for document in documents_of(prefix)]


@pytest.mark.parametrize("append_eod", [True, False])
def test_merging_equals_preprocessing_everything_at_once(tmp_path: Path, append_eod: bool) -> None:
    parts = [
        preprocess_texts(tmp_path / name, texts, append_eod=append_eod)
        for name, texts in (("a", TEXTS_A), ("b", TEXTS_B))
    ]
    merge_datasets(parts, tmp_path / "merged")
    preprocess_files([tmp_path / "a.jsonl", tmp_path / "b.jsonl"], tmp_path / "whole", append_eod=append_eod)
    for ending in (".bin", ".idx"):
        assert (tmp_path / f"merged{ending}").read_bytes() == (tmp_path / f"whole{ending}").read_bytes()
    merged, whole = load_manifest(tmp_path / "merged", verify=True), load_manifest(tmp_path / "whole")
    assert [operation.name for operation in merged.operations] == ["merge"]
    assert [one.name for one in merged.operations[0].inputs] == ["a", "b"]
    assert merged.model_dump(exclude={"operations"}) == whole.model_dump(exclude={"operations"})
    assert texts_of(tmp_path / "merged") == TEXTS_A + TEXTS_B


@given(several=st.lists(DOCUMENTS, min_size=1, max_size=3), dtypes=st.lists(st.sampled_from(["u1", "u2", "i4", "i8"])))
@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_merging_keeps_every_document_and_its_bounds(
    tmp_path: Path, several: list[Documents], dtypes: list[str]
) -> None:
    names = [tmp_path / str(number) for number in range(len(several))]
    types = [*dtypes, "u2", "u2", "u2"][: len(names)]
    for name, documents, dtype in zip(names, several, types, strict=True):
        write_pair(name, documents, dtype)
    merged = merge_datasets(names, tmp_path / "merged", widen=True)
    assert documents_of(tmp_path / "merged") == [document for documents in several for document in documents]
    assert IndexedDataset(tmp_path / "merged").dtype == np.result_type(*types)
    assert merged.manifest is None
    assert not (tmp_path / "merged.json").exists()


OTHERS: dict[str, tuple[Callable[[Path], object], str]] = {
    "another tokenizer": (
        lambda prefix: preprocess_texts(prefix, ["a b"], **word_tokenizer(prefix.with_suffix(".words.json"))),
        r"other was made by another tokenizer \(huggingface, 4 tokens, digest \w+\) than .*a \(byte, 257 tokens",
    ),
    "no end tokens": (
        lambda prefix: preprocess_texts(prefix, ["text"], append_eod=False),
        "a end with an end token and those of",
    ),
    "no manifest": (lambda prefix: write_pair(prefix, [[[1]]]), "other has no manifest, so nothing says"),
    "another token type": (lambda prefix: write_pair(prefix, [[[1]]], "i4"), "other holds int32 tokens, but .*uint16"),
    "a missing half": (lambda prefix: (prefix.with_suffix(".idx")).write_bytes(b""), "there is no .*other.bin"),
    "nothing": (lambda prefix: None, "there is no .*other.idx"),
    "a damaged index": (
        lambda prefix: write_pair(prefix, [[[1]]]).with_suffix(".idx").write_bytes(b"MMIDIDX"),
        "other.idx is truncated",
    ),
}


@pytest.mark.parametrize("case", OTHERS)
def test_what_cannot_be_merged_is_refused_and_nothing_is_written(tmp_path: Path, case: str) -> None:
    make, message = OTHERS[case]
    good = preprocess_texts(tmp_path / "a", TEXTS_A)
    make(tmp_path / "other")
    before = contents(tmp_path)
    for order in ([good, tmp_path / "other"], [tmp_path / "other", good]):
        with pytest.raises(DataError, match=message if order[0] == good else None):
            merge_datasets(order, tmp_path / "out")
    assert contents(tmp_path) == before


def test_nothing_to_merge_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="nothing to merge"):
        merge_datasets([], tmp_path / "out")


def test_a_missing_manifest_can_be_vouched_for(tmp_path: Path) -> None:
    known = preprocess_texts(tmp_path / "a", ["ab"])
    write_pair(tmp_path / "b", [[[1]]])
    merge_datasets([known, tmp_path / "b"], tmp_path / "out", manifests=False)
    assert documents_of(tmp_path / "out") == [[[97, 98, 256]], [[1]]]
    assert not (tmp_path / "out.json").exists()


def test_what_became_of_every_record_is_still_told(tmp_path: Path) -> None:
    """Sources with bad lines, and under different keys, before and after merging, shuffling and splitting."""
    for name, key in (("a", "text"), ("b", "body")):
        lines = [f'{{"{key}": "{name}{number}"}}' for number in range(6)] + ["{", '{"other": 1}']
        (tmp_path / f"{name}.jsonl").write_text("\n".join(lines))
        preprocess_files([tmp_path / f"{name}.jsonl"], tmp_path / name, json_key=key, on_bad_line="skip")
    merge_datasets([tmp_path / "a", tmp_path / "b"], tmp_path / "ab")
    shuffle_dataset(tmp_path / "ab", tmp_path / "mixed", 1)
    parts = split_dataset(tmp_path / "mixed", "1,1,1")
    merged = load_manifest(tmp_path / "mixed")
    assert (merged.records, merged.documents, merged.bad, merged.on_bad_line) == (16, 12, 4, "skip")
    assert [(one.records, one.documents, one.bad) for one in merged.sources] == [(8, 6, 2)] * 2
    assert merged.operations[0].options == {"json_key": ["text", "body"]}
    for part in parts:
        assert part.manifest is not None
        assert (part.manifest.records, part.manifest.documents, part.manifest.bad) == (4, 4, 0)
    for name in ("ab", "mixed", "mixed_train", "mixed_valid", "mixed_test"):
        assert validate_dataset(tmp_path / name, deep=True).problems == ()


def test_what_is_read_is_never_written_over(two: tuple[Path, Path], tmp_path: Path) -> None:
    (tmp_path / "link.idx").symlink_to(two[0].with_suffix(".idx"))
    before = contents(tmp_path)
    for out in (two[1], tmp_path / "x" / ".." / "a", tmp_path / "link"):
        with pytest.raises(DataError, match="is read and would be written over"):
            merge_datasets(two, out)
        with pytest.raises(DataError, match="is read and would be written over"):
            shuffle_dataset(two[1] if out == two[1] else two[0], out, 1)
    (tmp_path / "a_valid.bin").symlink_to(two[0].with_suffix(".bin"))
    with pytest.raises(DataError, match="is read and would be written over"):
        split_dataset(two[0], "8,1,1")
    (tmp_path / "a_valid.bin").unlink()
    assert contents(tmp_path) == before


def test_a_file_of_the_manifests_name_is_kept(two: tuple[Path, Path], tmp_path: Path) -> None:
    (tmp_path / "out.json").write_text('{"text": "a corpus"}')
    with pytest.raises(DataError, match=r"out.json is there and is not the manifest of a dataset"):
        merge_datasets(two, tmp_path / "out")
    write_pair(tmp_path / "foreign", [[[1]]])
    with pytest.raises(DataError, match=r"b.json is there and describes another dataset"):
        shuffle_dataset(tmp_path / "foreign", two[1], 1)  # it would have no manifest of its own
    assert (tmp_path / "out.json").read_text() == '{"text": "a corpus"}'


def test_a_changed_tokenizer_is_not_handed_on(tmp_path: Path) -> None:
    options = word_tokenizer(tmp_path / "words.json")
    source = preprocess_texts(tmp_path / "a", ["a b a", "b", "a"], **options)
    merge_datasets([source], tmp_path / "deep" / "copy")
    (tmp_path / "deep" / "copy.jsonl").write_text("")
    assert load_tokenizer(tmp_path / "deep" / "copy").digest == load_tokenizer(source).digest
    split_dataset(source, "1,1,1")
    assert [texts_of(tmp_path / f"a_{part}") for part in PARTS] == [["a b a"], ["b"], ["a"]]

    copy = source.parent / load_manifest(source).tokenizer.files["model"]
    copy.write_text(copy.read_text().replace('"a"', '"c"'))
    for derive in (
        lambda: merge_datasets([source], tmp_path / "out"),
        lambda: shuffle_dataset(source, tmp_path / "out", 1),
        lambda: split_dataset(source, "1,1", output_prefix=tmp_path / "out"),
    ):
        with pytest.raises(TokenizerError, match="is not the one that wrote the dataset"):
            derive()
    assert not list(tmp_path.glob("out*"))


def test_a_shuffle_is_the_same_on_any_machine() -> None:
    assert document_order(10, 7).tolist() == SHUFFLED
    assert document_order(0, 7).tolist() == []
    order = document_order(100_000, 2**32 - 1)
    assert np.array_equal(np.sort(order), np.arange(100_000))
    assert not np.array_equal(order, document_order(100_000, 2**32 - 2))
    for seed in (-1, 2**32):
        with pytest.raises(DataError, match="cannot be a seed"):
            document_order(3, seed)


SHUFFLED = [8, 5, 0, 2, 1, 9, 7, 3, 6, 4]


@given(documents=DOCUMENTS, seed=st.integers(0, 2**32 - 1))
@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_shuffling_puts_every_document_where_the_order_says(tmp_path: Path, documents: Documents, seed: int) -> None:
    write_pair(tmp_path / "in", documents)
    shuffle_dataset(tmp_path / "in", tmp_path / "out", seed)
    assert documents_of(tmp_path / "out") == [documents[i] for i in document_order(len(documents), seed)]


def test_a_shuffled_dataset_has_the_same_texts_and_manifest(two: tuple[Path, Path], tmp_path: Path) -> None:
    shuffle_dataset(two[0], tmp_path / "out", 3)
    before, after = load_manifest(two[0]), load_manifest(tmp_path / "out", verify=True)
    assert sorted(texts_of(tmp_path / "out")) == sorted(TEXTS_A)
    changed = {"operations", "bin_sha256", "idx_sha256"}
    assert after.model_dump(exclude=changed) == before.model_dump(exclude=changed)
    assert [(one.name, one.options) for one in after.operations] == [("shuffle", {"seed": 3})]
    shuffle_dataset(tmp_path / "out", tmp_path / "again", 4)
    assert [one.options["seed"] for one in load_manifest(tmp_path / "again").operations] == [3, 4]


@pytest.mark.parametrize(("by", "seed"), [("range", 0), ("hash", 0), ("hash", 7)])
def test_parts_are_what_splitting_while_training_gives(corpus: Path, tmp_path: Path, by: str, seed: int) -> None:
    texts = [f"document {number} " * (number % 7) for number in range(300)]
    source = preprocess_texts(tmp_path / "a", texts)
    parts = split_dataset(source, "80,15,5", by=by, seed=seed)
    whole = IndexedDataset(source)
    wanted = split_sequences(whole, "80,15,5", by, seed)  # type: ignore[arg-type]
    for part, sequences in zip(parts, wanted, strict=True):
        written = IndexedDataset(part.prefix)
        assert [one.tolist() for one in written[:]] == [whole[i].tolist() for i in sequences]
        assert part.manifest is not None
        own = [texts[i] for i in sequences]
        assert part.manifest.text_bytes == sum(map(len, own))
        assert part.manifest.empty_documents == own.count("")
        assert part.manifest.documents == len(sequences)
        assert validate_dataset(part.prefix, deep=True).problems == ()
    assert [part.prefix.name for part in parts] == ["a_train", "a_valid", "a_test"]


@given(documents=DOCUMENTS, by=st.sampled_from(["range", "hash"]), shares=st.sampled_from(["1", "1,1", "5,3,2", "0,1"]))
@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_every_document_is_in_one_part_whole(tmp_path: Path, documents: Documents, by: str, shares: str) -> None:
    source = write_pair(tmp_path / "in", documents)
    if not any(documents):
        with pytest.raises(DataError, match="is empty"):
            split_dataset(source, shares, by=by)
        return
    parts = split_dataset(source, shares, by=by, output_prefix=tmp_path / "out")
    written = [documents_of(part.prefix) for part in parts]
    together = sorted(document for part in written for document in part)
    assert together == sorted(documents)
    wanted = split_sequences(IndexedDataset(source), shares, by)  # type: ignore[arg-type]
    firsts = [sum(map(len, documents[:i])) for i in range(len(documents))]
    for part, sequences in zip(written, wanted, strict=True):
        filled = [document for document in part if document]
        assert filled == [one for one, first in zip(documents, firsts, strict=True) if one and first in sequences]


def test_splitting_again_leaves_no_part_of_the_first_time(tmp_path: Path) -> None:
    source = write_pair(tmp_path / "a", [[[number]] for number in range(10)])
    split_dataset(source, "8,1,1")
    split_dataset(source, "9,1")
    assert [len(IndexedDataset(tmp_path / f"a_{part}")) for part in PARTS] == [9, 1, 0]


def test_mistakes_in_splitting_are_told(two: tuple[Path, Path]) -> None:
    for arguments, message in (
        ({"shares": "8;2"}, "malformed"),
        ({"shares": "0,0"}, "leaves nothing"),
        ({"shares": "8,2", "by": "random"}, "choose one of range, hash"),
    ):
        with pytest.raises(DataError, match=message):
            split_dataset(two[0], **arguments)


def test_an_id_that_the_tokenizer_has_not_stops_a_split(two: tuple[Path, Path], tmp_path: Path) -> None:
    with two[0].with_suffix(".bin").open("r+b") as file:
        file.write(b"\xff\xff")
    with pytest.raises(DataError, match="holds the token 65535, which its tokenizer of 257 has not"):
        split_dataset(two[0], "1")
    assert not list(tmp_path.glob("a_*"))


DERIVATIONS: dict[str, Callable[[Path, Path, Callable[[int, int], None]], object]] = {
    "merge": lambda source, out, tell: merge_datasets([source, source], out, tell=tell),
    "split": lambda source, out, tell: split_dataset(source, "2,1,1", output_prefix=out, tell=tell),
    "shuffle": lambda source, out, tell: shuffle_dataset(source, out, 1, tell),
}


@pytest.mark.parametrize("name", DERIVATIONS)
def test_an_interruption_leaves_what_was_there_and_nothing_else(name: str, tmp_path: Path) -> None:
    source = preprocess_texts(tmp_path / "a", [f"text {number}" for number in range(50)])
    DERIVATIONS[name](preprocess_texts(tmp_path / "old", ["older"]), tmp_path / "out", lambda *_: None)
    before = contents(tmp_path)

    def interrupt(done: int, total: int) -> None:
        assert 0 < done <= total
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        DERIVATIONS[name](source, tmp_path / "out", interrupt)
    assert contents(tmp_path) == before


@pytest.mark.parametrize("name", DERIVATIONS)
def test_a_kill_leaves_what_was_there_and_the_next_one_clears_up(name: str, tmp_path: Path) -> None:
    source = preprocess_texts(tmp_path / "a", [f"text {number}" for number in range(50)])
    before = contents(tmp_path)
    code = (
        "import os, signal, sys; from pathlib import Path; sys.path.append(sys.argv[1])\n"
        "from test_deriving_datasets import DERIVATIONS\n"
        "source, out = map(Path, sys.argv[3:])\n"
        "DERIVATIONS[sys.argv[2]](source, out, lambda *_: os.kill(os.getpid(), signal.SIGKILL))"
    )
    arguments = [str(Path(__file__).parent), name, str(source), str(tmp_path / "out")]
    done = subprocess.run([sys.executable, "-c", code, *arguments], check=False)
    assert done.returncode == -signal.SIGKILL
    assert {name: content for name, content in contents(tmp_path).items() if not name.startswith(".")} == before
    DERIVATIONS[name](source, tmp_path / "out", lambda *_: None)
    assert not list(tmp_path.glob(".*"))


def test_a_dataset_replaced_or_cut_while_it_is_read_is_an_error(tmp_path: Path) -> None:
    write_pair(tmp_path / "a", [[[1, 2, 3]]])
    opened = IndexedDataset(tmp_path / "a")
    with IndexedDatasetWriter(tmp_path / "out", "u2") as writer:
        (tmp_path / "a.bin").write_bytes(b"\1\0")  # in place, as no tool of ours does
        with pytest.raises(DataError, match="it became shorter while it was read"):
            copy_documents(opened, np.arange(1), writer, Meter(3, None))
    write_pair(tmp_path / "a", [[[4, 5, 6]]])
    with pytest.raises(DataError, match=r"a.bin was replaced while it was read"):
        next(gather(opened, np.arange(1)))


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """48 MiB: many short documents, and one of 16 million tokens."""
    prefix = tmp_path_factory.mktemp("large") / "large"
    with IndexedDatasetWriter(prefix, "u1") as writer:
        for _ in range(16):
            writer.add_documents(np.arange(2 << 20, dtype=np.uint8), np.full(2 << 10, 1 << 10))
        writer.add_document([np.arange(16 << 20, dtype=np.uint8)])
    return prefix


@pytest.mark.parametrize("name", DERIVATIONS)
def test_little_of_a_dataset_is_in_memory(name: str, large: Path, tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    assert takes_less_than(
        16 << 20, lambda: DERIVATIONS[name](large, tmp_path / "out", lambda *progress: seen.append(progress))
    )
    tokens = 48 << 20
    assert seen[-1] == (2 * tokens, 2 * tokens) if name == "merge" else (tokens, tokens)
    assert len(seen) > 20
