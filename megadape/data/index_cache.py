"""Sample indexes kept on the disk: keyed on every input, written whole, checked when read.

One file per index: a line of JSON with the type and shape of the three arrays, the arrays, and the SHA-256 of all of
that. Processes that build the same index at once each write their own temporary file and rename it: the last one wins,
and all wrote the same bytes.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any, ClassVar, Protocol, TypeVar

import numpy as np

from megadape.data.blend import BlendIndex, build_blend_index
from megadape.data.blend_order import Floats
from megadape.data.files import PathLike, reporting, with_ending, write_whole
from megadape.data.indexed_format import idx_path
from megadape.data.samples import Integers, SampleIndex, SampleIndexBuilder
from megadape.errors import DataError

log = logging.getLogger(__name__)

_FORMAT = 1
_DIGEST = 32
_DTYPES = ("<i4", "<i8", "|u1", "<u2")


class Index(Protocol):
    """A dataclass of arrays."""

    __dataclass_fields__: ClassVar[dict[str, Any]]

    def problem(self) -> str | None:
        """What is wrong with the arrays, if anything."""
        ...


I = TypeVar("I", bound=Index)  # noqa: E741


class IndexCache:
    """Sample indexes in one folder, by default ``PREFIX.cache/`` beside the dataset.

    The key of an index is the SHA-256 of everything that it follows from: the bytes of ``PREFIX.idx``, the ids of the
    split's sequences, sequence length, samples, seed and recipe; for a blend's order, weights and samples. A damaged
    file is rebuilt, with a warning in the log.
    """

    def __init__(self, prefix: PathLike, folder: Path | None = None) -> None:
        self.folder = folder or with_ending(prefix, ".cache")
        path = idx_path(prefix)
        with reporting("read", path), path.open("rb") as file:
            self.dataset = hashlib.file_digest(file, "sha256").hexdigest()

    def path(self, sequences: Integers, **inputs: int | str) -> Path:
        """The file of the index that follows from these inputs."""
        ids = hashlib.sha256(sequences.astype("<i8").tobytes()).hexdigest()
        return self._file({"idx": self.dataset, "sequences": ids, **inputs})

    def get(self, path: Path, build: SampleIndexBuilder) -> SampleIndex:
        """The index kept at ``path``, or a new one, which is kept."""
        return _keep(path, SampleIndex, build)

    def get_blend(self, weights: Floats, samples: int) -> BlendIndex:
        """The order of a blend, kept or new."""
        path = self._file({"weights": [weight.hex() for weight in weights.tolist()], "samples": samples})
        return _keep(path, BlendIndex, lambda: build_blend_index(weights, samples))

    def _file(self, inputs: dict[str, Any]) -> Path:
        key = json.dumps({"format": _FORMAT, **inputs}, sort_keys=True)
        return self.folder / f"{hashlib.sha256(key.encode()).hexdigest()}.index"


def digest(index: Index) -> str:
    """SHA-256 of an index's arrays."""
    total = hashlib.sha256()
    for part in _contents(index):
        total.update(part)
    return total.hexdigest()


def _keep(path: Path, kind: type[I], build: Callable[[], I]) -> I:
    kept = _load(path, kind)
    if kept is not None:
        return kept
    index = build()
    try:
        write_whole(path, _encode(index))
    except DataError as error:
        raise DataError(f"the index cache is not writable ({error}): set data.cache_dir to a folder that is") from error
    return index


def _load(path: Path, kind: type[I]) -> I | None:
    if not path.exists():
        return None
    try:
        with reporting("read", path):
            content = np.asarray(np.memmap(path, np.uint8, mode="r"))
        return _decode(content, kind)
    except (DataError, ValueError, KeyError, TypeError) as error:
        log.warning("the cached sample index %s is damaged (%s); it is built again", path, error)
        return None


def _contents(index: Index) -> list[bytes | memoryview]:
    """Header and arrays as they stand in a file."""
    arrays = {field.name: getattr(index, field.name) for field in fields(index)}
    dtypes = {name: value.dtype.newbyteorder("<").str for name, value in arrays.items()}
    header = {name: {"dtype": dtypes[name], "shape": value.shape} for name, value in arrays.items()}
    body = [memoryview(value.astype(dtypes[name], order="C", copy=False)) for name, value in arrays.items()]
    return [json.dumps(header).encode() + b"\n", *body]


def _encode(index: Index) -> bytes:
    body = b"".join(_contents(index))
    return body + hashlib.sha256(body).digest()


def _decode(content: np.ndarray[Any, np.dtype[np.uint8]], kind: type[I]) -> I:
    """The index in a file's bytes; ``ValueError`` when they are not what was written."""
    body, checksum = content[:-_DIGEST], content[-_DIGEST:]
    if hashlib.sha256(body.data).digest() != checksum.tobytes():
        raise ValueError("its checksum does not match")
    line, _, _ = body[:4096].tobytes().partition(b"\n")
    header = json.loads(line)
    arrays, start = {}, len(line) + 1
    for field in fields(kind):
        dtype, shape = header[field.name]["dtype"], tuple(header[field.name]["shape"])
        if dtype not in _DTYPES:
            raise ValueError(f"{field.name} has type {dtype}")
        stop = start + int(np.prod(shape)) * np.dtype(dtype).itemsize
        arrays[field.name] = body[start:stop].view(dtype).reshape(shape)
        start = stop
    index = kind(**arrays)
    if (problem := index.problem()) is not None:
        raise ValueError(problem)
    return index
