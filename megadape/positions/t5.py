"""T5's bucketed relative bias (Raffel et al., 2019, arXiv 1910.10683)."""

from __future__ import annotations

from bisect import bisect_left
from functools import partial
from typing import Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor

from megadape.parameters import normal
from megadape.positions.base import DistanceBias, EncodingSettings, Geometry


class T5Settings(EncodingSettings):
    """A learned number per head and bucket of distances, one table for all layers."""

    kind: Literal["t5"] = "t5"

    num_buckets: int = Field(default=32, ge=4)
    """Buckets in all; the bidirectional form gives half of them to each side."""

    max_distance: int = Field(default=128, ge=2)
    """From here on all distances share the last bucket."""

    @model_validator(mode="after")
    def _logarithmic_part_exists(self) -> Self:
        if self.max_distance <= self.num_buckets // 2:
            raise ValueError(
                f"max_distance must be above num_buckets / 2, but max_distance = {self.max_distance} and "
                f"num_buckets = {self.num_buckets}"
            )
        return self

    def build(self, geometry: Geometry) -> T5:
        """Build it."""
        return T5(geometry, self.num_buckets, self.max_distance)


class T5(DistanceBias):
    """``table[bucket(i - j), head]`` (paper, section 2.1): a bucket for each small distance, then logarithmic ones."""

    shared = True
    directed = True

    def __init__(self, geometry: Geometry, num_buckets: int, max_distance: int) -> None:
        super().__init__(geometry)
        heads = geometry.heads
        self.num_buckets = num_buckets
        self.side_buckets = num_buckets if geometry.causal else num_buckets // 2
        self.boundaries = bucket_boundaries(self.side_buckets, max_distance)
        init = normal(geometry.hidden_size**-0.5)
        self.table = self.declare("table", (num_buckets, heads.total), init, shard_axis=1, own=heads.own)

    def at(self, offsets: Tensor) -> Tensor:
        """As in ``DistanceBias``."""
        return self.table.to(self.dtype)[self.bucket(offsets)].T

    def bucket(self, offsets: Tensor) -> Tensor:
        """Bucket of each offset i - j: [n] integers -> [n].

        Causal: keys after the query count as distance 0. Bidirectional: they have the second half of the buckets.
        """
        distances = offsets.clamp(min=0) if self.geometry.causal else offsets.abs()
        buckets = torch.bucketize(distances, torch.tensor(self.boundaries, device=offsets.device), right=True)
        return buckets if self.geometry.causal else buckets + self.side_buckets * (offsets < 0)


def bucket_boundaries(buckets: int, max_distance: int) -> list[int]:
    """First distance of each bucket but the first, for one side.

    The paper's bucket of a distance n >= e = buckets // 2 is
    ``e + floor(log(n / e) / log(max_distance / e) * (buckets - e))``, at most ``buckets - 1``. Solved for n in
    integers, so that no rounding of logarithms decides.
    """
    exact = buckets // 2
    rest = buckets - exact

    def reaches(n: int, m: int) -> bool:
        return n**rest * exact**m >= max_distance**m * exact**rest

    distances = range(max_distance + 1)
    logarithmic = [bisect_left(distances, True, key=partial(reaches, m=m)) for m in range(1, rest)]
    return [*range(1, exact + 1), *logarithmic]
