"""Linear, layer norm and embedding whose parameters are declared (see ``megadape.parameters``)."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional

from megadape.parameters import DeclaredModule, Init, constant


class Linear(DeclaredModule):
    """``x @ weight.T + bias``; weight [out, in]."""

    def __init__(self, inputs: int, outputs: int, init: Init, *, bias: bool = True) -> None:
        super().__init__()
        self.weight = self.declare("weight", (outputs, inputs), init)
        self.bias = self.declare("bias", (outputs,), constant(0.0), decay=False) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        """[..., in] -> [..., out]."""
        return functional.linear(x, self.weight, self.bias)


class LayerNorm(DeclaredModule):
    """Layer normalisation over the last axis, with gain and bias."""

    def __init__(self, size: int, eps: float) -> None:
        super().__init__()
        self.eps = eps
        self.weight = self.declare("weight", (size,), constant(1.0), decay=False)
        self.bias = self.declare("bias", (size,), constant(0.0), decay=False)

    def forward(self, x: Tensor) -> Tensor:
        """[..., size] -> [..., size]."""
        return functional.layer_norm(x, self.weight.shape, self.weight, self.bias, self.eps)


class Embedding(DeclaredModule):
    """A table of vectors, one a token id."""

    def __init__(self, entries: int, size: int, init: Init) -> None:
        super().__init__()
        self.weight = self.declare("weight", (entries, size), init)

    def forward(self, ids: Tensor) -> Tensor:
        """Integer [...] -> [..., size]."""
        return functional.embedding(ids, self.weight)
