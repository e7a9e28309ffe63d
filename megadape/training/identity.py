"""What makes a run that run: its architecture and its data, on which a checkpoint and the settings must agree."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from megadape.data import BlendPart, DataSettings, load_manifest
from megadape.data.indexed_format import idx_path
from megadape.data.manifest import manifest_path
from megadape.errors import CheckpointError, ConfigurationError
from megadape.model import Architecture, ModelSettings

VOCABULARY_MULTIPLE = 64
"""A vocabulary taken from a dataset is rounded up to this, which matrix units like."""


def with_vocabulary(architecture: Architecture, prefixes: Sequence[Path], tp: int = 1) -> Architecture:
    """The architecture with its vocabulary known: as given, if the datasets' fits in, else theirs, rounded up.

    A dataset that another project wrote has no manifest; where none has one, the vocabulary must be given, and is
    trusted. The size does not depend on the layout, so that checkpoints fit any: one that ``tp`` ranks cannot share is
    an error.
    """
    given = architecture.model.vocab_size
    prefix = next((prefix for prefix in prefixes if manifest_path(prefix).exists()), prefixes[0])
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


def with_end_of_document(architecture: Architecture, prefixes: Sequence[Path]) -> Architecture:
    """The architecture with the token known that ends a document, where it keeps documents apart: as given, else the
    datasets', which have one tokenizer.

    Raises:
        ConfigurationError: a dataset does not say, or its documents do not end with one.
    """
    model = architecture.model
    if model.documents == "joined" or model.end_of_document is not None:
        return architecture
    for prefix in prefixes:
        if not manifest_path(prefix).exists():
            raise ConfigurationError(
                f"model.documents is separate, but {prefix} has no manifest ({manifest_path(prefix).name}) that says "
                "which token ends a document: give model.end_of_document, or preprocess the corpus with megadape "
                "preprocess --append-eod"
            )
        manifest = load_manifest(prefix)
        if not manifest.append_eod:
            raise ConfigurationError(
                f"model.documents is separate, but the documents of {prefix} do not end with a token of their own "
                f"(append_eod in {manifest_path(prefix).name} is false): preprocess the corpus again with "
                "--append-eod, or set model.documents: joined"
            )
    known = model.model_copy(update={"end_of_document": manifest.tokenizer.eod})
    return architecture.model_copy(update={"model": known})


def data_identity(data: DataSettings) -> dict[str, Any]:
    """What a run reads, as far as its settings and the indexes of its datasets tell; names do not count.

    Reads every index once: keep it.
    """
    order = {"recipe": data.recipe, "seed": data.seed}
    if data.prefix is not None:
        return {**_dataset_identity(data.parts[0]), **order}
    blend = {
        f"blend[{place}]": {**_dataset_identity(part), "weight": part.weight} for place, part in enumerate(data.parts)
    }
    return {**blend, **order}


def _dataset_identity(part: BlendPart) -> dict[str, Any]:
    settings = part.settings
    seeded = f", seed {settings.split_seed}" if settings.split_by == "hash" and settings.split_seed else ""
    return {"index": file_digest(idx_path(part.prefix)), "split": f"{settings.split} by {settings.split_by}{seeded}"}


def check_identity(path: Path, saved: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    """Refuse to go on from a checkpoint of another model or of other data, naming every difference.

    Settings of the model that a checkpoint does not know, being older, had their default.
    """
    fields = ModelSettings.model_fields.items()
    defaults = {f"model.{name}": field.default for name, field in fields if not field.is_required()}
    now = flatten(wanted)
    before = {key: defaults[key] for key in now.keys() & defaults.keys()} | flatten(saved)
    differing = differences(before, now)
    if differing:
        raise CheckpointError(
            f"checkpoint {path} belongs to another run: {'; '.join(differing)}; "
            "choose another run_dir, or settings that agree"
        )


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """What two flat mappings do not agree on, in words; a key that one lacks is None there."""
    return [
        f"{key} is {before.get(key)} there and {now.get(key)} here"
        for key in sorted(before.keys() | now.keys())
        if before.get(key) != now.get(key)
    ]


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
