"""A checkpoint to read from: any tensor, whole or the part that a rank owns."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from torch import Tensor

from megadape.checkpoint.files import read_json
from megadape.checkpoint.manifest import INDEX, MANIFEST, STATE
from megadape.checkpoint.tensor_file import Stored, TensorFileReader, list_tensors
from megadape.errors import CheckpointError
from megadape.parameters import ParameterSpec

MODEL, OPTIMIZER = "model", "optimizer"
KINDS = (MODEL, OPTIMIZER)
"""Two kinds of files: parameters, and what the optimizer keeps of them as MOMENT/NAME."""


@dataclass(frozen=True)
class Place:
    """Where a tensor is."""

    file: str
    tensor: Stored

    @property
    def kind(self) -> str:
        """Of its file."""
        return next(kind for kind in KINDS if self.file.startswith(kind))


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint on disk.

    Raises:
        CheckpointError: here and in every method, where a file cannot be read.
    """

    path: Path
    step: int
    _readers: dict[str, TensorFileReader] = field(default_factory=dict, compare=False, repr=False)

    @cached_property
    def index(self) -> dict[str, Place]:
        """Name -> where; names of moments are MOMENT/NAME."""
        if not (self.path / INDEX).exists():  # format 1
            return {
                name: Place(f"{kind}.safetensors", stored)
                for kind in KINDS
                if (self.path / f"{kind}.safetensors").exists()
                for name, stored in list_tensors(self.path / f"{kind}.safetensors").items()
            }
        return {name: _place(entry) for name, entry in self._json(INDEX)["tensors"].items()}

    def state(self) -> dict[str, Any]:
        """What is not a tensor."""
        return self._json(STATE)

    def manifest(self) -> dict[str, Any]:
        """Files with sizes and digests, and who wrote them."""
        return self._json(MANIFEST)

    def moments(self) -> list[str]:
        """Of the optimizer."""
        return sorted({name.partition("/")[0] for name, place in self.index.items() if place.kind == OPTIMIZER})

    def read(self, name: str) -> Tensor:
        """A full tensor, on the CPU."""
        return self._reader(name).read(name)

    def read_part(self, name: str, spec: ParameterSpec) -> Tensor:
        """A rank's part of a tensor, and not more than that, on the CPU.

        Raises:
            CheckpointError: there is none of that name, or it has another shape.
        """
        parameter = name.rpartition("/")[2]
        place = self.index.get(name)
        if place is None:
            raise CheckpointError(f"{self.path} has no {name}: it was made with other model settings")
        if place.tensor.shape != spec.shape:
            raise CheckpointError(
                f"{parameter} is {list(place.tensor.shape)} in {self.path} and {list(spec.shape)} in the model: "
                "it was made with other model settings"
            )
        return self._reader(name).read_part(name, spec)

    def read_own(self, table: Mapping[str, ParameterSpec]) -> tuple[dict[str, Tensor], dict[str, dict[str, Tensor]]]:
        """A rank's parts of all parameters of its table, and of their moments (moment -> parameter -> tensor)."""
        parameters = {name: self.read_part(name, spec) for name, spec in table.items()}
        moments = {
            moment: {name: self.read_part(f"{moment}/{name}", spec) for name, spec in table.items()}
            for moment in self.moments()
        }
        return parameters, moments

    def tensors(self, kind: str) -> dict[str, Tensor]:
        """All full tensors of a kind (``model`` or ``optimizer``), on the CPU."""
        return dict(self.each(kind))

    def each(self, kind: str) -> Iterator[tuple[str, Tensor]]:
        """One full tensor of a kind after another."""
        for name, place in self.index.items():
            if place.kind == kind:
                yield name, self.read(name)

    def _reader(self, name: str) -> TensorFileReader:
        file = self.index[name].file
        if file not in self._readers:
            self._readers[file] = TensorFileReader(self.path / file)
        return self._readers[file]

    def _json(self, name: str) -> dict[str, Any]:
        try:
            return read_json(self.path / name)
        except (OSError, ValueError) as error:
            raise CheckpointError(f"{self.path / name} cannot be read: {error}") from error


def describe_place(file: str, stored: Stored) -> dict[str, Any]:
    """An entry of the index."""
    return {
        "file": file,
        "shape": list(stored.shape),
        "dtype": stored.dtype,
        "shard_axis": stored.shard_axis,
        "blocks": stored.blocks,
    }


def _place(entry: Mapping[str, Any]) -> Place:
    stored = Stored(tuple(entry["shape"]), entry["dtype"], entry["shard_axis"], entry["blocks"])
    return Place(Path(entry["file"]).name, stored)
