"""Samples: golden vectors of both recipes, what the arrays must mean, and the cache that keeps them."""

import logging
import multiprocessing
import pickle
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from megadape.data import IndexedDataset, IndexedDatasetWriter, TokenSamples, build_sample_index, build_splits
from megadape.data.build import DataSettings, token_stream
from megadape.data.index_cache import IndexCache
from megadape.data.samples import Recipe, SampleIndex
from megadape.errors import DataError

ROWS_4 = [(0, 0), (0, 4), (2, 0), (2, 4), (3, 1)]
ROWS_MEGATRON_5 = [(0, 0), (0, 4), (2, 0), (2, 4), (3, 1), (5, 0), (5, 4), (6, 1), (7, 3)]
ROWS_TOGETHER = [(0, 0), (0, 4), (1, 1), (2, 2), (2, 6), (3, 3), (4, 2), (5, 1), (7, 0)]
TOGETHER = ([2, 1, 2, 0, 0, 1, 3, 3], ROWS_TOGETHER, [5, 0, 3, 4, 2, 6, 1, 7])
GOLDEN: list[tuple[int, Recipe, tuple[list[int], list[tuple[int, int]], list[int]]]] = [
    (4, "megatron", ([0, 1, 2, 3], ROWS_4, [1, 2, 3, 0])),
    (4, "neox", ([0, 1, 2, 3], ROWS_4, [1, 2, 3, 0])),
    (5, "megatron", ([0, 1, 2, 3, 1, 2, 3, 0], ROWS_MEGATRON_5, [0, 2, 3, 1, 7, 4, 6, 5])),
    (5, "neox", TOGETHER),
    (8, "megatron", TOGETHER),
    (8, "neox", TOGETHER),
]


@pytest.mark.parametrize(("samples", "recipe", "expected"), GOLDEN)
def test_golden_vectors(samples: int, recipe: Recipe, expected: tuple[Any, Any, Any]) -> None:
    index = build_sample_index(np.arange(4), np.array([5, 3, 7, 2], np.int32), 4, samples, 1234, recipe)
    assert index.document_index.tolist() == expected[0]
    assert index.sample_index.tolist() == [list(row) for row in expected[1]]
    assert index.shuffle_index.tolist() == expected[2]


def write(prefix: Path, sizes: list[int]) -> IndexedDataset:
    """Sequences of the given sizes; every token of the dataset is another number."""
    with IndexedDatasetWriter(prefix, "i4") as writer:
        first = 0
        for size in sizes:
            writer.add_document([np.arange(first, first + size)])
            first += size
    return IndexedDataset(prefix)


@given(
    sizes=st.lists(st.integers(0, 9), min_size=1, max_size=12),
    length=st.integers(1, 12),
    samples=st.integers(1, 40),
    seed=st.integers(0, 2**32 - 1),
    recipe=st.sampled_from(["megatron", "neox"]),
    data=st.data(),
)
def test_samples_are_the_stream_cut_in_pieces(
    tmp_path_factory: pytest.TempPathFactory,
    sizes: list[int],
    length: int,
    samples: int,
    seed: int,
    recipe: Recipe,
    data: st.DataObject,
) -> None:
    dataset = write(tmp_path_factory.mktemp("samples") / "x", sizes)
    ids = data.draw(st.lists(st.sampled_from(range(len(sizes))), unique=True, min_size=1).map(np.array))
    if dataset.sizes[ids].sum() < length + 1:
        with pytest.raises(DataError, match="fewer than one sample"):
            TokenSamples(dataset, ids, length, samples, seed, recipe)
        return
    drawn = TokenSamples(dataset, ids, length, samples, seed, recipe)
    index = drawn.index
    assert index.problem() is None
    epochs, rest = divmod(len(index.document_index), len(ids))
    assert rest == 0
    assert sorted(index.document_index.tolist()) == sorted(ids.tolist() * epochs)
    stream = token_stream(dataset, index.document_index)
    # the least number of epochs that gives enough samples
    per_epoch = int(dataset.sizes[ids].sum())
    assert (epochs * per_epoch - 1) // length == len(index.shuffle_index) >= samples
    assert epochs == 1 or ((epochs - 1) * per_epoch - 1) // length < samples
    assert len(drawn) == samples
    for k in range(samples):
        row = int(index.shuffle_index[k])
        assert drawn[k].dtype == np.int64
        assert drawn[k].tolist() == stream[row * length : (row + 1) * length + 1].tolist()


