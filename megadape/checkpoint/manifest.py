"""What is in a checkpoint's folder, and whether it can be trusted.

    step-00000200/
      model-00000.safetensors       full named tensors, as many files as ranks wrote some
      optimizer-00000.safetensors   MOMENT/NAME -> full tensor
      index.json                    tensor -> file, shape, dtype, shard axis
      state.json                    everything else
      manifest.json                 size and SHA-256 of each of the above; written last

Format 1, which a single rank wrote, has one model.safetensors, one optimizer.safetensors and no index.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from megadape.checkpoint.files import FileRecord, digest, read_json, write_json

MANIFEST, INDEX, STATE = "manifest.json", "index.json", "state.json"
FORMAT = 2

NEEDED: dict[int, frozenset[str]] = {
    1: frozenset({"model.safetensors", STATE}),
    2: frozenset({INDEX, STATE}),
}
"""Format -> files without which it is none."""


def write_manifest(folder: Path, files: Mapping[str, FileRecord], more: Mapping[str, Any]) -> None:
    """Write the manifest, the last file of a checkpoint."""
    records = {name: asdict(files[name]) for name in sorted(files)}
    write_json(folder / MANIFEST, {"format": FORMAT, **more, "files": records})


def read_manifest(folder: Path) -> dict[str, FileRecord] | str:
    """File -> what it must be; or in words, why there is no such thing."""
    try:
        manifest = read_json(folder / MANIFEST)
        version = manifest.get("format", 1)
        if version not in NEEDED:
            return f"it has format {version}, which this version of megadape does not know"
        files = {name: FileRecord(one["bytes"], one["sha256"]) for name, one in manifest["files"].items()}
    except FileNotFoundError:
        return f"{MANIFEST} is missing"
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        return f"{MANIFEST} cannot be read ({error})"
    # names come from a file: they must stay inside their folder
    outside = [name for name in files if Path(name).name != name]
    if outside:
        return f"its manifest names {outside[0]}, which is outside"
    missing = NEEDED[version] - files.keys()
    return f"its manifest names no {min(missing)}" if missing else files


def check_size(folder: Path, name: str, record: FileRecord) -> str | None:
    """What is wrong with a file at first sight, or None."""
    try:
        size = (folder / name).stat().st_size
    except FileNotFoundError:
        return f"{name} is missing"
    except OSError as error:
        return f"{name} cannot be read ({error})"
    return None if size == record.bytes else f"{name} has {size} bytes instead of {record.bytes}"


def check_digest(folder: Path, name: str, record: FileRecord) -> str | None:
    """What is wrong with the content of a file, or None; reads all of it."""
    try:
        same = digest(folder / name) == record.sha256
    except OSError as error:
        return f"{name} cannot be read ({error})"
    return None if same else f"{name} is damaged (its SHA-256 differs from the manifest's)"


def check_model_digest(folder: Path, name: str, record: FileRecord) -> str | None:
    """As ``check_digest``, but for what the optimizer keeps: two thirds of all bytes."""
    return None if name.startswith("optimizer") else check_digest(folder, name, record)


Check = Callable[[Path, str, FileRecord], str | None]
QUICK: tuple[Check, ...] = (check_size,)
FULL: tuple[Check, ...] = (check_size, check_digest)
MODEL_ONLY: tuple[Check, ...] = (check_size, check_model_digest)
"""For who reads nothing of the optimizer."""


def find_problem(folder: Path, checks: tuple[Check, ...] = FULL) -> str | None:
    """Why a checkpoint cannot be trusted, or None."""
    files = read_manifest(folder)
    if isinstance(files, str):
        return files
    found = (check(folder, name, record) for check in checks for name, record in files.items())
    return next((problem for problem in found if problem is not None), None)
