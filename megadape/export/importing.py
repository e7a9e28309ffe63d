"""``megadape import``: an exported folder as a run that can be evaluated, sampled from and trained further.

Nothing of the folder is executed: JSON, safetensors and the tokenizer's own files are read. What makes the folder again
is kept in the run's checkpoint, of step 0.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from megadape.checkpoint.files import digest, read_json, write_text
from megadape.checkpoint.settings import CheckpointSettings
from megadape.checkpoint.tensor_file import TensorFileReader, list_tensors
from megadape.checkpoint.writer import CheckpointWriter
from megadape.config import dump_yaml, load
from megadape.config.loading import Overlay
from megadape.data import preprocess_files
from megadape.data.manifest import rebuild_tokenizer
from megadape.errors import ConfigurationError, ExportError
from megadape.export.folder import check_target, staged
from megadape.export.model_files import config_values
from megadape.export.names import HEAD, import_tensor, theirs_by_ours
from megadape.export.record import RECORD, Record, read_record
from megadape.export.source import EXPORTED, sample_text
from megadape.machine import versions
from megadape.model import GPT
from megadape.parallel.mesh import Mesh, Place
from megadape.parameters import ParameterSpec, parameter_table
from megadape.training.saving import BEGINS_RUN

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"


@dataclass(frozen=True)
class ImportRequest:
    """What to import, and where to."""

    folder: Path
    run_dir: Path
    changed: bool = False
    """Whether the weights may be others than those that were exported."""


def import_folder(request: ImportRequest) -> Path:
    """Make the run folder; it appears whole, or not at all.

    Raises:
        ExportError: the folder is none that was exported, is damaged, or the run folder is in the way.
        TokenizerError: a tokenizer's file is damaged.
    """
    folder, run_dir = request.folder, request.run_dir
    if not folder.is_dir():
        raise ExportError(f"{folder} does not exist, or is no folder: name one that megadape export made")
    check_target(run_dir, overwrite=None, keep=folder)
    record = read_record(folder)
    _check_config(folder, record)
    record = _check_weights(folder, record, request.changed)
    rebuild_tokenizer(record.tokenizer, folder)  # raises unless its files are what they were
    table = _table(folder, record)
    parameters = _read_parameters(folder, record, table)
    with staged(run_dir) as staging:
        _write_run(record, folder, staging, run_dir)
        _write_checkpoint(record, parameters, table, staging)
    return run_dir


def _check_config(folder: Path, record: Record) -> None:
    """``ExportError`` unless config.json and the record tell of the same model."""
    found = _read(folder / "config.json")
    if found.get("model_type") != "megadape":
        raise ExportError(
            f"{folder / 'config.json'} is of a {found.get('model_type')!r} model: only megadape's can be imported"
        )
    for key, value in config_values(record.architecture).items():
        if found.get(key) != value:
            raise ExportError(
                f"{folder}: {key} is {found.get(key)!r} in config.json and {value!r} in {RECORD}: one of the two was "
                "changed"
            )


def _check_weights(folder: Path, record: Record, changed: bool) -> Record:
    """The record, without what is no longer true of weights that were changed."""
    problem = None
    for name, facts in record.weights.items():
        path = folder / Path(name).name
        if not path.is_file():
            problem = f"{name} is missing"
        elif path.stat().st_size != facts.bytes or digest(path) != facts.sha256:
            problem = f"{name} is not the file that was exported (its SHA-256 differs)"
    if problem is None and record.weights:
        return record
    if not changed:
        reason = problem or f"no weights are named in {RECORD}"
        raise ExportError(f"{folder}: {reason}: it is damaged, or was changed; --changed takes it as it is")
    return record.model_copy(update={"changed": True, "evaluations": ()})


def _table(folder: Path, record: Record) -> dict[str, ParameterSpec]:
    try:
        with torch.device("meta"):
            return parameter_table(GPT(record.architecture))
    except ConfigurationError as error:
        raise ExportError(f"{folder / RECORD} describes no model that can be built: {error}") from error


def _read_parameters(folder: Path, record: Record, table: Mapping[str, ParameterSpec]) -> dict[str, Tensor]:
    """All parameters by our names, in float32."""
    files, theirs = _find_tensors(folder), theirs_by_ours(table)
    foreign = files.keys() - set(theirs.values()) - ({HEAD[1]} if record.architecture.model.tied_embeddings else set())
    if foreign:
        raise ExportError(f"{folder} has a tensor {min(foreign)!r} that its model does not have: it is another model's")
    readers: dict[Path, TensorFileReader] = {}
    parameters: dict[str, Tensor] = {}
    for ours, spec in table.items():
        path = files.get(theirs[ours])
        if path is None:
            raise ExportError(f"{folder} lacks the tensor {theirs[ours]!r}: its weights are incomplete")
        if path not in readers:
            readers[path] = TensorFileReader(path)
        tensor = import_tensor(ours, readers[path].read(theirs[ours]))
        if tensor.shape != spec.shape or not tensor.is_floating_point():
            raise ExportError(
                f"{path}: {theirs[ours]} is {tensor.dtype} {list(tensor.shape)}, which does not fit the model's "
                f"{list(spec.shape)}"
            )
        parameters[ours] = tensor.float()
    return parameters


def _find_tensors(folder: Path) -> dict[str, Path]:
    """Name of each tensor -> its file."""
    if (folder / WEIGHTS).is_file():
        return dict.fromkeys(list_tensors(folder / WEIGHTS), folder / WEIGHTS)
    if not (folder / INDEX).is_file():
        raise ExportError(f"{folder} has no {WEIGHTS}: its weights are missing")
    names = _read(folder / INDEX).get("weight_map")
    if not isinstance(names, dict) or not all(isinstance(name, str) for name in names.values()):
        raise ExportError(f"{folder / INDEX} is damaged: it has no weight_map")
    for name in names.values():
        if Path(name).name != name or not name.endswith(".safetensors"):  # it must stay inside the folder
            raise ExportError(f"{folder / INDEX} names the file {name!r}, which is no safetensors file in {folder}")
    return {tensor: folder / name for name in sorted(set(names.values())) for tensor in list_tensors(folder / name)}


def _write_run(record: Record, folder: Path, staging: Path, run_dir: Path) -> None:
    """Settings, and a dataset of one text, from which the run has its tokenizer until it is given data of its own."""
    text = staging / "data" / "text.txt"
    text.parent.mkdir()
    write_text(text, sample_text())
    options = {**record.tokenizer.options, **{key: folder / name for key, name in record.tokenizer.files.items()}}
    preprocess_files(
        [text], text.with_suffix(""), tokenizer=record.tokenizer.kind, tokenizer_options=options, append_eod=True
    )
    values = {**record.settings, "run_dir": str(run_dir), "data": {"prefix": str(run_dir / "data" / "text")}}
    try:
        run = load([Overlay(values, str(folder / RECORD))])
    except ConfigurationError as error:
        raise ExportError(f"{folder / RECORD} holds settings that this version of megadape refuses: {error}") from error
    write_text(staging / "settings.yaml", dump_yaml(run))


def _write_checkpoint(
    record: Record, parameters: Mapping[str, Tensor], table: Mapping[str, ParameterSpec], staging: Path
) -> None:
    kept = record.model_copy(update={"weights": {}}).model_dump(mode="json")
    state = {
        "architecture": record.architecture.model_dump(mode="json"),
        "updates": 0,
        "versions": versions(),
        BEGINS_RUN: True,
        EXPORTED: kept,
    }
    mesh = Mesh(Place(), torch.device("cpu"))
    writer = CheckpointWriter(staging / "checkpoints", mesh, CheckpointSettings())
    writer.take_over()
    writer.save(0, parameters, {}, table, state)


def _read(path: Path) -> dict[str, Any]:
    try:
        return read_json(path)
    except FileNotFoundError as error:
        raise ExportError(f"{path} is missing: the folder is none that megadape export made, or damaged") from error
    except (OSError, ValueError) as error:
        raise ExportError(f"{path} cannot be read: {error}") from error
