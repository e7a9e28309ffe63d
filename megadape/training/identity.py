"""What makes a run that run: its architecture and its data, on which a checkpoint and the settings must agree."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from megadape.data import load_manifest
from megadape.data.manifest import manifest_path
from megadape.errors import CheckpointError, ConfigurationError
from megadape.model import Architecture

VOCABULARY_MULTIPLE = 64
"""A vocabulary taken from a dataset is rounded up to this, which matrix units like."""


def with_vocabulary(architecture: Architecture, prefix: Path, tp: int = 1) -> Architecture:
    """The architecture with its vocabulary known: as given, if the dataset's fits in, else the dataset's, rounded up.

    A dataset that another project wrote has no manifest; then the vocabulary must be given, and is trusted. The size
    does not depend on the layout, so that checkpoints fit any: one that ``tp`` ranks cannot share is an error.
    """
    given = architecture.model.vocab_size
    if given is not None and not manifest_path(prefix).exists():
        return architecture
    tokens = load_manifest(prefix).tokenizer.vocab_size
    if given is not None and given < tokens:
        raise ConfigurationError(
            f"model.vocab_size is {given}, but the tokenizer of {prefix} has {tokens} tokens: raise it, or leave it out"
        )
    size = given or -(-tokens // VOCABULARY_MULTIPLE) * VOCABULARY_MULTIPLE
    if size % tp:
        raise ConfigurationError(
            f"model.vocab_size % parallel.tp must be 0, but the {tokens} tokens of {prefix} make {size}, and "
            f"{size} % {tp} = {size % tp}: give model.vocab_size, for example {-(-size // tp) * tp}"
        )
    model = architecture.model.model_copy(update={"vocab_size": size})
    return architecture.model_copy(update={"model": model})


def check_identity(path: Path, saved: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    """Refuse to go on from a checkpoint of another model or of other data, naming every difference."""
    before, now = flatten(saved), flatten(wanted)
    differences = [
        f"{key} is {before.get(key)} there and {now.get(key)} here"
        for key in sorted(before.keys() | now.keys())
        if before.get(key) != now.get(key)
    ]
    if differences:
        raise CheckpointError(
            f"checkpoint {path} belongs to another run: {'; '.join(differences)}; "
            "choose another run_dir, or settings that agree"
        )


def file_digest(path: Path) -> str:
    """SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings as dotted keys."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping):
            flat.update(flatten(value, f"{prefix}{key}."))
        else:
            flat[prefix + key] = value
    return flat
