"""The loss in chunks is the loss, and never holds the logits of all tokens."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from megadape.model import GPT, Architecture, build_gpt

BATCH, LENGTH, VOCABULARY = 3, 16, 4000
TOKENS = BATCH * LENGTH


def build(loss_chunk: int, *, tied: bool = False) -> GPT:
    model = {"num_layers": 1, "hidden_size": 16, "num_heads": 2, "vocab_size": VOCABULARY, "tied_embeddings": tied}
    architecture = Architecture.model_validate(
        {"model": model, "positions": {"kind": "kerple_log"}, "mixer": {"kind": "dape"}, "training_length": LENGTH}
    )
    return build_gpt(architecture, seed=0, loss_chunk=loss_chunk).train()


def tokens() -> Tensor:
    return torch.randint(VOCABULARY, (BATCH, LENGTH + 1), generator=torch.Generator().manual_seed(1))


def gradients(model: GPT, precision: torch.dtype | None = None) -> tuple[float, dict[str, Tensor]]:
    """The loss and its gradients by parameter."""
    with torch.autocast("cpu", precision, enabled=precision is not None):
        loss = model.loss(tokens())
    loss.backward()
    found = {name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None}
    return float(loss.detach()), found


@pytest.mark.parametrize("chunk", [1, 7, 24, 1000])
@pytest.mark.parametrize("tied", [False, True])
def test_chunks_change_neither_loss_nor_gradients(chunk: int, tied: bool) -> None:
    wanted, expected = gradients(build(0, tied=tied).double())
    loss, found = gradients(build(chunk, tied=tied).double())
    assert loss == pytest.approx(wanted, rel=1e-13)
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-9, atol=1e-14, msg=name)


@pytest.mark.parametrize("precision", [torch.bfloat16, torch.float16])
def test_in_half_precision_chunks_are_as_exact_as_all_at_once(precision: torch.dtype) -> None:
    _, exact = gradients(build(0))
    scale = joined(exact).norm()
    off = {}
    for chunk in (0, 7):
        _, found = gradients(build(chunk), precision)
        assert all(gradient.dtype == torch.float32 for gradient in found.values())
        off[chunk] = float((joined(found) - joined(exact)).norm() / scale)
    assert off[7] <= 1.5 * off[0] < 0.02


def joined(tensors: dict[str, Tensor]) -> Tensor:
    """All of them in one."""
    return torch.cat([tensors[name].flatten() for name in sorted(tensors)])


class Largest(TorchDispatchMode):
    """Watches the sizes of all tensors that are made."""

    def __init__(self) -> None:
        super().__init__()
        self.numbers = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        made = [leaf.numel() for leaf in tree_leaves(out) if isinstance(leaf, Tensor)]
        self.numbers = max(self.numbers, *made) if made else self.numbers
        return out


def test_the_logits_of_all_tokens_are_never_there() -> None:
    largest = {}
    for chunk in (0, 12):
        model = build(chunk)
        with Largest() as watched:
            model.loss(tokens()).backward()
        largest[chunk] = watched.numbers
    assert largest[0] == TOKENS * VOCABULARY
    assert largest[12] == VOCABULARY * model.settings.hidden_size  # the output layer's gradient


def test_without_gradients_losses_are_those_of_every_token() -> None:
    plain, chunked = build(0).eval(), build(5).eval()
    with torch.no_grad():
        assert torch.equal(plain.loss(tokens()), chunked.loss(tokens()))
