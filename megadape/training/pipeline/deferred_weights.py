"""Backward passes in two parts, as zero-bubble schedules want them (Qi et al., 2024, arXiv 2401.10241): the gradients
that other stages wait for at once, those of weights when there is nothing better to do.

Torch can split a backward pass by itself (``stage_backward_input`` and ``_weight`` of its pipelining), by running parts
of the graph twice. Attention with parameters of its own would be computed twice, collectives and all, and a parameter
that meets the activations in several places (T5's table in two layers of a run) ends in an error. So only what is worth
it is deferred: the weights of linear layers, whose gradients are one product each.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

Product = tuple[Tensor, Tensor, Tensor]
"""(weight, gradient of the output [.., out], input [.., in]) of one linear layer."""


class WeightGradients:
    """Gradients of weights that one pipeline stage still owes."""

    def __init__(self) -> None:
        self._owed: list[Product] = []

    def deferring(self) -> TorchFunctionMode:
        """A context for a forward pass: the backward pass through its linear layers will owe their weights'
        gradients."""
        return _Deferring(self._owed)

    def settle_later(self) -> Callable[[], None]:
        """What is owed now, as a function that adds it to ``.grad``; nothing is owed afterwards."""
        owed, self._owed[:] = list(self._owed), []

        def settle() -> None:
            for weight, grad, x in owed:
                product = grad.flatten(0, -2).mT @ x.flatten(0, -2)
                # through views and conversions to the parameter itself
                torch.autograd.backward([weight], [product.to(weight.dtype)])
            owed.clear()

        return settle


class _Deferring(TorchFunctionMode):
    """Takes over calls of ``functional.linear`` on parameters.

    Args:
        owed: where backward passes put products.
    """

    def __init__(self, owed: list[Product]) -> None:
        super().__init__()
        self._owed = owed

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:  # noqa: ANN401
        kwargs = kwargs or {}
        if func is functional.linear and not kwargs and torch.is_grad_enabled() and _is_parameter(args[1]):
            return _Linear.apply(self._owed, *args)
        return func(*args, **kwargs)


def _is_parameter(weight: Tensor) -> bool:
    """Whether nothing but a view lies between a weight and a parameter that learns."""
    origin = weight if weight._base is None else weight._base
    return isinstance(origin, nn.Parameter) and origin.requires_grad


class _Linear(torch.autograd.Function):
    """``functional.linear`` that leaves the gradient of its weight for later."""

    @staticmethod
    def forward(ctx: Any, owed: list[Product], x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:  # noqa: ANN401
        out = functional.linear(x, weight, bias)
        ctx.owed, ctx.weight, ctx.dtype, ctx.bias_dtype = owed, weight, x.dtype, bias is not None and bias.dtype
        ctx.save_for_backward(x.to(out.dtype))  # under autocast, the copy that entered the product
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ANN401
        (x,) = ctx.saved_tensors
        ctx.owed.append((ctx.weight, grad, x))
        _, wants_x, _, *wants_bias = ctx.needs_input_grad
        of_x = (grad @ ctx.weight.detach().to(grad.dtype)).to(ctx.dtype) if wants_x else None
        if not wants_bias:
            return None, of_x, None
        return None, of_x, None, grad.flatten(0, -2).sum(0).to(ctx.bias_dtype) if wants_bias[0] else None
