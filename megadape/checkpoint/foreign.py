"""Checkpoints of Megatron-LM, Megatron-core and GPT-NeoX, read as parameters by our names.

What is read:

    *.safetensors                                    full tensors by their names
    layer_02-model_00-model_states.pt                GPT-NeoX: one file a module and tensor-parallel rank
    mp_rank_00_model_states.pt                       GPT-NeoX without a pipeline
    mp_rank_00/, mp_rank_00_001/model_optim_rng.pt   Megatron: tensor-parallel rank and stage

Megatron-core's distributed checkpoints (``.distcp``) are not: have Megatron write a "torch" one first. Optimizer states
are left behind, since none of these keeps them by parameter.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from megadape.checkpoint.names import FAMILIES, NO_PARAMETERS, Family, fuse_heads, is_fused, split_heads
from megadape.checkpoint.pickles import load_pickled
from megadape.checkpoint.tensor_file import TensorFileReader, list_tensors
from megadape.errors import CheckpointError
from megadape.parameters import ParameterSpec

Parts = dict[str, dict[int, Tensor]]
"""Their name -> tensor-parallel rank -> its part."""


@dataclass(frozen=True)
class Foreign:
    """What to read, and as what.

    Args:
        source: folder, or a safetensors file.
        family: of ``FAMILIES``.
        table: of the whole model that the parameters shall become.
        head_dim: width of one of its heads.
        trust: whether to read pickles.
        more: further names, theirs within a block -> ours within a block (parameters of a position encoding).
    """

    source: Path
    family: str
    table: Mapping[str, ParameterSpec]
    head_dim: int
    trust: bool = False
    more: Mapping[str, str] = field(default_factory=dict)

    @property
    def blocks(self) -> int:
        """Of the model."""
        return 1 + max(int(match[1]) for name in self.table if (match := re.match(r"blocks\.(\d+)\.", name)))


def read_foreign(foreign: Foreign) -> dict[str, Tensor]:
    """All parameters of the table, full, float32.

    Raises:
        CheckpointError: a file cannot be read or is not trusted, a tensor is missing, unknown or of another shape, or
            tensor-parallel ranks disagree on what should be replicated.
    """
    family = _family(foreign)
    read: dict[str, Tensor] = {}
    unknown = []
    for theirs, parts in _read_parts(foreign).items():
        ours = family.ours(theirs, foreign.blocks)
        if ours is not None and ours in foreign.table:
            ranks = [parts[rank] for rank in sorted(parts)]
            read[ours] = _join(ours, theirs, ranks, foreign)
        elif not NO_PARAMETERS.fullmatch(theirs):
            unknown.append(theirs)
    if unknown:
        raise CheckpointError(
            f"{foreign.source} has what the model of these settings has not: {_some(unknown)}; choose settings of the "
            "same model, or say with --map THEIRS=OURS what it is"
        )
    missing = [name for name in foreign.table if name not in read]
    if missing:
        raise CheckpointError(f"{foreign.source} has nothing for {_some(missing)} of the model of these settings")
    return {name: read[name] for name in foreign.table}


def to_foreign(parameters: Mapping[str, Tensor], family: str, blocks: int, head_dim: int) -> dict[str, Tensor]:
    """Full parameters by their names; what they do not have is left out."""
    named = {}
    for ours, tensor in parameters.items():
        theirs = FAMILIES[family].theirs(ours, blocks)
        if theirs is not None:
            named[theirs] = (fuse_heads(tensor, head_dim) if is_fused(ours) else tensor).contiguous()
    return named


def _family(foreign: Foreign) -> Family:
    if foreign.family not in FAMILIES:
        raise CheckpointError(f"there are no names of {foreign.family!r}; there are {', '.join(FAMILIES)}")
    known = FAMILIES[foreign.family]
    return Family(known.block, known.first, known.names, known.others, {**known.aliases, **foreign.more})


def _join(ours: str, theirs: str, parts: list[Tensor], foreign: Foreign) -> Tensor:
    spec = foreign.table[ours]
    if is_fused(ours):
        parts = [split_heads(part, foreign.head_dim) for part in parts]
    if spec.shard_axis is None and any(not torch.equal(part, parts[0]) for part in parts):
        raise CheckpointError(
            f"{theirs} differs between tensor-parallel ranks of {foreign.source}: a model with parallel residuals "
            "(gpt_j_residual) has no counterpart here"
        )
    whole = spec.join([part.float() for part in parts])
    if ours in ("embedding.weight", "head.weight") and whole.shape[0] > spec.shape[0]:
        whole = whole[: spec.shape[0]]  # they pad the vocabulary, at its end
    if whole.numel() == torch.Size(spec.shape).numel() and whole.squeeze().shape == torch.Size(spec.shape):
        whole = whole.reshape(spec.shape)
    if whole.shape != spec.shape:
        raise CheckpointError(
            f"{theirs} of {foreign.source} is {list(whole.shape)} and {ours} is {list(spec.shape)}: choose settings of "
            "the same model"
        )
    return whole.contiguous()


def _some(names: list[str]) -> str:
    return ", ".join(sorted(names)[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


def _read_parts(foreign: Foreign) -> Parts:
    for read in READERS:
        parts: Parts = {}
        for name, rank, tensor in read(foreign):
            parts.setdefault(name, {})[rank] = tensor
        if parts:
            return parts
    raise CheckpointError(
        f"{foreign.source} holds no checkpoint that is known: neither *.safetensors, nor "
        "layer_*-model_*-model_states.pt or mp_rank_*_model_states.pt of GPT-NeoX, nor mp_rank_*/model_optim_rng.pt of "
        "Megatron"
    )


Part = tuple[str, int, Tensor]
"""Their name, tensor-parallel rank, its part."""


def _safetensors(foreign: Foreign) -> Iterator[Part]:
    source = foreign.source
    for path in (
        [source] if source.is_file() and source.suffix == ".safetensors" else sorted(source.glob("*.safetensors"))
    ):
        reader = TensorFileReader(path)
        yield from ((name, 0, reader.read(name)) for name in list_tensors(path))


def _neox_layers(foreign: Foreign) -> Iterator[Part]:
    for path in sorted(foreign.source.glob("layer_*-model_*-model_states.pt")):
        match = re.fullmatch(r"layer_(\d+)-model_(\d+)-model_states", path.stem)
        if match:
            for name, tensor in load_pickled(path, foreign.trust).items():
                yield f"sequential.{int(match[1])}.{name}", int(match[2]), tensor


def _neox_whole(foreign: Foreign) -> Iterator[Part]:
    for path in sorted(foreign.source.glob("mp_rank_*_model_states.pt")):
        rank = int(path.stem.split("_")[2])
        for name, tensor in load_pickled(path, foreign.trust)["module"].items():
            yield name, rank, tensor


def _megatron(foreign: Foreign) -> Iterator[Part]:
    """Megatron numbers the blocks of each stage from 0."""
    prefix = FAMILIES[foreign.family].block.partition("{}")[0]
    before: dict[int, int] = {}
    for path in sorted(foreign.source.glob("mp_rank_*/model_optim_rng.pt")):
        rank = int(path.parent.name.split("_")[2])
        tensors = dict(_flatten(load_pickled(path, foreign.trust)["model"]))
        start, count = before.get(rank, 0), 0
        for name, tensor in tensors.items():
            match = re.fullmatch(re.escape(prefix) + r"(\d+)(\..+)", name)
            if match:
                count = max(count, int(match[1]) + 1)
                name = f"{prefix}{int(match[1]) + start}{match[2]}"
            yield name, rank, tensor
        before[rank] = start + count


def _flatten(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Tensor]]:
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from _flatten(value, f"{prefix}{key}.")
        elif isinstance(value, Tensor):
            yield f"{prefix}{key}", value


READERS: tuple[Callable[[Foreign], Iterator[Part]], ...] = (_safetensors, _neox_layers, _neox_whole, _megatron)
"""The first that finds something is right."""
