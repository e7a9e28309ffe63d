"""What bias and mixer add to a chunk of scores, forward and backward: the mix kernels as functions of tensors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from megadape.attention.gpu.mix import mix_forward
from megadape.attention.gpu.mix_backward import mix_backward
from megadape.attention.gpu.scene import LANES, Scene, mix_constants


@dataclass(frozen=True)
class Mix:
    """What is added to scores: contiguous and float32, and empty where there is no mixer or no network."""

    leak: float
    first_offset: int
    residual: bool
    u: Tensor
    """[n, D]."""
    c: Tensor
    """[h, n]."""
    w1: Tensor
    """[D, h]."""
    w2: Tensor
    """[h, D]."""
    numerator: Tensor
    """[n], and below, as in ``Network``."""
    inverse: Tensor
    """[queries]."""
    weight: Tensor
    """[units]."""
    bias: Tensor
    """[units]."""
    to_hidden: Tensor
    """[units, D]."""
    to_logits: Tensor
    """[units, h]."""

    def tensors(self, scene: Scene) -> tuple[Tensor, ...]:
        """In the kernels' order, for a chunk."""
        inverse = self.inverse[scene.chunk.first_row :]
        network = self.numerator, inverse, self.weight, self.bias, self.to_hidden, self.to_logits
        return self.u, self.c, self.w1, self.w2, *network

    def sizes(self, scene: Scene, steps: int) -> tuple[int | float, ...]:
        """Numbers that come after the tensors, but for those that are compiled in."""
        chunk = scene.chunk
        shape = chunk.rows, chunk.keys, chunk.width, self.c.shape[1], self.first_offset, scene.lead
        return *shape, steps, self.leak

    def constants(self, scene: Scene, offsets: int) -> dict[str, int | bool]:
        """Numbers that are compiled in."""
        return mix_constants(scene.heads, len(self.w1), len(self.weight), offsets, residual=self.residual)


@dataclass(frozen=True)
class Sums:
    """Slots for gradients, one for each program that may add to the same numbers; summed at the end."""

    u: Tensor
    c: Tensor
    w1: Tensor
    w2: Tensor
    """Transposed."""
    numerator: Tensor
    unit: Tensor
    """[programs, units, 2], of weight and bias."""
    to_hidden: Tensor
    to_logits: Tensor
    inverse: Tensor
    """[queries], added up chunk by chunk."""

    @classmethod
    def zeros(cls, mix: Mix, scenes: Sequence[Scene]) -> Sums:
        """For all chunks of a call."""
        slots = max((scene.slots for scene in scenes), default=1)
        programs = max((scene.mix_programs for scene in scenes), default=1)

        def make(count: int, *shape: int) -> Tensor:
            return mix.c.new_zeros(count, *shape)

        return cls(
            make(slots, *mix.u.shape),
            make(slots, *mix.c.shape),
            make(programs, *mix.w1.shape),
            make(programs, *mix.w1.shape),
            make(slots, *mix.numerator.shape),
            make(programs, len(mix.weight), 2),
            make(programs, *mix.to_hidden.shape),
            make(programs, *mix.to_logits.shape),
            torch.zeros_like(mix.inverse),
        )

    @property
    def slots(self) -> tuple[Tensor, ...]:
        """In the kernel's order."""
        return self.u, self.c, self.w1, self.w2, self.numerator, self.unit, self.to_hidden, self.to_logits

    def total(self) -> tuple[Tensor, ...]:
        """Gradients in the order of ``Mix``."""
        u, c, w1, w2, numerator, unit, to_hidden, to_logits = (x.sum(0) for x in self.slots)
        return u, c, w1, w2.T, numerator, self.inverse, unit[:, 0], unit[:, 1], to_hidden, to_logits


def mix(scene: Scene, added: Mix, scores: Tensor) -> None:
    """Scores to logits."""
    walk = scene.tiles.forward
    tiles, shares, steps = scene.walk(walk.offsets)
    mix_forward[(tiles * LANES, shares, scene.chunk.sequences)](
        scores,
        *added.tensors(scene),
        *added.sizes(scene, steps),
        **added.constants(scene, walk.offsets),
        num_warps=walk.warps,
        num_stages=walk.stages,
    )


def unmix(scene: Scene, added: Mix, scores: Tensor, upstream: Tensor, lse: Tensor, sums: Sums) -> Tensor:
    """Turns ``upstream`` into the weights; returns the gradient of the scores, which takes their place."""
    chunk, walk = scene.chunk, scene.tiles.backward
    tiles, shares, steps = scene.walk(walk.offsets)
    dscores = scores.view(upstream.dtype)
    units = len(added.weight)
    dinverse = sums.inverse.new_zeros((chunk.sequences, tiles, chunk.rows) if units else 0)
    mix_backward[(tiles * LANES, shares, chunk.sequences)](
        scores,
        dscores,
        upstream,
        lse,
        *added.tensors(scene),
        *sums.slots,
        dinverse,
        *added.sizes(scene, steps),
        lse.stride(1),
        **added.constants(scene, walk.offsets),
        CAUSAL=scene.causal,
        num_warps=walk.warps,
        num_stages=walk.stages,
    )
    if units:
        sums.inverse[chunk.first_row : chunk.first_row + chunk.rows] += dinverse.sum((0, 1))
    return dscores
