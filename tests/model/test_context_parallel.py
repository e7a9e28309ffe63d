"""Sequences shared among ranks that hold the whole model: the losses of one rank."""

from __future__ import annotations

from typing import Any

import torch

from megadape.attention import Documents
from megadape.model import Architecture, build_gpt
from megadape.parallel.deal import RowDeal
from megadape.parallel.mesh import Place, make_mesh
from megadape.parallel.sharding import Sharding
from megadape.testing import run_distributed

CASES: tuple[tuple[str, dict[str, Any]], ...] = (
    *((kind, {"kind": "dape", "hidden": 6}) for kind in ("kerple_log", "fire", "t5", "transformer_xl", "none")),
    *((kind, {"kind": "none"}) for kind in ("rope", "cope", "learned", "randomized_rope", "alibi", "yarn")),
    ("alibi", {"kind": "dape_v2", "hidden": 5}),
)


def model_of(kind: str, mixer: dict[str, Any], sharding: Sharding) -> Any:
    shape = {"num_layers": 2, "hidden_size": 64, "num_heads": 2, "vocab_size": 31}
    each = Architecture.model_validate(
        {"model": shape, "positions": {"kind": kind}, "mixer": mixer, "training_length": 8}
    )
    return build_gpt(each, seed=5, sharding=sharding).double().eval()


@torch.no_grad()
def largest_error(ranks: int) -> float:
    mesh = make_mesh(Place(torch.distributed.get_rank(), ranks), torch.device("cpu"))
    worst = 0.0
    for kind, mixer in CASES:
        shared = model_of(kind, mixer, Sharding(context=mesh.world))
        whole = model_of(kind, mixer, Sharding())
        for length, count in ((40, 40), (37, 9), (64, 1), (3, 3), (1, 1)):
            tokens = torch.randint(31, (2, length + 1), generator=torch.Generator().manual_seed(length))
            wanted = whole.token_losses(whole.hidden(tokens[:, :-1]), tokens[:, 1:])[:, -count:]
            found = shared.last_losses(tokens, count)
            assert found.shape == wanted.shape
            worst = max(worst, ((found - wanted).abs().max() / wanted.abs().max()).item())
    return worst


def test_losses_equal_those_of_one_rank_at_any_length() -> None:
    for ranks in (2, 3):
        assert max(run_distributed(ranks, largest_error, ranks)) < 1e-12


@torch.no_grad()
def largest_error_with_documents(ranks: int) -> float:
    mesh = make_mesh(Place(torch.distributed.get_rank(), ranks), torch.device("cpu"))
    documents, worst = Documents(((3, 20, 1, 13), (37,))), 0.0
    tokens = torch.randint(31, (2, 37), generator=torch.Generator().manual_seed(0))
    own = RowDeal(37, ranks).rows(mesh.world.rank)
    for kind, mixer in CASES:
        wanted = model_of(kind, mixer, Sharding()).hidden(tokens, documents)
        found = model_of(kind, mixer, Sharding(context=mesh.world)).hidden(tokens, documents)
        worst = max(worst, ((found - wanted[:, own]).abs().max() / wanted.abs().max()).item())
    return worst


def test_documents_kept_apart_are_those_of_one_rank() -> None:
    assert max(run_distributed(2, largest_error_with_documents, 2)) < 1e-12