def test_a_separate_last_epoch_comes_last() -> None:
    """21 sequences of 10 tokens, L = 10: 20 samples an epoch; of 25 wanted the second epoch gives few."""
    sizes = np.full(21, 10, np.int32)
    index = build_sample_index(np.arange(21), sizes, 10, 25, 7, "megatron")
    assert sorted(index.document_index[:21].tolist()) == list(range(21))
    assert index.shuffle_index[:20].max() < 20 <= index.shuffle_index[20:].min()
    together = build_sample_index(np.arange(21), sizes, 10, 25, 7, "neox")
    assert sorted(together.document_index[:21].tolist()) != list(range(21))


def test_indexes_that_need_64_bits_get_them() -> None:
    wide = build_sample_index(
        np.array([2**31]), np.lib.stride_tricks.as_strided(np.array([9]), (2**31 + 1,), (0,)), 4, 1, 0
    )
    assert wide.document_index.tolist() == [2**31]


def test_numbers_of_samples_behave_like_a_sequence(tmp_path: Path) -> None:
    samples = TokenSamples(write(tmp_path / "x", [30]), np.array([0]), 4, 5, 0)
    assert samples[-1].tolist() == samples[np.int64(4)].tolist()
    with pytest.raises(IndexError):
        samples[5]
    again = pickle.loads(pickle.dumps(samples))  # noqa: S301 - our own bytes
    assert again[3].tolist() == samples[3].tolist()


@pytest.mark.parametrize("seed", [-1, 2**32])
def test_a_seed_that_numpy_cannot_take_is_named(tmp_path: Path, seed: int) -> None:
    with pytest.raises(DataError, match=f"data seed {seed} is out of range"):
        TokenSamples(write(tmp_path / "x", [30]), np.array([0]), 4, 5, seed)


def build(prefix: Path, samples: int = 3, length: int = 4, **changes: object) -> TokenSamples:
    settings = DataSettings.model_validate({"prefix": prefix, "split": "1", **changes})
    splits = build_splits(settings, length, (samples, 0, 0), seed=1)
    assert splits.train is not None
    return splits.train


def cached(folder: Path) -> list[Path]:
    return sorted(folder.iterdir()) if folder.exists() else []


def test_the_cache_gives_back_what_was_built(tmp_path: Path) -> None:
    dataset = write(tmp_path / "x", [5, 3, 7, 2])
    built = build(tmp_path / "x", samples=5)
    files = cached(tmp_path / "x.cache")
    assert len(files) == 1
    before = files[0].stat().st_mtime_ns
    again = build(tmp_path / "x", samples=5)
    plain = build_sample_index(np.arange(4), dataset.sizes, 4, 5, 1)
    for name in ("document_index", "sample_index", "shuffle_index"):
        assert getattr(again.index, name).dtype == getattr(built.index, name).dtype
        assert getattr(again.index, name).tolist() == getattr(plain, name).tolist()
    assert [path.stat().st_mtime_ns for path in cached(tmp_path / "x.cache")] == [before]
    assert [again[k].tolist() for k in range(5)] == [built[k].tolist() for k in range(5)]


def test_every_input_is_in_the_key(tmp_path: Path) -> None:
    write(tmp_path / "x", [5, 3, 7, 2, 9, 9, 9, 9])
    changes: list[dict[str, Any]] = [
        {},
        {"samples": 4},
        {"length": 3},
        {"seed": 2},
        {"recipe": "neox"},
        {"split": "9,1,0"},
        {"split": "1,1,0", "split_by": "hash"},
        {"split": "1,1,0", "split_by": "hash", "split_seed": 1},
    ]
    for number, change in enumerate(changes, 1):
        build(tmp_path / "x", **change)
        assert len(cached(tmp_path / "x.cache")) == number, change
    write(tmp_path / "x", [5, 3, 7, 2, 9, 9, 9, 10])
    build(tmp_path / "x")
    assert len(cached(tmp_path / "x.cache")) == len(changes) + 1


@pytest.mark.parametrize("damage", ["cut", "flip", "zeros", "empty", "text"])
def test_a_damaged_cache_is_built_again(tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture) -> None:
    write(tmp_path / "x", [50, 3])
    first = build(tmp_path / "x", samples=9)
    (path,) = cached(tmp_path / "x.cache")
    good = path.read_bytes()
    middle = len(good) // 2
    path.write_bytes(
        {
            "cut": good[:-7],
            "flip": good[:middle] + bytes([good[middle] ^ 1]) + good[middle + 1 :],
            "zeros": bytes(len(good)),
            "empty": b"",
            "text": b"{}\n" + b"x" * 100,
        }[damage]
    )
    with caplog.at_level(logging.WARNING):
        again = build(tmp_path / "x", samples=9)
    assert "is damaged" in caplog.text
    assert path.read_bytes() == good
    assert [again[k].tolist() for k in range(9)] == [first[k].tolist() for k in range(9)]


