"""Training on a task: a plain loop whose every step depends on (seed, task, step) alone.

Strings, dropout and drawn positions of a step come from streams that are seeded for it; with model and optimizer
restored, a killed run goes on to the numbers that it would have had.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from math import isfinite
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.nn.utils import clip_grad_norm_

from megadape.chomsky.registry import build_task
from megadape.chomsky.saving import restore_state, save_state
from megadape.chomsky.settings import ExperimentSettings, TaskTrainingSettings
from megadape.chomsky.task import Sample, Task
from megadape.errors import TrainingError
from megadape.model.encoder import Encoder, EncoderArchitecture, build_encoder
from megadape.parameters import seed_of
from megadape.training.metrics import JsonLines

Told = Callable[[int, float], None]
"""(steps made, loss)."""


def build_model(settings: ExperimentSettings, task: Task, device: torch.device) -> Encoder:
    """The encoder before its first step."""
    trained = settings.training.lengths.values
    architecture = EncoderArchitecture(
        encoder=settings.encoder,
        positions=settings.method.positions,
        mixer=settings.method.mixer,
        symbols=len(task.alphabet),
        answers=len(task.answers),
        training_length=max(task.total_length(length) for length in trained),
        position_range=settings.method.position_range,
    )
    return build_encoder(architecture, seed=settings.seed, device=device)


def train(settings: ExperimentSettings, folder: Path, device: torch.device, told: Told) -> Encoder:
    """Train, or go on from the folder's checkpoint.

    Args:
        settings: of the experiment.
        folder: for the checkpoint and metrics.jsonl.
        device: to compute on.
        told: after every step.

    Returns:
        The encoder after its last step, which is saved.

    Raises:
        TrainingError: the loss is not finite, or the disk refuses.
        CheckpointError: the checkpoint cannot be read.
    """
    chosen, task = settings.training, build_task(settings.task, settings.options)
    model = build_model(settings, task, device)
    optimizer = torch.optim.Adam(model.parameters(), lr=chosen.learning_rate)
    done = restore_state(folder, model, optimizer)
    metrics = JsonLines(folder / "metrics.jsonl", done)
    try:
        for step in range(done + 1, chosen.steps + 1):
            row = take_step(settings, task, model, optimizer, step, device)
            if not isfinite(row["loss"]):
                raise TrainingError(
                    f"the loss at step {step} is {row['loss']}: lower training.learning_rate, or give "
                    "training.warmup_steps"
                )
            metrics.log(row)
            if step % chosen.save_every == 0 or step == chosen.steps:
                metrics.sync()
                save_state(folder, model, optimizer, step)
            told(step, row["loss"])
    finally:
        metrics.close()
    return model


def take_step(
    settings: ExperimentSettings,
    task: Task,
    model: Encoder,
    optimizer: torch.optim.Optimizer,
    step: int,
    device: torch.device,
) -> dict[str, Any]:
    """One update; its row of metrics.jsonl."""
    started, chosen = time.perf_counter(), settings.training
    generator = torch.Generator().manual_seed(seed_of(settings.seed, f"{task.name} step {step}"))
    torch.manual_seed(seed_of(settings.seed, f"{task.name} dropout {step}"))
    lengths = chosen.lengths.values
    length = lengths[int(torch.randint(len(lengths), (), generator=generator))]
    sample = move(task.sample(chosen.batch_size, length, generator), device)
    model.train()
    logits = model(sample.inputs, sample.targets.shape[1], generator)
    loss = masked_loss(logits, sample)
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    norm = clip_grad_norm_(model.parameters(), chosen.clip)
    for group in optimizer.param_groups:
        group["lr"] = learning_rate(chosen, step)
    optimizer.step()
    right, scored = count_right(logits.detach(), sample)
    return {
        "step": step,
        "length": length,
        "loss": float(loss.detach()),
        "accuracy": right / scored,
        "learning_rate": learning_rate(chosen, step),
        "grad_norm": float(norm),
        "seconds": time.perf_counter() - started,
    }


def learning_rate(chosen: TaskTrainingSettings, step: int) -> float:
    """At a step, the first being 1."""
    return chosen.learning_rate * min(1.0, step / max(1, chosen.warmup_steps))


def masked_loss(logits: Tensor, sample: Sample) -> Tensor:
    """Mean cross entropy of the scored positions: logits [b, m, answers] -> scalar, nats."""
    losses = functional.cross_entropy(logits.flatten(0, 1).float(), sample.targets.flatten(), reduction="none")
    if sample.mask is None:
        return losses.mean()
    scored = sample.mask.flatten()
    return (losses * scored).sum() / scored.sum()


def count_right(logits: Tensor, sample: Sample) -> tuple[int, int]:
    """Scored positions whose most likely symbol is the right one, and all that are scored."""
    right = logits.argmax(-1) == sample.targets
    if sample.mask is None:
        return int(right.sum()), right.numel()
    return int((right & sample.mask).sum()), int(sample.mask.sum())


def move(sample: Sample, device: torch.device) -> Sample:
    """A sample on another device."""
    mask = None if sample.mask is None else sample.mask.to(device)
    return Sample(sample.inputs.to(device), sample.targets.to(device), mask)
