"""Blends: Megatron's order, samples of each dataset in their own order, the cache, and what cannot be blended."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from megadape.data import DataSettings, IndexedDatasetWriter, RunData, open_run_data, preprocess_files
from megadape.data.blend import BlendIndex, build_blend_index
from megadape.data.blend_order import block_length, greedy_order, normalise
from megadape.errors import DataError


def literal_order(weights: list[float], samples: int) -> list[int]:
    """The rule as it is written."""
    drawn, order = [0] * len(weights), []
    for number in range(samples):
        behind = [weight * max(float(number), 1.0) - count for weight, count in zip(weights, drawn, strict=True)]
        order.append(behind.index(max(behind)))
        drawn[order[-1]] += 1
    return order


def check_order(weights: list[float], samples: int) -> None:
    shares = normalise(weights)
    choices, drawn = greedy_order(shares, samples)
    assert choices.tolist() == literal_order(shares.tolist(), samples)
    block, datasets = block_length(samples), np.arange(len(weights))
    for number, counts in enumerate(drawn):
        assert counts.tolist() == (choices[: number * block, None] == datasets).sum(axis=0).tolist()


@given(
    weights=st.one_of(
        st.lists(st.floats(1e-9, 1e9), min_size=1, max_size=6),
        st.lists(st.integers(1, 4).map(float), min_size=1, max_size=9),
        st.lists(st.sampled_from([0.1, 0.2, 0.3, 1.0, 1e-3, 1e-2]), min_size=2, max_size=12),
    ),
    samples=st.integers(1, 1500),
)
@settings(max_examples=60)
def test_the_order_is_that_of_a_loop(weights: list[float], samples: int) -> None:
    check_order(weights, samples)


@pytest.mark.parametrize(
    "weights",
    [
        [1.0] * 7,
        [1.0, *(1e-3 * (i + 1) for i in range(9))],  # many guesses are wrong here
        [1.0, 1e-4, 2e-4, 3e-4],
        [2.0**-i for i in range(14)],
        [1 / 3, 1 / 3, 1 / 3],
    ],
    ids=str,
)
def test_wrong_guesses_are_mended(weights: list[float]) -> None:
    check_order(weights, 20_000)


@pytest.mark.filterwarnings("ignore")
def test_the_order_equals_megatron_core(tmp_path: Path) -> None:
    try:
        from megatron.core.datasets import helpers
        from megatron.core.datasets.utils import normalize
    except ImportError as error:
        if "CI" in os.environ:
            pytest.fail(f"megatron-core cannot be imported: {error}")
        pytest.skip(f"megatron-core cannot be imported: {error}")
    draw, samples = np.random.default_rng(3), 300_000
    cases = [[0.7, 0.3], [1.0] * 5, [1.0, 2.0, 3.0, 4.0], *(draw.dirichlet(np.ones(k)).tolist() for k in (2, 3, 8, 40))]
    for weights in cases:
        shares = normalise(weights)
        assert shares.tolist() == normalize(weights)
        dataset, own = np.zeros(samples, np.int16), np.zeros(samples, np.int64)
        helpers.build_blending_indices(dataset, own, shares, len(weights), samples, False)
        index = build_blend_index(shares, samples)
        assert (index.choices == dataset).all(), weights
        assert index.problem() is None
        assert index.counts.tolist() == np.bincount(dataset, minlength=len(weights)).tolist()
        for k in [0, 1, 511, 512, 513, samples - 1, *draw.integers(0, samples, 50).tolist()]:
            assert index.find(k) == (dataset[k], own[k])


def test_more_datasets_than_a_byte_can_name() -> None:
    index = build_blend_index(normalise([1.0] * 300), 900)
    assert index.choices.tolist() == list(range(300)) * 3
    assert index.problem() is None


def write(prefix: Path, first: int, sequences: int = 40, size: int = 10) -> Path:
    """Sequences of equal size whose tokens no other dataset has."""
    with IndexedDatasetWriter(prefix, "i4") as writer:
        for number in range(sequences):
            writer.add_document([np.arange(first + number * size, first + (number + 1) * size)])
    return prefix


@pytest.fixture
def three(tmp_path: Path) -> list[Path]:
    return [write(tmp_path / name, 1000 * place) for place, name in enumerate("abc")]


def blend(prefixes: list[Path], weights: list[float], **more: Any) -> DataSettings:
    parts = [{"prefix": prefix, "weight": weight} for prefix, weight in zip(prefixes, weights, strict=True)]
    return DataSettings.model_validate({"blend": parts, "split": "80,20", **more})


def opened(data: DataSettings, samples: int = 100, valid: int = 5) -> RunData:
    return open_run_data(data, 4, samples, valid, seed=1)


def alone(prefix: Path, samples: int) -> list[list[int]]:
    data = opened(DataSettings(prefix=prefix, split="80,20"), samples)
    return [data.train[k].tolist() for k in range(samples)]


def test_a_blend_takes_the_samples_of_each_dataset_in_their_order(three: list[Path]) -> None:
    weights = [5.0, 3.0, 2.0]
    data = opened(blend(three, weights))
    taken = [data.train[k].tolist() for k in range(100)]
    order = literal_order(normalise(normalise(weights).tolist()).tolist(), 100)
    assert [sample[0] // 1000 for sample in taken] == order
    for place, prefix in enumerate(three):
        # exactly as many as its share, no surplus: the order is that of the dataset alone with so many samples
        assert [sample for sample in taken if sample[0] // 1000 == place] == alone(prefix, order.count(place))
    assert data.train[-1].tolist() == taken[-1]
    with pytest.raises(IndexError):
        data.train[100]
    assert [part.epochs for part in data.parts] == [50 * 4 / 320, 30 * 4 / 320, 20 * 4 / 320]
    assert data.describe()[0] == "a: 50 of 100 (50 %) training samples, 0.62 epochs of it"
    for place, part in enumerate(data.parts):
        assert part.valid is not None
        assert {token // 1000 for sample in part.valid for token in sample.tolist()} == {place}


def test_a_blend_of_one_is_that_dataset(three: list[Path]) -> None:
    data = opened(blend(three[:1], [3.0]))
    assert [data.train[k].tolist() for k in range(100)] == alone(three[0], 100)


def test_each_dataset_may_be_divided_in_its_own_way(three: list[Path]) -> None:
    own = {"prefix": three[1], "weight": 1.0, "split": "10,90", "split_by": "hash", "name": "other"}
    data = DataSettings.model_validate({"blend": [{"prefix": three[0], "weight": 1.0}, own], "split": "50,50"})
    assert [part.name for part in data.parts] == ["a", "other"]
    found = opened(data, 60)
    trained = [{t for sample in part.train or () for t in sample.tolist()} for part in found.parts]
    validated = [{t for sample in part.valid or () for t in sample.tolist()} for part in found.parts]
    assert max(trained[0]) <= 200 <= min(validated[0])  # the last target of a sample belongs to the next one
    assert len(trained[1]) < 100
    assert not trained[1] & validated[1]


def test_a_dataset_that_gives_no_sample_needs_none(three: list[Path]) -> None:
    data = opened(blend(three, [1.0, 1.0, 1.0]), 2)
    assert data.parts[2].train is None
    assert data.describe()[2] == "c: 0 of 2 (0 %) training samples, 0.00 epochs of it"
    assert [data.train[k][0] // 1000 for k in range(2)] == [0, 1]


def test_the_order_is_kept_and_a_damaged_one_built_again(
    three: list[Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "cache"
    data = blend(three[:2], [0.7, 0.3], cache_dir=folder)
    first = opened(data, valid=0)
    files = {path: path.read_bytes() for path in folder.iterdir()}
    assert len(files) == 3
    again = opened(data, valid=0)
    assert again.fingerprint() == first.fingerprint()
    assert {path: path.read_bytes() for path in folder.iterdir()} == files
    (order,) = (path for path, content in files.items() if b"choices" in content[:100])
    order.write_bytes(files[order][:-40] + bytes([files[order][-40] ^ 1]) + files[order][-39:])
    with caplog.at_level(logging.WARNING):
        mended = opened(data, valid=0)
    assert "is damaged" in caplog.text
    assert order.read_bytes() == files[order]
    assert mended.fingerprint() == first.fingerprint()
    for number, other in enumerate(({"weights": [0.6, 0.4]}, {"samples": 101}), 1):
        opened(blend(three[:2], other.get("weights", [0.7, 0.3]), cache_dir=folder), other.get("samples", 100), valid=0)
        orders = [path for path in folder.iterdir() if b"choices" in path.read_bytes()[:100]]
        assert len(orders) == 1 + number


def test_an_order_that_does_not_add_up_is_not_trusted() -> None:
    good = build_blend_index(normalise([2.0, 1.0]), 300)
    drawn = good.drawn.copy()
    drawn[1] += 1
    assert BlendIndex(good.choices, drawn).problem() == "its counts do not add up"
    assert BlendIndex(good.choices, good.drawn[:-1]).problem() == "its arrays have the wrong shape"
    assert BlendIndex(good.choices + 2, good.drawn).problem() == "it names a dataset that there is not"


def test_fingerprints_tell_blends_apart(three: list[Path], tmp_path: Path) -> None:
    three[2] = write(tmp_path / "c", 2000, sequences=50)
    data = [
        blend(three, [1, 1, 1]),
        blend(three, [1, 1, 2]),
        blend(three[::-1], [1, 1, 1]),
        blend(three, [1, 1, 1], seed=9),
        blend([*three[:2], write(tmp_path / "d", 3000, sequences=41)], [1, 1, 1]),
    ]
    assert len({opened(each).fingerprint() for each in data}) == len(data)


def test_datasets_that_are_too_small_or_read_too_often(three: list[Path], tmp_path: Path) -> None:
    small = write(tmp_path / "small", 9000, sequences=2, size=3)
    with pytest.raises(DataError, match=r"the train split of .*small \(data\.blend\[1\]\.split 50,50, .* has 3 tokens"):
        opened(blend([three[0], small], [1, 1], split="50,50"), valid=0)
    limited = {"prefix": three[1], "weight": 1.0, "max_epochs": 2, "split": "1"}
    data = DataSettings.model_validate({"blend": [{"prefix": three[0], "weight": 1.0, "split": "1"}, limited]})
    opened(data, 398, valid=0)
    message = (
        r"200 samples of 4 tokens read the training split of .*/b \(data\.blend\[1\]\) 2\.00 times, but max_epochs is"
    )
    with pytest.raises(DataError, match=message):
        opened(data, 400, valid=0)
    everywhere = DataSettings(prefix=three[0], split="1", max_epochs=0.5)
    with pytest.raises(DataError, match=r"\(data\) 1\.00 times, but max_epochs is 0\.5"):
        opened(everywhere, 100, valid=0)


def test_datasets_of_different_tokenizers_are_named(tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text("some text that is long enough to train on, and some more of it\n" * 50)
    preprocess_files([text], tmp_path / "bytes", tokenizer="byte")
    manifest = (tmp_path / "bytes.json").read_text()
    for ending in (".bin", ".idx"):
        (tmp_path / f"other{ending}").write_bytes((tmp_path / f"bytes{ending}").read_bytes())
    digest = next(line for line in manifest.splitlines() if '"digest"' in line)
    (tmp_path / "other.json").write_text(manifest.replace(digest, digest.replace(': "', ': "0')))
    foreign = write(tmp_path / "foreign", 0)  # no manifest: it cannot be told
    opened(blend([tmp_path / "bytes", foreign], [1, 1], split="1"), valid=0)
    with pytest.raises(
        DataError, match=r"bytes and .*other \(data\.blend\[0\] and data\.blend\[2\]\) cannot be blended"
    ):
        opened(blend([tmp_path / "bytes", foreign, tmp_path / "other"], [1, 1, 1], split="1"), valid=0)
