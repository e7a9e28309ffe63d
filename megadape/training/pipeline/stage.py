"""The pipeline stages of a rank as modules: runs of layers in the run's precision, with loss at the end."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from megadape.attention import Documents
from megadape.model import GPT
from megadape.model.stages import Chunk
from megadape.parallel.mesh import Mesh
from megadape.parallel.settings import ParallelSettings
from megadape.training.engines.objective import PRODUCTS
from megadape.training.pipeline.placement import assign_layers, count_stages, places_of


class Stage(nn.Module):
    """One (virtual) stage of a pipeline.

    What travels between stages is the residual stream, which autocast leaves in the parameters' dtype (float32). The
    documents of a micro-batch do not: every rank has its tokens, and tells its stages beforehand.

    Args:
        chunk: its layers.
        index: its place among all virtual stages.
        length: tokens of a training sequence.
        precision: of products.
    """

    def __init__(self, chunk: Chunk, index: int, length: int, precision: str) -> None:
        super().__init__()
        self.chunk, self.index, self.length = chunk, index, length
        self.products = PRODUCTS[precision]
        self._coming: deque[Documents | None] = deque()

    def expect(self, documents: Iterable[Documents | None]) -> None:
        """What the next forward passes are of, one micro-batch after the other: their order in every schedule."""
        self._coming = deque(documents)

    @property
    def model(self) -> GPT:
        """The rank's part of the model."""
        return self.chunk.model

    def forward(self, x: Tensor, length: int | None = None) -> Tensor:
        """Token ids [b, s] on the first stage, else activations -> activations, normalised on the last.

        Args:
            x: activations are [b, s or s / tp, hidden].
            length: s; default the training length.
        """
        documents = None if self.model.settings.documents == "joined" else self._coming.popleft()
        with self.autocast(x):
            out: Tensor = self.chunk(x, length or self.length, documents)
        return out.contiguous()  # what collectives along the sequence give is not, and gloo hangs on it

    def loss(self, hidden: Tensor, targets: Tensor) -> Tensor:
        """Mean loss from what the last stage gives: [b, s or s / tp, hidden], [b, s] -> scalar, nats a token."""
        with self.autocast(hidden):
            return self.model.mean_loss(hidden, targets)

    def autocast(self, x: Tensor) -> torch.autocast:
        """The context of the run's precision."""
        return torch.autocast(x.device.type, self.products, enabled=self.products is not None)


def build_stages(model: GPT, length: int, precision: str, parallel: ParallelSettings, mesh: Mesh) -> list[Stage]:
    """The stages that this rank has, in the order in which a micro-batch meets them."""
    runs = assign_layers(model.architecture, parallel, mesh.pp.rank)
    last = count_stages(parallel) - 1
    return [
        Stage(Chunk(model, layers, first=place == 0, last=place == last), place, length, precision)
        for place, layers in zip(places_of(parallel, mesh.pp.rank), runs, strict=True)
    ]


def expect_all(stages: Iterable[Stage], micro_batches: Iterable[Tensor]) -> None:
    """Tell all stages of a rank which micro-batches, ids [b, s + 1] each, come next."""
    stages = list(stages)
    documents = [stages[0].model.find_documents(tokens[:, :-1]) for tokens in micro_batches]
    for stage in stages:
        stage.expect(documents)


def activation_shape(model: GPT, batch: int, length: int) -> tuple[int, int, int]:
    """[b, s or s / tp, hidden]: what travels between stages."""
    sharding = model.sharding
    rows = length // sharding.tp.size if sharding.splits_sequence(length) else length
    return batch, rows, model.settings.hidden_size


def activation_dtype(model: GPT) -> torch.dtype:
    """Of what travels between stages."""
    return next(model.parameters()).dtype
