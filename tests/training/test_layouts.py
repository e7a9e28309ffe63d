"""Every layout trains the model that one process trains: losses of ten steps and the final parameters, in float32.

All factorings of 2 and 4 ranks, plain torch and DeepSpeed's ZeRO 0 to 3; 8 ranks once (slow: about 15 s).
"""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
import torch
from layout_worlds import BATCH, MODELS, RICHEST, Case, factorings, layers_for, train
from torch import Tensor, distributed

from megadape.parallel.mesh import Mesh, Place, make_mesh
from megadape.testing import run_distributed

pytestmark = [pytest.mark.usefixtures("all_cores"), pytest.mark.timeout(900)]


def train_cases(cases: list[Case]) -> list[tuple[list[float], dict[str, Tensor] | None]]:
    place = Place(distributed.get_rank(), distributed.get_world_size())
    device = torch.device("cpu")
    # process groups have threads of their own: one mesh a layout
    meshes = {(tp, pp): make_mesh(place, device, tp=tp, pp=pp) for tp, pp in dict.fromkeys(c[1][:2] for c in cases)}
    return [train(meshes[case[1][:2]], case) for case in cases]


@cache
def alone(model: tuple[str, str], layers: int) -> tuple[list[float], dict[str, Tensor]]:
    mesh, more = Mesh(Place(), torch.device("cpu")), {"micro": BATCH // 2}
    losses, parameters = train(mesh, (model, (1, 1, 1), "torch", more), layers)
    assert parameters is not None
    return losses, parameters


def check(ranks: int, cases: list[Case], timeout: float = 800) -> None:
    results = run_distributed(ranks, train_cases, cases, timeout=timeout)
    for rank, by_case in enumerate(results):
        for case, (losses, parameters) in zip(cases, by_case, strict=True):
            wanted_losses, wanted = alone(case[0], layers_for(case))
            assert losses == pytest.approx(wanted_losses, rel=1e-5), f"{case} on rank {rank}"
            assert (parameters is not None) == (rank == 0)
            if parameters is None:
                continue
            assert parameters.keys() == wanted.keys(), case
            for name, value in wanted.items():
                assert value.shape == parameters[name].shape
                error = (value - parameters[name]).norm() / value.norm().clamp(min=0.05)
                assert error < 1e-5, f"{case}: {name} differs by {error:.1e}"


def in_turn(count: int, others: int) -> list[list[tuple[str, str]]]:
    """So many lists of models: the richest two, and some of the others in turn, so that each of them has its turn."""
    rest = [model for model in MODELS if model not in RICHEST]
    return [RICHEST + [rest[(start * others + more) % len(rest)] for more in range(others)] for start in range(count)]


@pytest.mark.parametrize("ranks", [2, 4])
def test_plain_torch_on_every_factoring(ranks: int) -> None:
    layouts = factorings(ranks)
    assert len(layouts) == {2: 3, 4: 6}[ranks]
    models = [MODELS] * len(layouts) if ranks == 2 else in_turn(len(layouts), 2)
    cases: list[Case] = [
        (model, layout, "torch", {}) for layout, some in zip(layouts, models, strict=True) for model in some
    ]
    cases += [(("kerple_log", "dape"), layout, "torch", {"mixing": "heads"}) for layout in layouts if layout[0] > 1]
    cases += [(("t5", "dape"), layout, "torch", {"sequence_parallel": True}) for layout in layouts if layout[0] > 1]
    cases += [(("rope", "none"), (1, ranks, 1), "torch", {"micro": BATCH})]  # fewer micro-batches than stages
    check(ranks, cases)


@pytest.mark.parametrize("ranks", [2, 4])
def test_every_zero_stage_on_every_factoring(ranks: int) -> None:
    pairs = [(layout, zero) for layout in factorings(ranks) for zero in (range(4) if layout[1] == 1 else [1])]
    models = in_turn(len(pairs), 2) if ranks == 2 else [[RICHEST[index % 2]] for index in range(len(pairs))]
    check(
        ranks,
        [
            (model, layout, "deepspeed", {"zero": zero})
            for (layout, zero), some in zip(pairs, models, strict=True)
            for model in some
        ],
    )


@pytest.mark.slow
def test_eight_ranks() -> None:
    """About 15 s: eight processes."""
    layout = (2, 2, 2)
    more: dict[str, Any] = {"zero": 1, "sequence_parallel": True}
    check(8, [(("kerple_log", "dape"), layout, "torch", {}), (("t5", "dape"), layout, "deepspeed", more)])
