"""Gradients of weights computed apart are those of the ordinary backward pass."""

from __future__ import annotations

import pytest
import torch
from pipelines import LENGTH, VOCABULARY, Case
from torch import nn
from torch.nn import functional

from megadape.model import build_gpt
from megadape.training.pipeline.deferred_weights import WeightGradients


@pytest.mark.parametrize("products", [None, torch.bfloat16])
@pytest.mark.parametrize("positions", ["t5", "fire"])
def test_deferred_gradients_equal_ordinary_ones(positions: str, products: torch.dtype | None) -> None:
    model = build_gpt(Case(positions, "dape", tied=True).architecture, seed=3)
    tokens = torch.randint(VOCABULARY, (2, LENGTH + 1), generator=torch.Generator().manual_seed(0))
    with torch.autocast("cpu", products, enabled=products is not None):
        model.loss(tokens).backward()
    wanted = {name: parameter.grad for name, parameter in model.named_parameters()}
    model.zero_grad()
    linear = model.get_parameter("blocks.2.mlp.input.weight")
    weights = WeightGradients()
    with weights.deferring(), torch.autocast("cpu", products, enabled=products is not None):
        loss = model.loss(tokens)
    loss.backward()
    assert linear.grad is None
    settle = weights.settle_later()
    weights.settle_later()()  # nothing is owed any more
    assert linear.grad is None
    settle()
    for name, parameter in model.named_parameters():
        grad = wanted[name]
        if grad is None:
            assert parameter.grad is None
            continue
        assert parameter.grad is not None, name
        assert parameter.grad.dtype == torch.float32
        torch.testing.assert_close(parameter.grad, grad, rtol=1e-6, atol=1e-8 if products is None else 1e-4)


def test_only_parameters_are_deferred() -> None:
    weight, x = nn.Parameter(torch.randn(3, 2)), torch.randn(4, 2, requires_grad=True)
    weights = WeightGradients()
    with weights.deferring():
        out = functional.linear(x, weight * 2)
        with torch.no_grad():
            assert not functional.linear(x, weight).requires_grad
    out.sum().backward()
    assert weight.grad is not None
    assert x.grad is not None
