"""Over how many ranks, and in which way, a run is spread."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from megadape.settings import Settings


class ParallelSettings(Settings):
    """Degrees of parallelism; data parallelism takes the ranks that are left."""

    tp: int = Field(default=1, ge=1)
    """Tensor-parallel ranks; must divide the heads, the MLP and the vocabulary."""

    pp: int = Field(default=1, ge=1)
    """Pipeline stages; at most one a layer."""

    zero: Literal[0, 1, 2, 3] = 0
    """ZeRO stage (engine deepspeed): 1 shards the optimizer's state over the data-parallel ranks, 2 the gradients too,
    3 the parameters too."""

    sequence_parallel: bool = False
    """With tp > 1: norms, dropout and residuals are split along the sequence (Korthikanti et al., 2022)."""

    mixing: Literal["rows", "heads"] = "rows"
    """With tp > 1, how DAPE sees all heads: rows exchanges queries, keys and values and needs memory linear in the
    length; heads sums the hidden layer of every pair, literally, and is a check on the other."""

    schedule: Literal["1f1b", "interleaved", "zero_bubble"] = "1f1b"
    """With pp > 1, the order in which stages work on micro-batches."""

    virtual_stages: int = Field(default=2, ge=2)
    """Runs of layers a rank has in the schedules interleaved and zero_bubble."""

    partition: Literal["parameters", "even"] = "parameters"
    """How layers are dealt to stages: by parameters, embedding and head included, or evenly."""

    offload_optimizer: bool = False
    """With zero >= 1: the optimizer's state and its update on the CPU."""

    timeout_minutes: float = Field(default=10.0, gt=0)
    """How long a collective waits for the other ranks before the run ends with an error."""

    drift_every: int = Field(default=0, ge=0)
    """Steps between comparisons of what ranks hold alike, by digest; always compared before saving; 0: only then."""

    @model_validator(mode="after")
    def _fits_together(self) -> ParallelSettings:
        if self.pp > 1 and self.zero >= 2:
            raise ValueError(
                f"a pipeline (parallel.pp: {self.pp}) works with parallel.zero: 1 at most, not {self.zero}: DeepSpeed "
                "would reduce gradients while the stages still add to them; use zero: 1, or pp: 1"
            )
        if self.schedule != "1f1b" and self.pp == 1:
            raise ValueError(f"parallel.schedule: {self.schedule} orders pipeline stages, but parallel.pp is 1")
        if self.sequence_parallel and self.tp == 1:
            raise ValueError("parallel.sequence_parallel splits over tensor-parallel ranks, but parallel.tp is 1")
        if self.offload_optimizer and self.zero == 0:
            raise ValueError("parallel.offload_optimizer needs parallel.zero of 1 or more (engine deepspeed)")
        return self
