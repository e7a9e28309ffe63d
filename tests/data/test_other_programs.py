"""Megatron-core and datatrove: they read what is written here, and the reverse."""

from __future__ import annotations

import os
from importlib import import_module
from itertools import pairwise
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from dataset_examples import Documents, documents_of, preprocess_texts, word_tokenizer, write_pair

from megadape.data import IndexedDataset
from megadape.data.maintenance import (
    inspect_dataset,
    merge_datasets,
    shuffle_dataset,
    split_dataset,
    validate_dataset,
    view_document,
)
from megadape.errors import DataError

pytestmark = pytest.mark.filterwarnings("ignore")

FIRST: Documents = [[[1, 2], [3]], [], [[4]], []]
SECOND: Documents = [[[5, 6, 7]], [], [[8], [9, 10]]]


def imported(name: str) -> ModuleType:
    """A module of another program; a test without it is no test in CI."""
    try:
        return import_module(name)
    except ImportError as error:
        message = f"{name} cannot be imported ({error}): make installs it"
        if "CI" in os.environ:
            pytest.fail(message)
        pytest.skip(message)


@pytest.fixture
def megatron() -> ModuleType:
    return imported("megatron.core.datasets.indexed_dataset")


def read_by(megatron: ModuleType, prefix: Path) -> Documents:
    """All documents, as Megatron-core reads them."""
    dataset = megatron.IndexedDataset(str(prefix))
    sequences = [dataset[number].tolist() for number in range(len(dataset))]
    bounds = dataset.document_indices.tolist()
    return [sequences[a:b] for a, b in pairwise(bounds)]


def write_by(megatron: ModuleType, prefix: Path, documents: Documents, dtype: type = np.uint16) -> Path:
    import torch

    builder = megatron.IndexedDatasetBuilder(f"{prefix}.bin", dtype=dtype)
    for document in documents:
        tokens = [token for sequence in document for token in sequence]
        builder.add_document(torch.tensor(tokens, dtype=torch.int64), [len(sequence) for sequence in document])
    builder.finalize(f"{prefix}.idx")
    return prefix


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int32, np.int64])
def test_merging_gives_megatrons_bytes(megatron: ModuleType, tmp_path: Path, dtype: type) -> None:
    write_pair(tmp_path / "a", FIRST, np.dtype(dtype).str)
    write_by(megatron, tmp_path / "b", SECOND, dtype)
    merge_datasets([tmp_path / "a", tmp_path / "b"], tmp_path / "ours")
    builder = megatron.IndexedDatasetBuilder(str(tmp_path / "theirs.bin"), dtype=dtype)
    for name in ("a", "b"):
        builder.add_index(str(tmp_path / name))
    builder.finalize(str(tmp_path / "theirs.idx"))
    for ending in (".bin", ".idx"):
        assert (tmp_path / f"ours{ending}").read_bytes() == (tmp_path / f"theirs{ending}").read_bytes()
    assert read_by(megatron, tmp_path / "ours") == FIRST + SECOND
    assert documents_of(tmp_path / "theirs") == FIRST + SECOND


def test_megatron_reads_what_is_split_and_shuffled(megatron: ModuleType, tmp_path: Path) -> None:
    source = preprocess_texts(tmp_path / "a", [f"text {number}" for number in range(40)], append_eod=False)
    wanted = documents_of(source)
    shuffle_dataset(source, tmp_path / "mixed", 11)
    parts = split_dataset(tmp_path / "mixed", "2,1,1", by="hash", seed=11)
    assert sorted(read_by(megatron, tmp_path / "mixed")) == sorted(wanted)
    assert sorted(one for part in parts for one in read_by(megatron, part.prefix)) == sorted(wanted)


def test_what_megatron_writes_goes_through_every_command(megatron: ModuleType, tmp_path: Path) -> None:
    source = write_by(megatron, tmp_path / "theirs", FIRST + SECOND, np.int32)
    assert validate_dataset(source, deep=True).problems == ()
    assert dict(inspect_dataset(source).facts)["documents"] == "7, 3 of them without tokens"
    assert [one.tolist() for one in view_document(source, 6).sequences] == [[8], [9, 10]]
    shuffle_dataset(source, tmp_path / "mixed", 1)
    assert sorted(documents_of(tmp_path / "mixed")) == sorted(FIRST + SECOND)


def test_a_document_index_lost_in_merging_is_told(megatron: ModuleType, tmp_path: Path) -> None:
    """What other merging tools wrote: sequences without the documents that they belong to."""
    builder = megatron.IndexedDatasetBuilder(str(tmp_path / "x.bin"), dtype=np.uint16)
    import torch

    builder.add_item(torch.tensor([1, 2, 3]))
    builder.finalize(str(tmp_path / "x.idx"))
    with pytest.raises(DataError, match=r"the document index of .*x.idx runs from 0 to 0, but must run from 0 to 1"):
        validate_dataset(tmp_path / "x").require_sound()


def test_megatrons_multimodal_indexes_are_read(megatron: ModuleType, tmp_path: Path) -> None:
    import torch

    builder = megatron.IndexedDatasetBuilder(str(tmp_path / "x.bin"), dtype=np.int32, multimodal=True)
    builder.add_document(torch.tensor([1, 2, 3]), [2, 1], [0, 1])
    builder.finalize(str(tmp_path / "x.idx"))
    dataset = IndexedDataset(tmp_path / "x", multimodal=True)
    assert [one.tolist() for one in dataset[:]] == [[1, 2], [3]]
    assert dataset.modes is not None
    assert dataset.modes.tolist() == [0, 1]


@pytest.mark.parametrize("token_size", [2, 4])
def test_what_datatrove_writes_is_read(tmp_path: Path, token_size: int) -> None:
    megatron_tokenizer = imported("datatrove.pipeline.tokens.megatron_tokenizer")
    documents = [[7, 8, 9], [], [65_000], [1, 2]]
    file = megatron_tokenizer.MegatronTokenizedFile(str(tmp_path), "theirs", token_size=token_size)
    for document in documents:
        file.write(document)
    file.close()
    assert documents_of(tmp_path / "theirs") == [[document] for document in documents]
    assert IndexedDataset(tmp_path / "theirs").dtype.itemsize == token_size
    assert validate_dataset(tmp_path / "theirs", deep=True).problems == ()
    merge_datasets([tmp_path / "theirs"] * 2, tmp_path / "twice")
    assert documents_of(tmp_path / "twice") == [[document] for document in documents * 2]


def test_datatroves_pipeline_and_preprocessing_give_the_same_tokens(tmp_path: Path) -> None:
    megatron_tokenizer = imported("datatrove.pipeline.tokens.megatron_tokenizer")
    from datatrove.data import Document

    texts = ["a b b a", "b", "a a"]
    options = word_tokenizer(tmp_path / "words.json")
    step = megatron_tokenizer.MegatronDocumentTokenizer(
        str(tmp_path / "theirs"), "x", tokenizer_name_or_path=str(tmp_path / "words.json"), eos_token="<|endoftext|>"
    )
    step.run(iter([Document(text, str(number)) for number, text in enumerate(texts)]))
    ours = preprocess_texts(tmp_path / "ours", texts, **options)
    assert documents_of(tmp_path / "theirs" / "x_00000_tokens") == documents_of(ours)
