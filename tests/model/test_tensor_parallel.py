"""A model over tensor-parallel ranks is the model of one rank: loss, and every gradient, in float64."""

from __future__ import annotations

from itertools import product
from typing import Any

import pytest
import torch

from megadape.model import GPT, Architecture, build_gpt
from megadape.parallel.group import Group
from megadape.parallel.mesh import Place, make_mesh
from megadape.parallel.sharding import WHOLE, Sharding
from megadape.parameters import parameter_table
from megadape.positions.registry import ENCODINGS
from megadape.testing import run_distributed

HEADS, LENGTH = 4, 16
VARIANTS: tuple[dict[str, Any], ...] = (
    {"kind": "none"},
    *({"kind": "dape", "hidden": 6, "variant": v} for v in ("concat_residual", "concat", "add_residual", "bias_only")),
    {"kind": "dape_v2", "hidden": 5},
)
SEPARATE = {"documents": "separate", "end_of_document": 18}
"""Two documents in the first sequence of ``tokens()``, three in the second."""
ON_SCORES = ("t5", "alibi", "kerple_log", "kerple_power", "fire", "cope", "transformer_xl")


def architecture(kind: str, mixer: dict[str, Any], **model: Any) -> Architecture:
    return Architecture.model_validate(
        {
            "model": {"num_layers": 2, "hidden_size": 32, "num_heads": HEADS, "vocab_size": 24, **model},
            "positions": {"kind": kind},
            "mixer": mixer,
            "training_length": LENGTH,
        }
    )


def cases() -> list[tuple[Architecture, str, bool]]:
    """Every encoding with and without DAPE, every variant over one bias; both forms, split or not; and documents that
    are kept apart."""
    plain = [architecture(kind, {"kind": "none"}) for kind in ENCODINGS]
    mixed = [architecture(kind, VARIANTS[1]) for kind in ENCODINGS]
    variants = [architecture("kerple_log", mixer, tied_embeddings=True) for mixer in VARIANTS[2:]]
    apart = [architecture(kind, VARIANTS[1], **SEPARATE) for kind in ("fire", "rope", "learned", "cope")]
    apart.append(architecture("kerple_log", VARIANTS[-1], **SEPARATE))
    found = [(each, "rows", split) for each, split in product(plain, (False, True))]
    found.append((architecture("t5", VARIANTS[0], **SEPARATE), "rows", True))
    found.extend((each, form, form == "rows") for each, form in product(apart, ("rows", "heads")))
    return found + [
        (each, form, split) for each, form, split in product(mixed + variants, ("rows", "heads"), (False, True))
    ]


def name_of(case: tuple[Architecture, str, bool]) -> str:
    each, form, split = case
    mixer = getattr(each.mixer, "variant", each.mixer.kind)
    return f"{each.positions.kind}-{mixer}-{form}-{'split' if split else 'replicated'}-{each.model.documents}"


def tokens(length: int = LENGTH) -> torch.Tensor:
    return torch.randint(24, (2, length + 1), generator=torch.Generator().manual_seed(3))


def prepare(model: GPT) -> GPT:
    """In float64, with no parameter at a value where its gradient vanishes (CoPE's table starts at zero)."""
    model.double()
    for name, parameter in model.named_parameters():
        if name.endswith("embedding") and not name.startswith("embedding"):
            generator = torch.Generator().manual_seed(len(name))
            parameter.data.copy_(torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
    return model.eval()


def loss_and_gradients(case: tuple[Architecture, str, bool], tp: Group) -> tuple[float, dict[str, torch.Tensor]]:
    """Loss and this rank's gradients."""
    each, form, split = case
    sharding = Sharding(tp, split, "heads" if form == "heads" else "rows") if tp.size > 1 else WHOLE
    model = prepare(build_gpt(each, seed=5, sharding=sharding))
    loss = model.loss(tokens())
    loss.backward()
    grads = {
        name: torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        for name, parameter in model.named_parameters()
    }
    return loss.item(), grads


def largest_errors(ranks: int) -> dict[str, float]:
    """On each rank: case -> largest relative error of the loss and of any gradient against one rank's."""
    place = Place(torch.distributed.get_rank(), ranks)
    mesh = make_mesh(place, torch.device("cpu"), tp=ranks)
    shares: list[Any] = [None] * ranks  # of what one rank computes, each rank's
    own_share = {
        index: loss_and_gradients(case, Group()) for index, case in enumerate(cases()) if index % ranks == place.rank
    }
    torch.distributed.all_gather_object(shares, own_share)
    errors = {}
    for index, case in enumerate(cases()):
        loss, grads = loss_and_gradients(case, mesh.tp)
        wanted_loss, wanted = shares[index % ranks][index]
        with torch.device("meta"):
            table = parameter_table(GPT(case[0], sharding=Sharding(mesh.tp)))
        assert table.keys() == wanted.keys()
        error = abs(loss - wanted_loss) / wanted_loss
        for name, grad in grads.items():
            own = table[name].take_own(wanted[name])
            assert own.shape == grad.shape, name
            # a shift that softmax does not see (b2, FIRE's last bias) has no gradient but rounding
            scale = own.norm().item() if own.norm() > 1e-12 else 1.0
            error = max(error, (grad - own).norm().item() / scale)
        errors[name_of(case)] = error
    return errors


@pytest.fixture(scope="module", params=[2, 4])
def errors(request: pytest.FixtureRequest) -> list[dict[str, float]]:
    return run_distributed(request.param, largest_errors, request.param, timeout=280)


def test_loss_and_gradients_equal_those_of_one_rank(errors: list[dict[str, float]]) -> None:
    for rank, by_case in enumerate(errors):
        assert len(by_case) == len(cases())
        wrong = {case: error for case, error in by_case.items() if not error < 1e-9}
        assert not wrong, f"rank {rank}: {wrong}"
