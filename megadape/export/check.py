"""Whether an exported folder computes what the run's own model computes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from megadape.errors import ExportError
from megadape.model import GPT

TOLERANCE = 1e-5
"""Of logits in float32."""

EXACT = 1e-9
"""Of logits in float64, where float32 differs by more: then it was rounding."""

STRETCH = 4
"""Training lengths that are compared."""

ROWS = 256
"""Of logits that are compared at a time."""


def load_exported(folder: Path) -> Any:  # noqa: ANN401 - transformers' own class
    """The model of an exported folder in float32, by this room's own code, which is a copy of the code there."""
    from megadape.export.hf.modeling_megadape import MegadapeForCausalLM

    with quiet():
        return MegadapeForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


@contextmanager
def quiet() -> Iterator[None]:
    """No progress bars of transformers meanwhile."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def check_logits(model: GPT, folder: Path, tokens: Tensor) -> float:
    """Compare the logits of both at the training length and at several times that.

    Args:
        model: the run's, with the values that were exported.
        folder: the exported one.
        tokens: [STRETCH x training length] ids.

    Returns:
        The largest difference in float32.

    Raises:
        ExportError: they differ by more than rounding.
    """
    exported = load_exported(folder)
    difference = compare(model, exported, tokens)
    if difference <= TOLERANCE:
        return difference
    exact = compare(model.double(), exported.double(), tokens)
    model.float()
    if not exact <= EXACT:
        raise ExportError(
            f"{folder.name}: the exported model's logits differ from the run's by {difference:.1e} in float32 and "
            f"{exact:.1e} in float64: nothing was written; please report it with the run's settings.yaml"
        )
    return difference


@torch.no_grad()
def compare(model: GPT, exported: Any, tokens: Tensor) -> float:  # noqa: ANN401 - transformers' own class
    """The largest difference of logits; NaN where one of them is."""
    differences = []
    for length in dict.fromkeys((model.architecture.training_length, len(tokens))):
        batch = tokens[None, :length]
        ours, theirs = model.hidden(batch)[0], exported.model(batch, use_cache=False).last_hidden_state[0]
        for own, other in zip(ours.split(ROWS), theirs.split(ROWS), strict=True):
            logits = functional.linear(own, model.output_weight()), exported.lm_head(other)
            differences.append((logits[0] - logits[1]).abs().max())
    return float(torch.stack(differences).max())
