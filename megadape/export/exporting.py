"""``megadape export``: a checkpoint of a run as a folder that transformers loads."""

from __future__ import annotations

import importlib.util
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from megadape.checkpoint.files import write_text
from megadape.errors import ExportError
from megadape.export.card import check_license, make_card
from megadape.export.check import STRETCH, check_logits
from megadape.export.facts import make_record
from megadape.export.folder import check_target, staged
from megadape.export.model_files import round_parameters, write_config, write_weights
from megadape.export.record import RECORD, Dtype, Record
from megadape.export.source import Source, check_data, check_vocabulary, open_source
from megadape.export.tokenizers import check_tokenizer, write_tokenizer
from megadape.model import count_parameters

CARD = "README.md"


@dataclass(frozen=True)
class ExportRequest:
    """What to export, and how."""

    run_dir: Path
    folder: Path
    step: int | None = None
    """None: the newest sound checkpoint."""
    dtype: Dtype | None = None
    """None: float32, or what the run was imported in."""
    license: str | None = None
    overwrite: bool = False
    max_shard_size: str = "5GB"
    """Of a file of weights."""
    code: dict[str, Any] | None = None
    """Commit of the code that exports."""


@dataclass(frozen=True)
class Exported:
    """What was written."""

    folder: Path
    step: int
    difference: float
    """The largest between the exported model's logits and the run's."""


def export_run(request: ExportRequest) -> Exported:
    """Write the folder; it appears whole, or not at all.

    Raises:
        ExportError: there is no such run or checkpoint, the folder is in the way, transformers is missing, the exported
            model or tokenizer differs from the run's, or the disk refused.
        MegadapeError: the run's settings, data, tokenizer or checkpoint are missing or damaged.
    """
    require_transformers()
    check_license(request.license)
    check_target(request.folder, overwrite=request.overwrite, keep=request.run_dir)
    check_size(request.max_shard_size)
    source = open_source(request.run_dir, request.step)
    for part in source.run.data.parts:
        check_target(request.folder, overwrite=request.overwrite, keep=part.prefix)
    check_data(source)
    check_vocabulary(source)
    record = make_record(source, dtype=request.dtype, license=request.license, code=request.code)
    if record.tokenizer.digest != source.tokenizer.digest:
        raise ExportError(
            f"the tokenizer of {source.prefix} is not the one that the imported model has: set data.prefix in "
            f"{request.run_dir / 'settings.yaml'} back to the dataset that megadape import made"
        )
    with staged(request.folder) as staging:
        difference = _write(source, record, staging, request.max_shard_size)
    return Exported(request.folder, record.step, difference)


def _write(source: Source, record: Record, staging: Path, max_shard_size: str) -> float:
    model = source.build_model()
    round_parameters(model, record.dtype)
    weights = write_weights(model, staging, record.dtype, max_shard_size)
    record = record.model_copy(update={"weights": weights})
    write_config(record, staging)
    write_tokenizer(source, record, staging)
    write_text(staging / RECORD, record.to_json())
    write_text(staging / CARD, make_card(record, count_parameters(model)))
    check_tokenizer(source.tokenizer, staging)
    tokens = source.sample_tokens(STRETCH * source.architecture.training_length)
    return check_logits(model, staging, torch.from_numpy(tokens))


def check_size(text: str) -> None:
    """``ExportError`` unless it is a size as files of weights have them: 5GB, 500MB, 1.5GB."""
    found = re.fullmatch(r"(\d{1,9}(?:\.\d{1,9})?)\s*[KMGT]B", text.upper())
    if found is None or float(found[1]) == 0:
        raise ExportError(f"--max-shard-size {text!r} is no size: give one above 0 in KB, MB, GB or TB, such as 5GB")


def require_transformers() -> None:
    """``ExportError`` where the libraries are missing that an exported folder is for."""
    for name in ("transformers", "huggingface_hub"):
        if importlib.util.find_spec(name) is None:
            raise ExportError(f"exporting needs {name}: pip install 'megadape[export]'")
