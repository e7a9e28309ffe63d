"""Damaged indexes: an error or what an independent reading of the format finds, never a crash or a large allocation."""

from __future__ import annotations

import random
import struct
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from dataset_examples import takes_less_than
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from megadape.data import IndexedDataset, IndexedDatasetWriter
from megadape.errors import DataError

Documents = list[list[list[int]]]

ITEMSIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 8: 2}
FIRST_TABLE = 34
EXTREMES = [0, 1, 2, 3, 2**31 - 1, 2**31, 2**32 - 1, 2**32, 2**60, 2**61, 2**62, 2**63 - 1, 2**63, 2**64 - 2, 2**64 - 1]
SMALL = 1 << 20
"""Bytes that opening a small dataset may take, whatever its index says."""


def expected(idx: bytes, bin_: bytes) -> Documents | None:
    """What the format says of two files, entry by entry; None where it forbids them."""
    if len(idx) < FIRST_TABLE:
        return None
    magic, version, code, count, bounds = struct.unpack_from("<9sQBQQ", idx)
    if magic != b"MMIDIDX\0\0" or version != 1 or code not in ITEMSIZES or len(idx) != 34 + 12 * count + 8 * bounds:
        return None
    sizes = struct.unpack_from(f"<{count}i", idx, 34)
    offsets = struct.unpack_from(f"<{count}q", idx, 34 + 4 * count)
    documents = struct.unpack_from(f"<{bounds}q", idx, 34 + 12 * count)
    if not documents or documents[0] != 0 or documents[-1] != count or any(b < a for a, b in pairwise(documents)):
        return None
    end = 0
    for size, offset in zip(sizes, offsets, strict=True):
        if size < 0 or offset != end:
            return None
        end += size * ITEMSIZES[code]
    if end != len(bin_):
        return None
    letter = {1: "B", 2: "b", 3: "h", 4: "i", 5: "q", 8: "H"}[code]
    sequences = [list(struct.unpack_from(f"<{n}{letter}", bin_, at)) for n, at in zip(sizes, offsets, strict=True)]
    return [sequences[a:b] for a, b in pairwise(documents)]


def found(prefix: Path) -> Documents | None:
    """What the reader makes of the files; only the errors that it promises count as a refusal."""
    try:
        dataset = IndexedDataset(prefix)
    except DataError:
        return None
    bounds = dataset.document_index.tolist()
    return [[sequence.tolist() for sequence in dataset[a:b]] for a, b in pairwise(bounds)]


def agree(folder: Path, idx: bytes, bin_: bytes) -> bool:
    """Whether the files are accepted; reading them as the format does not say fails the test."""
    prefix = folder / "x"
    for ending, content in ((".idx", idx), (".bin", bin_)):
        path = prefix.with_suffix(ending)
        path.unlink(missing_ok=True)
        path.write_bytes(content)
    result = found(prefix)
    assert result == expected(idx, bin_)
    return result is not None


def a_dataset(folder: Path, numbers: random.Random) -> tuple[bytes, bytes]:
    """Index and data of a small dataset, of any shape."""
    dtype = numbers.choice(["u1", "i1", "i2", "i4", "i8", "u2"])
    with IndexedDatasetWriter(folder / "seed", dtype) as writer:
        for _ in range(numbers.randrange(6)):
            writer.add_document([[numbers.randrange(128)] * numbers.randrange(4) for _ in range(numbers.randrange(3))])
    return (folder / "seed.idx").read_bytes(), (folder / "seed.bin").read_bytes()


def header_with(idx: bytes, count: int, bounds: int) -> bytes:
    return idx[:18] + struct.pack("<QQ", count % 2**64, bounds % 2**64) + idx[34:]


