"""One self-attention call of a layer, before it is known which rank computes what of it."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from megadape.attention.dispatch import AUTO, dape_attention
from megadape.attention.documents import Documents
from megadape.attention.mixer import DapeMixer
from megadape.positions import ContextualBias, PositionEncoding, ScoreBias

Term = ScoreBias | ContextualBias


@dataclass(frozen=True)
class Attention:
    """One self-attention call of a layer: q, k, v [b, own heads, own rows, d]."""

    q: Tensor
    k: Tensor
    v: Tensor
    encoding: PositionEncoding
    mixer: DapeMixer | None
    positions: Tensor
    """[s], of the whole sequence; with documents [b, s], and not read here."""
    counted: bool = False
    """Whether they are 0, 1, 2, ..."""
    backend: str = AUTO
    dropout: float = 0.0
    documents: Documents | None = None
    """Of the whole sequence, to be kept apart."""

    def run(
        self, q: Tensor, k: Tensor, v: Tensor, rows: slice, term: Term | None, mixer: DapeMixer | None, backend: str
    ) -> Tensor:
        """Attend with some rows of the sequence to all keys that they may see."""
        given, causal = self.documents is None and not self.counted, self.encoding.geometry.causal
        counted = rows.start if self.documents is None else None
        keys = rows.stop if causal else k.shape[2]
        return dape_attention(
            q,
            k[:, :, :keys],
            v[:, :, :keys],
            bias=term,
            mixer=mixer,
            causal=causal,
            backend=backend,
            dropout=self.dropout,
            query_positions=self.positions[rows] if given else counted,
            key_positions=self.positions[:keys] if given else None,
            documents=self.documents.first(keys) if self.documents is not None else None,
        )


def score_term(encoding: PositionEncoding | None) -> Term | None:
    """The encoding, if it is one that adds to attention scores."""
    return encoding if isinstance(encoding, ScoreBias | ContextualBias) else None
