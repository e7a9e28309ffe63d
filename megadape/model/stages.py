"""A GPT as pipeline stages: which layers each has, and one run of them as a module."""

from __future__ import annotations

from functools import cache
from typing import Literal

import torch
from torch import Tensor, nn

from megadape.attention import Documents
from megadape.model.gpt import GPT, count_parameters
from megadape.model.part import Part, deal_evenly
from megadape.model.settings import Architecture


@cache
def deal_layers(
    architecture: Architecture, stages: int, partition: Literal["parameters", "even"]
) -> tuple[tuple[int, ...], ...]:
    """Consecutive layers of each stage, at least one.

    By parameters, the first stage's embedding and the last one's norm and output layer count, so that these stages get
    fewer layers.
    """
    layers = architecture.model.num_layers
    assert 1 <= stages <= layers, "checked when settings are read"
    if partition == "even":
        return deal_evenly([1] * layers, stages)
    with torch.device("meta"):
        first, middle, last = (
            count_parameters(GPT(architecture, part=part))
            for part in (Part((0,), head=False), Part((0,), False, False), Part((0,), embedding=False))
        )
    weights = [middle] * layers
    weights[0] += first - middle
    weights[-1] += last - middle
    return deal_evenly(weights, stages)


def shared_between_stages(model: GPT) -> dict[str, Literal["all", "ends"]]:
    """Parameters of this rank that other stages of its pipeline hold too, and which ones do."""
    part, settings = model.part, model.settings
    if len(part.layers) == settings.num_layers:
        return {}
    shared: dict[str, Literal["all", "ends"]] = {}
    for name, _ in model.named_parameters():
        if name.startswith("shared_positions."):
            shared[name] = "all"
        elif name == "embedding.weight" and settings.tied_embeddings and part.embedding != part.head:
            shared[name] = "ends"
    return shared


class Chunk(nn.Module):
    """One run of consecutive layers of a rank's part: a pipeline stage, or one of a rank's virtual stages.

    Args:
        model: the rank's part of the model.
        layers: the run.
        first: whether it begins the model.
        last: whether it ends it.
    """

    def __init__(self, model: GPT, layers: tuple[int, ...], first: bool, last: bool) -> None:
        super().__init__()
        self.layers, self.first, self.last = layers, first, last
        self._model = (model,)  # not registered: the other runs of the rank are not this one's
        self.blocks = nn.ModuleDict({str(layer): model.blocks[str(layer)] for layer in layers})
        self.shared_positions = model.shared_positions
        self.embedding = model.embedding if first or (last and model.head is None) else None
        self.norm = model.norm if last else None
        self.head = model.head if last else None

    @property
    def model(self) -> GPT:
        """The rank's part of the model."""
        return self._model[0]

    def forward(self, x: Tensor, length: int | None = None, documents: Documents | None = None) -> Tensor:
        """Token ids [b, s] if first, else activations [b, s, hidden] -> activations, normalised if last.

        Args:
            x: split activations are [b, s / tp, hidden].
            length: s; default what x says, if activations are split whenever the settings say so.
            documents: of the sequences, to be kept apart: only the first run sees the tokens.
        """
        model = self.model
        layout = model.lay_out(length or self._length(x), x.device, self.layers[0], documents)
        x = model.embed(x, layout) if self.first else x
        x = model.run(x, layout, self.layers)
        return model.finish(x, layout) if self.last else x

    def _length(self, x: Tensor) -> int:
        sharding = self.model.sharding
        return x.shape[1] * (sharding.tp.size if sharding.sequence_parallel and not self.first else 1)
