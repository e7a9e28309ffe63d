"""Between the gradient's norm and the update of a DeepSpeed optimizer (0.19.8): a last word on whether to update.

A ZeRO optimizer takes the norm, clips and updates in one call. But when the norm is not finite it drops the gradients
and leaves everything else as it was, as after an overflow in fp16: a refused update is given such a norm. Stages 1 and
2 ask themselves for ``scaled_global_norm``, stage 3 for ``_get_norm_groups``, whose values it combines.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

Admit = Callable[[float, float], bool]
"""(mean loss, gradient norm before clipping) -> whether to update; the same on every rank, and asked once an update."""


def admit_all(loss: float, grad_norm: float) -> bool:
    """Nothing is refused."""
    return True


class ZeroGate:
    """Stands in a ZeRO optimizer of stage 1 to 3, for the length of the run.

    Args:
        optimizer: DeepSpeed's.
        zero: its stage.
    """

    def __init__(self, optimizer: Any, zero: int) -> None:  # noqa: ANN401
        self.norm = 0.0
        """Of the last gradient, before clipping, whatever became of the update."""
        self.refused = False
        """Whether the last update was."""
        self._admit: Callable[[float], bool] = _always
        self._optimizer = optimizer
        self._combine: Callable[[Any], Any] = float
        name = "_get_norm_groups" if zero == 3 else "scaled_global_norm"
        if zero == 3:
            from deepspeed.runtime.utils import combine_grad_norm_groups

            self._combine = combine_grad_norm_groups
        self._take = getattr(optimizer, name)
        setattr(optimizer, name, self._norms if zero == 3 else self._norm)

    def ask(self, admit: Callable[[float], bool]) -> None:
        """Whom to ask about the norm of the next update; not asked where it is not finite: that is refused anyway."""
        self._admit, self.refused = admit, False

    def _norm(self, *arguments: Any, **options: Any) -> Any:  # noqa: ANN401
        norm = self._take(*arguments, **options)
        return norm if self._judge(norm) else _refusal(norm)

    def _norms(self, *arguments: Any, **options: Any) -> Any:  # noqa: ANN401
        norms = list(self._take(*arguments, **options))
        return norms if self._judge(self._combine(norms)) else [_refusal(norm) for norm in norms]

    def _judge(self, scaled: Any) -> bool:  # noqa: ANN401
        norm = float(scaled) / float(self._optimizer.loss_scale)
        self.norm = norm if norm >= 0 else math.inf  # DeepSpeed's word for "not finite" may be -1
        if math.isfinite(self.norm):
            self.refused = not self._admit(self.norm)
        return not self.refused


def _always(grad_norm: float) -> bool:
    return True


def _refusal(norm: Any) -> Any:  # noqa: ANN401
    return torch.full_like(norm, math.inf) if isinstance(norm, Tensor) else math.inf
