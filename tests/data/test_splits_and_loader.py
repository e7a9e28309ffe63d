"""Splits by range and by hash, and the map from consumed samples to batches."""

import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from megadape.data import (
    IndexedDataset,
    IndexedDatasetWriter,
    TokenSamples,
    batch_indices,
    micro_batches,
    split_sequences,
)
from megadape.data.build import DataSettings
from megadape.data.splits import SplitBy, parse_split
from megadape.errors import ConfigurationError, DataError


def dataset_of(prefix: Path, sequences: list[int]) -> IndexedDataset:
    """Documents of the given numbers of sequences, one token each."""
    with IndexedDatasetWriter(prefix, "i4") as writer:
        for count in sequences:
            writer.add_document([[7]] * count)
    return IndexedDataset(prefix)


def test_range_split_follows_megatron(tmp_path: Path) -> None:
    splits = split_sequences(dataset_of(tmp_path / "x", [1] * 1000), "969,30,1")
    assert [len(part) for part in splits] == [969, 30, 1]
    assert np.concatenate(splits).tolist() == list(range(1000))


@pytest.mark.filterwarnings("ignore")
def test_range_bounds_equal_megatron_core(tmp_path: Path) -> None:
    try:
        from megatron.core.datasets.blended_megatron_dataset_config import (
            convert_split_vector_to_split_matrix,
            parse_and_normalize_split,
        )
    except ImportError as error:
        if "CI" in os.environ:
            pytest.fail(f"megatron-core cannot be imported: {error}")
        pytest.skip(f"megatron-core cannot be imported: {error}")
    for count in (1, 2, 3, 7, 10, 33, 333, 1001):
        dataset = dataset_of(tmp_path / "x", [1] * count)
        for split in ("969,30,1", "98,2,0", "8,1,1", "1,1,1", "0.7,0.2,0.1", "90,5,5", "100", "0,1,1"):
            matrix = convert_split_vector_to_split_matrix(parse_and_normalize_split(split))
            theirs = [
                (0, 0) if part is None else tuple(round(bound * float(count)) for bound in part) for part in matrix
            ]
            for (first, last), ours in zip(theirs, split_sequences(dataset, split), strict=True):
                assert ours.tolist() == list(range(first, last)), (count, split)


@given(
    sequences=st.lists(st.integers(0, 3), max_size=40),
    split=st.sampled_from(["969,30,1", "8,1,1", "1", "1,1", "0,1,1"]),
    by=st.sampled_from(["range", "hash"]),
)
def test_splits_are_a_partition(
    tmp_path_factory: pytest.TempPathFactory, sequences: list[int], split: str, by: SplitBy
) -> None:
    dataset = dataset_of(tmp_path_factory.mktemp("split") / "x", sequences)
    parts = split_sequences(dataset, split, by, seed=3)
    assert sorted(np.concatenate(parts).tolist()) == list(range(len(dataset)))
    for part in parts:
        assert part.dtype == np.int64
        assert (np.diff(part) > 0).all()
    for share, part in zip(parse_split(split), parts, strict=True):
        assert share > 0 or len(part) == 0


def test_hash_split_deals_whole_documents_by_their_shares(tmp_path: Path) -> None:
    dataset = dataset_of(tmp_path / "x", [2] * 20_000)
    splits = split_sequences(dataset, "80,15,5", "hash", seed=1)
    assert [len(part) / 40_000 for part in splits] == pytest.approx([0.8, 0.15, 0.05], abs=0.01)
    for part in splits:
        assert (part[::2] % 2 == 0).all()
        assert (part[1::2] == part[::2] + 1).all()
    # not a contiguous piece: every part reaches over the whole corpus
    assert splits.test.min() < 2000
    assert splits.test.max() > 38_000


def test_hash_split_depends_on_its_seed_alone(tmp_path: Path) -> None:
    dataset = dataset_of(tmp_path / "x", [1] * 500)
    longer = dataset_of(tmp_path / "y", [1] * 600)
    first, again = (split_sequences(dataset, "8,1,1", "hash", seed=1) for _ in range(2))
    other = split_sequences(dataset, "8,1,1", "hash", seed=2)
    assert first.test.tolist() == again.test.tolist() != other.test.tolist()
    grown = split_sequences(longer, "8,1,1", "hash", seed=1)
    assert grown.test[grown.test < 500].tolist() == first.test.tolist()


@pytest.mark.parametrize("split", ["", "a,b,c", "1,2,3,4", "-1,2,3", "0,0,0", "1,,2", "nan,1,1", "1e3"])
def test_a_malformed_split_is_refused(tmp_path: Path, split: str) -> None:
    with pytest.raises(DataError, match="split"):
        parse_split(split)
    with pytest.raises(ValidationError, match="split"):
        DataSettings(prefix=tmp_path, split=split)


@given(micro=st.integers(1, 4), ranks=st.integers(1, 4), accumulation=st.integers(1, 4), consumed=st.integers(0, 10**9))
def test_the_ranks_of_a_step_share_its_samples(micro: int, ranks: int, accumulation: int, consumed: int) -> None:
    batch = micro * ranks * accumulation
    taken = [batch_indices(consumed, batch, micro, rank, ranks) for rank in range(ranks)]
    assert all(part.shape == (accumulation, micro) for part in taken)
    # whatever the layout, the step takes the next samples, each once
    assert sorted(np.concatenate(taken).ravel().tolist()) == list(range(consumed, consumed + batch))


def test_batches_go_on_from_any_position(tmp_path: Path) -> None:
    with IndexedDatasetWriter(tmp_path / "x", "i4") as writer:
        writer.add_document([range(200)])
    samples = TokenSamples(IndexedDataset(tmp_path / "x"), np.array([0]), 4, 14, seed=0)
    whole = list(micro_batches(samples, 0, 4, 2))
    assert len(whole) == 6  # 14 samples fill three steps of four
    assert {batch.shape for batch in whole} == {(2, 5)}
    resumed = list(micro_batches(samples, 4, 4, 2))
    assert [batch.tolist() for batch in resumed] == [batch.tolist() for batch in whole[2:]]
    both = [list(micro_batches(samples, 0, 4, 1, rank, 2)) for rank in range(2)]
    for step in range(3):
        alone = np.concatenate(whole[2 * step : 2 * step + 2])
        shared = np.concatenate([batch for part in both for batch in part[2 * step : 2 * step + 2]])
        assert sorted(alone.tolist()) == sorted(shared.tolist())


def test_a_batch_that_does_not_divide_names_its_factors() -> None:
    with pytest.raises(ConfigurationError, match=r"10 samples is not a multiple of 2 \(micro-batch\) x 3"):
        batch_indices(0, 10, 2, 0, 3)
