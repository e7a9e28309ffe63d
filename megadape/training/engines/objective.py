"""Forward and backward of an update's micro-batches: what engines share, with and without a pipeline."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from typing import Protocol

import torch
from torch import Tensor, nn

from megadape.model import GPT
from megadape.parallel.mesh import Mesh
from megadape.parallel.settings import ParallelSettings
from megadape.training.settings import TrainingSettings

PRODUCTS: dict[str, torch.dtype | None] = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}
"""Precision -> the dtype of products under autocast; parameters, gradients and their sums are float32 in all."""


class Objective(nn.Module):
    """Token ids [b, s + 1] -> mean loss, in the run's precision."""

    def __init__(self, model: GPT, precision: str, device: torch.device) -> None:
        super().__init__()
        self.model = model
        self.products = PRODUCTS[precision]
        self.device_type = device.type

    def forward(self, tokens: Tensor) -> Tensor:
        """Scalar loss, nats a token."""
        with torch.autocast(self.device_type, self.products, enabled=self.products is not None):
            return self.model.loss(tokens)


class Worker(Protocol):
    """Runs a model's forward and backward passes; one for each way in which stages work together."""

    def __init__(self, model: GPT, settings: TrainingSettings, parallel: ParallelSettings, mesh: Mesh) -> None: ...

    def run(self, micro_batches: Sequence[Tensor], scale: float | Tensor) -> Tensor:
        """Forward and backward of all micro-batches of this rank's data share.

        Args:
            micro_batches: token ids, each [b, s + 1], the same number on every rank.
            scale: gradients of scale x mean loss are added to ``.grad``.

        Returns:
            The mean loss, detached, the same on all ranks of this model; not yet averaged over data-parallel ranks.
        """
        ...

    def evaluate(self, tokens: Tensor) -> Tensor:
        """Mean loss of [b, s + 1], without gradients, in the model's present mode; the same on all ranks of the
        model."""
        ...


class PlainWorker:
    """One stage: see ``Worker``."""

    def __init__(self, model: GPT, settings: TrainingSettings, parallel: ParallelSettings, mesh: Mesh) -> None:
        assert mesh.pp.size == 1
        self.objective = Objective(model, settings.precision, mesh.device)

    def run(self, micro_batches: Sequence[Tensor], scale: float | Tensor) -> Tensor:
        """One micro-batch after the other."""
        losses = []
        for tokens in micro_batches:
            loss = self.objective(tokens) / len(micro_batches)
            (loss * scale).backward()
            losses.append(loss.detach())
        return torch.stack(losses).sum()

    @torch.no_grad()
    def evaluate(self, tokens: Tensor) -> Tensor:
        """Mean loss."""
        loss: Tensor = self.objective(tokens)
        return loss


WORKERS = {
    False: ("megadape.training.engines.objective", "PlainWorker"),
    True: ("megadape.training.pipeline.torch_pipeline", "TorchPipelineWorker"),
}
"""Whether there is a pipeline -> where its worker lives."""


def build_worker(model: GPT, settings: TrainingSettings, parallel: ParallelSettings, mesh: Mesh) -> Worker:
    """The worker that the mesh needs."""
    module, name = WORKERS[mesh.pp.size > 1]
    worker: type[Worker] = getattr(import_module(module), name)
    return worker(model, settings, parallel, mesh)
