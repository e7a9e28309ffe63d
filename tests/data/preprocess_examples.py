"""Corpora in every format, and the plainest program that makes the right bytes of them."""

from __future__ import annotations

import gzip
import json
import os
import struct
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from itertools import accumulate
from pathlib import Path

import numpy as np
import numpy.typing as npt
import zstandard

from megadape.errors import DataError

EOD = 256


def reference(documents: Sequence[str]) -> tuple[bytes, bytes]:
    """``.bin`` and ``.idx`` of documents in bytes, each with its end, as u16."""
    ids = [[*text.encode(), EOD] for text in documents]
    data = b"".join(struct.pack(f"<{len(one)}H", *one) for one in ids)
    sizes = [len(one) for one in ids]
    starts = [0, *accumulate(2 * size for size in sizes)][: len(sizes)]
    head = struct.pack("<9sQBQQ", b"MMIDIDX\0\0", 1, 8, len(ids), len(ids) + 1)
    tables = (("i", sizes), ("q", starts), ("q", range(len(ids) + 1)))
    return data, head + b"".join(struct.pack(f"<{len(table)}{code}", *table) for code, table in tables)


def pair(prefix: Path) -> tuple[bytes, bytes]:
    """``.bin`` and ``.idx`` as they were written."""
    return prefix.with_name(f"{prefix.name}.bin").read_bytes(), prefix.with_name(f"{prefix.name}.idx").read_bytes()


def json_lines(documents: Sequence[str]) -> bytes:
    return b"".join(json.dumps({"n": n, "text": text}).encode() + b"\n" for n, text in enumerate(documents))


def raw_lines(documents: Sequence[str]) -> bytes:
    """Characters as they are, no end of the last line, blank lines."""
    return "\r\n\n \n".join(json.dumps({"text": text}, ensure_ascii=False) for text in documents).encode()


def members(content: bytes) -> bytes:
    third = len(content) // 3 + 1
    return b"".join(gzip.compress(content[i : i + third]) for i in range(0, max(1, len(content)), third))


def frames(content: bytes) -> bytes:
    third = len(content) // 3 + 1
    return b"".join(zstandard.compress(content[i : i + third]) for i in range(0, max(1, len(content)), third))


def table(path: Path, documents: Sequence[str]) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    rows = pa.table({"n": list(range(len(documents))), "text": pa.array(list(documents), pa.string())})
    parquet.write_table(rows, path, row_group_size=max(1, len(documents) // 3))


def text_files(folder: Path, documents: Sequence[str]) -> None:
    for number, text in enumerate(documents):
        (folder / f"{number:05d}.txt").write_bytes(text.encode())


WRITERS: dict[str, Callable[[Path, Sequence[str]], object]] = {
    "jsonl": lambda folder, texts: (folder / "a.jsonl").write_bytes(json_lines(texts)),
    "raw": lambda folder, texts: (folder / "a.jsonl").write_bytes(raw_lines(texts)),
    "gz": lambda folder, texts: (folder / "a.jsonl.gz").write_bytes(members(json_lines(texts))),
    "zst": lambda folder, texts: (folder / "a.jsonl.zst").write_bytes(frames(raw_lines(texts))),
    "list": lambda folder, texts: (folder / "a.json").write_text(json.dumps([{"text": t} for t in texts], indent=1)),
    "list.gz": lambda folder, texts: (folder / "a.json.gz").write_bytes(
        members(json.dumps([{"text": t} for t in texts], ensure_ascii=False).encode())
    ),
    "json": lambda folder, texts: (folder / "a.json").write_bytes(json_lines(texts)),
    "parquet": lambda folder, texts: table(folder / "a.parquet", texts),
    "txt": text_files,
}
"""Format -> how a corpus is written into a folder in it."""


def in_a_process(call: Callable[[], object], environment: dict[str, str]) -> int:
    """Process id of a fork in which the call is made; it ends with 0, or with 1 after an error."""
    pid = os.fork()
    if pid:
        return pid
    try:
        os.environ.update(environment)
        call()
        os._exit(0)
    except BaseException:
        traceback.print_exc()
        sys.stderr.flush()
        os._exit(1)


def make_slow_squares() -> Callable[[int], npt.NDArray[np.int64]]:
    """What gives workers a function whose later results may come earlier."""

    def square(number: int) -> npt.NDArray[np.int64]:
        time.sleep(0.002 * (number % 3))
        if number < 0:
            raise DataError("negative")
        return np.array([number**2])

    return square
