"""Sample indexes kept on the disk: keyed on every input, written whole, checked when read.

One file per index: a line of JSON with the type and shape of the three arrays, the arrays, and the SHA-256 of all of
that. Processes that build the same index at once each write their own temporary file and rename it: the last one wins,
and all wrote the same bytes.
"""

from __future__ import annotations

import hashlib
import json
import logging
from pathlib import Path
from typing import Any

import numpy as np

from megadape.data.files import PathLike, reporting, with_ending, write_whole
from megadape.data.indexed_format import idx_path
from megadape.data.samples import Integers, SampleIndex, SampleIndexBuilder
from megadape.errors import DataError

log = logging.getLogger(__name__)

_FORMAT = 1
_DIGEST = 32
_NAMES = ("document_index", "sample_index", "shuffle_index")
_DTYPES = ("<i4", "<i8")


class IndexCache:
    """Sample indexes in one folder, by default ``PREFIX.cache/`` beside the dataset.

    The key of an index is the SHA-256 of everything that it follows from: the bytes of ``PREFIX.idx``, the ids of the
    split's sequences, sequence length, samples, seed and recipe. A damaged file is rebuilt, with a warning in the log.
    """

    def __init__(self, prefix: PathLike, folder: Path | None = None) -> None:
        self.folder = folder or with_ending(prefix, ".cache")
        path = idx_path(prefix)
        with reporting("read", path), path.open("rb") as file:
            self._dataset = hashlib.file_digest(file, "sha256").hexdigest()

    def path(self, sequences: Integers, **inputs: int | str) -> Path:
        """The file of the index that follows from these inputs."""
        key = {
            "format": _FORMAT,
            "idx": self._dataset,
            "sequences": hashlib.sha256(sequences.astype("<i8").tobytes()).hexdigest(),
            **inputs,
        }
        return self.folder / f"{hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()}.index"

    def get(self, path: Path, build: SampleIndexBuilder) -> SampleIndex:
        """The index kept at ``path``, or a new one, which is kept."""
        kept = self._load(path)
        if kept is not None:
            return kept
        index = build()
        try:
            write_whole(path, _encode(index))
        except DataError as error:
            raise DataError(
                f"the index cache is not writable ({error}): set data.cache_dir to a folder that is"
            ) from error
        return index

    def _load(self, path: Path) -> SampleIndex | None:
        if not path.exists():
            return None
        try:
            with reporting("read", path):
                content = np.asarray(np.memmap(path, np.uint8, mode="r"))
            index = _decode(content)
        except (DataError, ValueError, KeyError, TypeError) as error:
            log.warning("the cached sample index %s is damaged (%s); it is built again", path, error)
            return None
        return index


def _encode(index: SampleIndex) -> bytes:
    arrays = {name: np.ascontiguousarray(getattr(index, name)) for name in _NAMES}
    header = {name: {"dtype": f"<i{value.itemsize}", "shape": value.shape} for name, value in arrays.items()}
    body = b"".join(
        [
            json.dumps(header).encode() + b"\n",
            *(value.astype(f"<i{value.itemsize}").tobytes() for value in arrays.values()),
        ]
    )
    return body + hashlib.sha256(body).digest()


def _decode(content: np.ndarray[Any, np.dtype[np.uint8]]) -> SampleIndex:
    """The index in a file's bytes; ``ValueError`` when they are not what was written."""
    body, digest = content[:-_DIGEST], content[-_DIGEST:]
    if hashlib.sha256(body.data).digest() != digest.tobytes():
        raise ValueError("its checksum does not match")
    line, _, _ = body[:4096].tobytes().partition(b"\n")
    header = json.loads(line)
    arrays, start = {}, len(line) + 1
    for name in _NAMES:
        dtype, shape = header[name]["dtype"], tuple(header[name]["shape"])
        if dtype not in _DTYPES:
            raise ValueError(f"{name} has type {dtype}")
        stop = start + int(np.prod(shape)) * np.dtype(dtype).itemsize
        arrays[name] = body[start:stop].view(dtype).reshape(shape)
        start = stop
    index = SampleIndex(**arrays)
    if (problem := index.problem()) is not None:
        raise ValueError(problem)
    return index