def test_a_shuffle_index_that_is_no_permutation_is_not_trusted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Well-formed files whose content is wrong: what another program published, 92 % zeros."""
    write(tmp_path / "x", [50])
    cache = IndexCache(tmp_path / "x")
    good = build_sample_index(np.arange(1), np.array([50]), 4, 9, 1)
    wrong = SampleIndex(good.document_index, good.sample_index, np.zeros_like(good.shuffle_index))
    path = cache.path(np.arange(1), length=4)
    cache.get(path, lambda: wrong)
    with caplog.at_level(logging.WARNING):
        kept = cache.get(path, lambda: good)
    assert "not a permutation" in caplog.text
    assert kept.shuffle_index.tolist() == good.shuffle_index.tolist()


def test_an_unwritable_cache_folder_names_the_setting(tmp_path: Path) -> None:
    write(tmp_path / "x", [50])
    (tmp_path / "x.cache").write_text("a file where the folder should be")
    with pytest.raises(DataError, match=r"set data\.cache_dir"):
        build(tmp_path / "x")
    build(tmp_path / "x", cache_dir=tmp_path / "elsewhere")
    assert len(cached(tmp_path / "elsewhere")) == 1


def _build_and_sum(prefix: Path) -> int:
    samples = build(prefix, samples=200)
    return sum(int(samples[k].sum()) * (k + 1) for k in range(200))


def test_many_processes_may_build_the_same_index(tmp_path: Path) -> None:
    write(tmp_path / "x", [50, 60, 70])
    with multiprocessing.get_context("fork").Pool(4) as pool:
        sums = pool.map(_build_and_sum, [tmp_path / "x"] * 8)
    assert len(set(sums)) == 1
    assert len(cached(tmp_path / "x.cache")) == 1


def test_splits_of_which_nothing_is_wanted_are_none(tmp_path: Path) -> None:
    write(tmp_path / "x", [20] * 10)
    splits = build_splits(DataSettings(prefix=tmp_path / "x", split="8,1,1"), 4, (6, 3, 0), seed=0)
    assert splits.train is not None
    assert splits.valid is not None
    assert (len(splits.train), len(splits.valid), splits.test) == (6, 3, None)
    assert set(np.concatenate(list(splits.valid)).tolist()) <= set(splits.dataset[8].tolist())


def test_a_split_that_is_too_small_is_named_with_what_to_do(tmp_path: Path) -> None:
    write(tmp_path / "x", [20] * 10)
    message = (
        r"the valid split of .*x \(data.split 969,30,1, by range\) has 0 tokens in 0 of 10 sequences.*larger share"
    )
    with pytest.raises(DataError, match=message):
        build_splits(DataSettings(prefix=tmp_path / "x"), 4, (1, 1, 0), seed=0)
    with pytest.raises(DataError, match=re.escape("fewer than one sample of 200 + 1 tokens")):
        build_splits(DataSettings(prefix=tmp_path / "x", split="1"), 200, (1, 0, 0), seed=0)


def test_the_seed_of_the_data_goes_before_the_seed_of_the_run(tmp_path: Path) -> None:
    write(tmp_path / "x", [50, 60, 70])
    orders = []
    for data_seed, run_seed in ((None, 5), (5, 9), (None, 9)):
        splits = build_splits(DataSettings(prefix=tmp_path / "x", split="1", seed=data_seed), 4, (30, 0, 0), run_seed)
        assert splits.train is not None
        orders.append(splits.train.index.shuffle_index.tolist())
    assert orders[0] == orders[1] != orders[2]


def test_a_stream_stops_at_its_limit(tmp_path: Path) -> None:
    dataset = write(tmp_path / "x", [3, 0, 4])
    assert token_stream(dataset, np.array([2, 0])).tolist() == [3, 4, 5, 6, 0, 1, 2]
    assert token_stream(dataset, np.array([0, 1, 2]), limit=4).tolist() == [0, 1, 2, 3]
    assert token_stream(dataset, np.array([], np.int64)).tolist() == []
