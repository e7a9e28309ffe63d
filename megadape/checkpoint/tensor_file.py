"""Safetensors files written tensor by tensor, and read slice by slice.

The library that reads them (safetensors) wants all tensors of a file in memory to write it. Here a tensor is written
when it has been joined, its digest taken on the way, and then forgotten: the format, a JSON header with offsets and
then plain bytes, allows it, since shapes are known before values.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from megadape.checkpoint.files import FileRecord
from megadape.errors import CheckpointError
from megadape.faults import reach
from megadape.parameters import ParameterSpec, constant

DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
"""Names of the format."""

NAMES = {dtype: name for name, dtype in DTYPES.items()}

PIECE = 1 << 24
"""Bytes digested and written at a time: few enough to be in the cache for the second of the two."""


@dataclass(frozen=True)
class Stored:
    """A full tensor in a checkpoint, and how tensor parallelism cut it when it was written."""

    shape: tuple[int, ...]
    dtype: str
    """As safetensors names it."""

    shard_axis: int | None = None
    blocks: int = 1

    @staticmethod
    def of(tensor: Tensor, spec: ParameterSpec) -> Stored:
        """What becomes of a rank's part."""
        return Stored(spec.shape, NAMES[tensor.dtype], spec.shard_axis, spec.blocks)

    @property
    def nbytes(self) -> int:
        """Of the full tensor."""
        return torch.Size(self.shape).numel() * DTYPES[self.dtype].itemsize

    @property
    def spec(self) -> ParameterSpec:
        """Enough of a spec to join parts."""
        return ParameterSpec(self.shape, constant(0.0), self.shard_axis, blocks=self.blocks)


class TensorFileWriter:
    """Writes the tensors of one file in the order in which they were announced.

    Args:
        path: of the file.
        tensors: name -> what will come.

    Raises:
        OSError: here and in every method.
    """

    def __init__(self, path: Path, tensors: Mapping[str, Stored]) -> None:
        self.tensors = dict(tensors)
        self._names = iter(self.tensors)
        self._digest = hashlib.sha256()
        self._file = path.open("wb")
        self._put(memoryview(_header(self.tensors)))

    def write(self, name: str, tensor: Tensor) -> None:
        """The next tensor, on the CPU."""
        reach("checkpoint.before_tensor")
        assert name == next(self._names)
        stored = self.tensors[name]
        assert (tuple(tensor.shape), NAMES[tensor.dtype]) == (stored.shape, stored.dtype), name
        flat = tensor.detach().contiguous().reshape(-1).view(torch.uint8)
        self._put(flat.numpy().data)

    def finish(self) -> FileRecord:
        """Flush and close."""
        assert next(self._names, None) is None
        reach("checkpoint.before_flush")
        size = self._file.tell()
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        reach("checkpoint.after_flush")
        return FileRecord(size, self._digest.hexdigest())

    def abandon(self) -> None:
        """Close, whatever was written; no error."""
        try:
            self._file.close()
        except OSError:
            return  # what was buffered had no room: it is not wanted any more

    def _put(self, content: memoryview) -> None:
        for start in range(0, len(content), PIECE):
            piece = content[start : start + PIECE]
            self._digest.update(piece)
            self._file.write(piece)


def _header(tensors: Mapping[str, Stored]) -> bytes:
    entries: dict[str, object] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for name, stored in tensors.items():
        end = offset + stored.nbytes
        entries[name] = {"dtype": stored.dtype, "shape": stored.shape, "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # so that tensors are aligned
    return len(text).to_bytes(8, "little") + text


def list_tensors(path: Path) -> dict[str, Stored]:
    """Name -> shape and dtype of the tensors of a file.

    Raises:
        CheckpointError: it cannot be read.
    """
    try:
        with safe_open(path, "pt") as file:
            slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
            return {name: Stored(tuple(part.get_shape()), part.get_dtype()) for name, part in slices.items()}
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}") from error


class TensorFileReader:
    """Reads from one file what is asked for, and no more.

    Raises:
        CheckpointError: here and in every method, where the file cannot be read.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._file = safe_open(path, "pt")
        except (OSError, SafetensorError) as error:
            raise CheckpointError(f"{path} cannot be read: {error}") from error

    def read(self, name: str) -> Tensor:
        """A full tensor."""
        try:
            tensor: Tensor = self._file.get_tensor(name)
        except (OSError, SafetensorError) as error:
            raise CheckpointError(f"{name} cannot be read from {self.path}: {error}") from error
        return tensor

    def read_part(self, name: str, spec: ParameterSpec) -> Tensor:
        """What ``spec.take_own`` would take of a full tensor."""
        if spec.shard_axis is None or spec.own == slice(None):
            return self.read(name)
        whole = range(spec.shape[spec.shard_axis])
        width = len(whole) // spec.blocks
        lead = (slice(None),) * spec.shard_axis
        try:
            part = self._file.get_slice(name)
            pieces = []
            for block in range(spec.blocks):
                own = whole[block * width : (block + 1) * width][spec.own]
                assert own.step == 1
                pieces.append(part[(*lead, slice(own.start, own.stop))])
        except (OSError, SafetensorError) as error:
            raise CheckpointError(f"{name} cannot be read from {self.path}: {error}") from error
        return pieces[0] if len(pieces) == 1 else torch.cat(pieces, dim=spec.shard_axis)
