"""Whether there is anything left to do: the datasets may be there already."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from megadape.data.manifest import DatasetManifest, load_manifest, manifest_path
from megadape.data.preprocessing.settings import PreprocessSettings
from megadape.data.reading.plan import Plan
from megadape.data.tokenizers import Tokenizer
from megadape.errors import DataError


def find_finished(
    settings: PreprocessSettings, plan: Plan, tokenizer: Tokenizer, datasets: Mapping[str, Path]
) -> dict[str, DatasetManifest] | None:
    """The manifests of the datasets, when they are newer than their sources and made in the way that is asked for."""
    if len(plan.files) < len(plan.sources):
        return None
    found = {}
    for key, prefix in datasets.items():
        try:
            manifest = load_manifest(prefix)
            written = manifest_path(prefix).stat().st_mtime_ns
        except (DataError, OSError):
            return None
        if not _same(manifest, settings, plan, tokenizer, key) or written <= max(file.modified for file in plan.files):
            return None
        found[key] = manifest
    return found


def _same(manifest: DatasetManifest, settings: PreprocessSettings, plan: Plan, tokenizer: Tokenizer, key: str) -> bool:
    made = [(source.path, source.size) for source in manifest.sources]
    return (
        not manifest.operations
        and made == [(source.name, source.size) for source in plan.sources]
        and manifest.tokenizer.digest == tokenizer.digest
        and manifest.json_key == key
        and manifest.where == settings.where
        and manifest.document_separator == settings.document_separator
        and manifest.append_eod == settings.append_eod
        and manifest.max_line_bytes == settings.max_line_bytes
        and manifest.on_bad_line == settings.on_bad_line
        and (not manifest.undecodable or settings.skip_undecodable or settings.on_bad_line != "error")
        and (settings.max_bad_lines is None or manifest.bad <= settings.max_bad_lines)
    )
