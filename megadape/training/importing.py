"""Parameters of other projects as a run's checkpoint."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from megadape.checkpoint.convert import convert_from_foreign
from megadape.checkpoint.foreign import Foreign
from megadape.errors import ConfigurationError
from megadape.machine import versions
from megadape.model import GPT, Architecture
from megadape.parameters import parameter_table


def import_checkpoint(
    source: Path, out: Path, family: str, architecture: Architecture, trust: bool, names: Sequence[str]
) -> Path:
    """A checkpoint of Megatron or GPT-NeoX as one of ours, of parameters alone.

    Args:
        source: folder, or a safetensors file.
        out: run folder to make.
        family: of ``megadape.checkpoint.names.FAMILIES``.
        architecture: of the model that it is; the vocabulary must be given.
        trust: whether to read pickles.
        names: further names as THEIRS=OURS, within a block.

    Raises:
        ConfigurationError: a name is not of that form.
        CheckpointError: it cannot be read, does not fit, or the disk refused.
    """
    with torch.device("meta"):
        table = parameter_table(GPT(architecture))
    foreign = Foreign(source, family, table, architecture.model.head_dim, trust, _pairs(names))
    state = {"architecture": architecture.model_dump(mode="json"), "versions": versions()}
    return convert_from_foreign(foreign, out, state)


def _pairs(names: Sequence[str]) -> Mapping[str, str]:
    pairs = dict[str, str]()
    for text in names:
        theirs, equals, ours = text.partition("=")
        if not (theirs and equals and ours):
            raise ConfigurationError(f"--map {text}: write THEIRS=OURS, names within a block")
        pairs[theirs] = ours
    return pairs
