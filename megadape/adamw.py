"""torch's fused AdamW without what torch wraps around it for its compiler.

The wrappers keep ``torch.compile`` from tracing an optimizer, and load the compiler to do so: two seconds of
processor time at every start. Nothing here compiles an optimizer.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from typing import Any

import torch


class AdamW(torch.optim.AdamW):
    """The same updates, bit for bit."""

    add_param_group = inspect.unwrap(torch.optim.AdamW.add_param_group)
    load_state_dict = inspect.unwrap(torch.optim.AdamW.load_state_dict)
    state_dict = inspect.unwrap(torch.optim.AdamW.state_dict)
    zero_grad = inspect.unwrap(torch.optim.AdamW.zero_grad)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """One update."""
        loss: float | None = _STEP(self, closure)
        return loss


_STEP = inspect.unwrap(torch.optim.AdamW.step)


def build_adamw(
    groups: Iterable[dict[str, Any]], learning_rate: float, betas: tuple[float, float], eps: float
) -> torch.optim.Optimizer:
    """AdamW in one kernel for all parameters; weight decay is each group's."""
    return AdamW(groups, lr=learning_rate, betas=betas, eps=eps, fused=True)
