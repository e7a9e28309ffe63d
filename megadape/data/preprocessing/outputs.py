"""The files that a preprocessing makes, and what they must not be written over."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from megadape.data.files import with_ending
from megadape.data.indexed_format import bin_path, idx_path
from megadape.data.manifest import is_manifest, manifest_path, tokenizer_copies
from megadape.data.preprocessing.settings import PreprocessSettings
from megadape.data.reading.plan import Plan
from megadape.errors import DataError


def quarantine_path(prefix: Path) -> Path:
    """Where bad records are kept."""
    return with_ending(prefix, ".quarantine.jsonl")


def output_files(settings: PreprocessSettings, prefix: Path) -> list[Path]:
    """The files of a dataset in the order in which they appear, the manifest last."""
    copies = tokenizer_copies(settings.tokenizer, prefix).values()
    return [bin_path(prefix), idx_path(prefix), *copies, manifest_path(prefix)]


def own_files(settings: PreprocessSettings, datasets: Mapping[str, Path]) -> list[Path]:
    """Files of earlier datasets of the same prefixes, which a folder of texts must not give as texts."""
    own = [prefix for prefix in datasets.values() if is_manifest(manifest_path(prefix))]
    quarantine = [quarantine_path(settings.prefix)] if own else []
    return [*quarantine, *(path for prefix in own for path in output_files(settings, prefix))]


def protect_inputs(settings: PreprocessSettings, datasets: Mapping[str, Path], plan: Plan) -> None:
    """Refuse to write over a text, or over a file of the manifest's name that is something else."""
    texts = {file.path.resolve() for file in plan.files}
    outputs = [path for prefix in datasets.values() for path in output_files(settings, prefix)]
    for output in (*outputs, quarantine_path(settings.prefix)):
        if output.resolve() in texts:
            raise DataError(
                f"{output} is one of the texts to read and would be written over: choose another output prefix"
            )
    for prefix in datasets.values():
        manifest = manifest_path(prefix)
        if manifest.exists() and not is_manifest(manifest):
            raise DataError(
                f"{manifest} is there and is not the manifest of a dataset: remove it or choose another output prefix"
            )
