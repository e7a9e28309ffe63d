"""Nothing that tiles touch is as large as queries x keys."""

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from megadape.attention import Backend, DapeMixer, DapeV2Mixer, make_request
from megadape.attention.reference import Reference
from megadape.attention.tiled import Tiled
from megadape.positions import build

LENGTH, HEADS = 260, 2
SMALL = Tiled(block_scores=HEADS * 8 * LENGTH, tile_numbers=8 * 1024, rows=(1, 8))


class LargestStorage(TorchDispatchMode):
    """Numbers in the largest storage that any operation returned."""

    numbers = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor):
                self.numbers = max(self.numbers, leaf.untyped_storage().nbytes() // leaf.element_size())
        return result


def largest(backend: Backend, bias: str | None, mixer: DapeMixer | None, **options: Any) -> int:
    settings = {"width": 8} if bias == "fire" else {}
    causal = options.get("causal", True)
    encoding = None if bias is None else build(bias, HEADS, head_dim=4, causal=causal, **settings)
    q, k, v = (torch.randn(1, HEADS, LENGTH, 4, requires_grad=True) for _ in range(3))
    request = make_request(q, k, v, bias=encoding, mixer=mixer, **options)
    with LargestStorage() as seen:
        backend(request).sum().backward()
    return seen.numbers


SPREAD = torch.arange(LENGTH) * 3


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("bias", [None, "alibi", "t5", "kerple_log", "fire"])
def test_forward_and_backward(bias: str | None, causal: bool) -> None:
    with_bias = bias is not None
    for mixer in (None, DapeMixer(HEADS, 6, with_bias=with_bias), DapeV2Mixer(HEADS, 6, with_bias=with_bias)):
        assert largest(SMALL, bias, mixer, causal=causal) < LENGTH * LENGTH // 2
        assert largest(SMALL, bias, mixer, causal=causal, key_positions=SPREAD) < LENGTH * LENGTH // 2
    assert largest(Reference(), bias, None, causal=causal) >= HEADS * LENGTH * LENGTH
