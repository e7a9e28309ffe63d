"""Evaluate a run: its newest checkpoint on the text that it was not trained on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from megadape.data import DataSettings, IndexedDataset, load_tokenizer, split_sequences, token_stream
from megadape.errors import EvaluationError
from megadape.evaluation.extrapolation import evaluate_lengths
from megadape.evaluation.restore import RestoredModel, restore_model
from megadape.evaluation.results import Extrapolation
from megadape.evaluation.settings import EvaluationSettings
from megadape.machine import keep_freed_memory
from megadape.parallel.group import ALONE
from megadape.parallel.mesh import Mesh

SPLITS = ("train", "valid", "test")


@dataclass(frozen=True)
class EvaluationText:
    """Tokens to evaluate on, and how many bytes of text each token id stands for."""

    stream: np.ndarray
    token_bytes: np.ndarray


def open_text(data: DataSettings, settings: EvaluationSettings, split: str) -> EvaluationText:
    """The beginning of a split, as much of it as the evaluation can use.

    Args:
        data: of one dataset.
        settings: how much is wanted.
        split: train, valid or test.

    Raises:
        EvaluationError: no such split, or an empty one.
    """
    assert data.prefix is not None
    if split not in SPLITS:
        raise EvaluationError(f"unknown split {split!r}; choose from {', '.join(SPLITS)}")
    dataset = IndexedDataset(data.prefix)
    sequences = split_sequences(dataset, data.split, data.split_by, data.split_seed)
    longest = max(settings.lengths)
    stream = token_stream(dataset, getattr(sequences, split), limit=settings.sequences * longest + 1)
    if not len(stream):
        raise EvaluationError(
            f"the {split} split of {data.prefix} (data.split {data.split}) is empty: evaluate another"
        )
    token_bytes = load_tokenizer(data.prefix).token_bytes()
    return EvaluationText(stream, token_bytes)


def evaluate_run(
    run_dir: Path,
    text: EvaluationText,
    settings: EvaluationSettings,
    progress: Callable[[int, int], None] | None = None,
    mesh: Mesh | None = None,
) -> tuple[RestoredModel, Extrapolation]:
    """Restore a run's model and evaluate it at every length.

    Args:
        run_dir: the run's folder.
        text: what to evaluate on.
        settings: lengths, mode, amounts.
        progress: told (tokens fed, tokens to feed).
        mesh: ranks that share the rows of every sequence; each returns the same results. Default: this process alone.
    """
    keep_freed_memory()
    device = mesh.device if mesh is not None else torch.device("cuda" if torch.cuda.is_available() else "cpu")
    restored = restore_model(run_dir, device, ALONE if mesh is None else mesh.world)
    vocabulary = restored.model.settings.vocab_size or 0
    largest = int(text.stream.max())
    if largest >= vocabulary:
        raise EvaluationError(
            f"the evaluation text has token {largest}, but the model of {run_dir} knows {vocabulary} tokens: "
            "evaluate on a dataset made with the run's tokenizer"
        )
    results = evaluate_lengths(
        restored.model, text.stream, text.token_bytes, settings, device=device, progress=progress
    )
    return restored, results