def damage(idx: bytes, bin_: bytes, numbers: random.Random) -> tuple[bytes, bytes]:
    """One damage, of a kind that a disk, a network or an enemy makes."""
    count, bounds = struct.unpack_from("<QQ", idx, 18)
    kind = numbers.randrange(8)
    if kind == 0:  # counts
        return header_with(idx, numbers.choice([count, *EXTREMES]), numbers.choice([bounds, *EXTREMES])), bin_
    if kind == 1:  # counts that mean the right size only where 64 bits overflow
        return header_with(idx, count + numbers.randrange(4) * 2**62, bounds + numbers.randrange(8) * 2**61), bin_
    if kind == 2:  # an end is missing
        return idx[: numbers.randrange(len(idx) + 1)], bin_
    if kind == 3:
        return idx, bin_[: numbers.randrange(len(bin_) + 1)]
    if kind == 4:  # too much
        return idx + numbers.randbytes(numbers.randrange(1, 30)), bin_ + numbers.randbytes(numbers.randrange(3))
    if kind == 5:  # a bit
        bit = numbers.randrange(8 * len(idx))
        changed = bytearray(idx)
        changed[bit // 8] ^= 1 << bit % 8
        return bytes(changed), bin_
    if kind == 6 and len(idx) >= 42:  # a number of the tables
        at = numbers.randrange(FIRST_TABLE, len(idx) - 7)
        return idx[:at] + struct.pack("<Q", numbers.choice(EXTREMES)) + idx[at + 8 :], bin_
    return numbers.randbytes(numbers.randrange(200)), bin_


def test_a_thousand_damages_are_errors_or_correct_readings(tmp_path: Path) -> None:
    numbers = random.Random(20251128)
    sound = [a_dataset(tmp_path, numbers) for _ in range(20)]
    accepted = 0
    for _ in range(1000):
        files = damage(*numbers.choice(sound), numbers)
        accepted += agree(tmp_path, *files)
        assert takes_less_than(SMALL, lambda: found(tmp_path / "x"))
    assert 20 < accepted < 500  # what changes nothing, or a token type of the same size, is read


@given(data=st.data())
@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_tables_are_read_as_the_format_says(tmp_path: Path, data: st.DataObject) -> None:
    """Headers that fit the file, around tables of any numbers: near the right ones, so that some are accepted."""
    sizes = data.draw(st.lists(st.integers(-1, 3), max_size=4))
    ends = np.cumsum([0, *sizes]).tolist()
    documents = sorted(data.draw(st.lists(st.integers(0, len(sizes)), max_size=4)))
    tables = [sizes, ends[:-1], [0, *documents, len(sizes)]]
    wrong = data.draw(st.sampled_from([None, 1, 2]))
    if wrong is not None and tables[wrong]:
        place = data.draw(st.integers(0, len(tables[wrong]) - 1))
        tables[wrong][place] = data.draw(st.integers(-(2**63), 2**63 - 1))
    n, d = len(sizes), len(tables[2])
    idx = struct.pack(f"<9sQBQQ{n}i{n}q{d}q", b"MMIDIDX\0\0", 1, 1, n, d, *tables[0], *tables[1], *tables[2])
    agree(tmp_path, idx, bytes(max(0, ends[-1] + data.draw(st.sampled_from([0, 0, 0, 1, -1])))))


@given(content=st.binary(max_size=120))
@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_bytes_are_refused_or_read(tmp_path: Path, content: bytes) -> None:
    agree(tmp_path, content, b"")
    agree(tmp_path, struct.pack("<9sQB", b"MMIDIDX\0\0", 1, 8) + content, b"\1\0")


WRAPPING = [[0, 2**63 - 1, -(2**63), -1, 2], [0, 2**62, 2**63 - 1, -(2**63), -(2**62), 0, 2]]
"""Document indexes whose differences never look negative in 64 bits, though the numbers fall."""


@pytest.mark.parametrize("documents", WRAPPING)
def test_a_document_index_that_falls_by_overflowing_is_refused(tmp_path: Path, documents: list[int]) -> None:
    idx = struct.pack(f"<9sQBQQ2i2q{len(documents)}q", b"MMIDIDX\0\0", 1, 1, 2, len(documents), 1, 1, 0, 1, *documents)
    assert not agree(tmp_path, idx, b"ab")


def test_sizes_whose_sum_overflows_are_refused(tmp_path: Path) -> None:
    count = 2**17
    prefix = tmp_path / "x"
    offsets = np.arange(count, dtype=np.int64) * (2**31 - 1) * 8
    (tmp_path / "x.bin").write_bytes(b"\0" * 8)
    (tmp_path / "x.idx").write_bytes(
        struct.pack("<9sQBQQ", b"MMIDIDX\0\0", 1, 5, count, 2)
        + np.full(count, 2**31 - 1, np.int32).tobytes()
        + offsets.tobytes()
        + struct.pack("<2q", 0, count)
    )
    with pytest.raises(DataError, match=r"x.bin has 8 bytes, but its index means .* or more"):
        IndexedDataset(prefix)


def test_a_large_index_is_checked_in_little_memory(tmp_path: Path) -> None:
    count = 4_000_000
    with (tmp_path / "x.idx").open("wb") as file:
        file.write(struct.pack("<9sQBQQ", b"MMIDIDX\0\0", 1, 1, count, 2))
        file.truncate(34 + 12 * count)  # empty sequences, all at 0
        file.seek(34 + 12 * count)
        file.write(struct.pack("<2q", 0, count))
    (tmp_path / "x.bin").write_bytes(b"")
    assert takes_less_than(12 << 20, lambda: IndexedDataset(tmp_path / "x"))  # the tables are 46 MiB
    assert len(IndexedDataset(tmp_path / "x")) == count
