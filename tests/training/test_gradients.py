"""Gradients over a mesh: averaged, summed over the stages that share, counted once in the norm."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from engine_worlds import LENGTH, VOCABULARY

from megadape.attention.mixer import DapeSettings
from megadape.model import GPT, Architecture, ModelSettings, build_gpt
from megadape.model.part import Part
from megadape.parallel.mesh import Place, make_mesh
from megadape.parallel.sharding import Sharding
from megadape.parameters import parameter_table, seed_of
from megadape.positions.t5 import T5Settings
from megadape.testing import run_distributed
from megadape.training.engines.gradients import Gradients, buckets

PARTS = (Part((0,), head=False), Part((1,), embedding=False))


def build(tp: Any = None, part: Part | None = None) -> GPT:
    architecture = Architecture(
        model=ModelSettings(num_layers=2, hidden_size=32, num_heads=4, vocab_size=VOCABULARY, tied_embeddings=True),
        positions=T5Settings(),
        mixer=DapeSettings(hidden=8),
        training_length=LENGTH,
    )
    return build_gpt(architecture, seed=7, part=part, **({"sharding": Sharding(tp)} if tp else {}))


def is_shared(name: str) -> bool:
    return name == "embedding.weight" or name.startswith("shared_positions.")


def give_gradients(model: GPT, salt: str, stages: int = 1) -> None:
    """Gradients drawn from the parameter's name, the same for every layout; shared ones a share of each stage."""
    table = parameter_table(model)
    for name, parameter in model.named_parameters():
        if name.endswith("mlp.output.bias"):
            continue  # None: a loss may not reach a parameter
        generator = torch.Generator().manual_seed(seed_of(3, f"{name} {salt}"))
        full = torch.randn(table[name].shape, generator=generator)
        parameter.grad = table[name].take_own(full).clone() / (stages if is_shared(name) else 1)


def finish(tp: int, pp: int, bucket: int) -> tuple[float, float, dict[str, list[float]]]:
    """The norm, the norm after clipping to half of it, and the clipped gradients that stages share, on this rank."""
    mesh = make_mesh(Place.from_environment(), torch.device("cpu"), tp, pp)
    model = build(mesh.tp, PARTS[mesh.pp.rank] if pp > 1 else None)
    gradients = Gradients(model, mesh, bucket)
    give_gradients(model, f"share {mesh.data_rank}", pp)
    gradients.complete(scale=4.0)
    norm = gradients.norm()
    gradients.clip(norm, float(norm) / 2)
    shared = {
        name: parameter.grad.flatten().tolist()
        for name, parameter in model.named_parameters()
        if is_shared(name) and parameter.grad is not None
    }
    return float(norm), float(gradients.norm()), shared


def expected_norm(shares: int) -> float:
    total: dict[str, torch.Tensor] = {}
    for share in range(shares):
        model = build()
        give_gradients(model, f"share {share}")
        for name, parameter in model.named_parameters():
            if parameter.grad is not None:
                total[name] = total.get(name, torch.zeros(())) + parameter.grad / (4 * shares)
    return float(torch.cat([tensor.flatten() for tensor in total.values()]).double().norm())


@pytest.mark.parametrize(("tp", "pp", "ranks"), [(1, 1, 2), (2, 1, 2), (1, 2, 2), (2, 2, 4), (1, 2, 4)])
def test_the_norm_counts_every_number_once(tp: int, pp: int, ranks: int) -> None:
    # buckets of 3000 bytes: several tensors in some, one larger tensor alone in others
    results = run_distributed(ranks, finish, tp, pp, 3000)
    for rank, (norm, clipped, shared) in enumerate(results):
        assert norm == pytest.approx(expected_norm(ranks // (tp * pp)), rel=1e-6)
        assert norm == results[0][0]
        assert clipped == pytest.approx(norm / 2, rel=1e-5)
        assert shared == results[rank % tp][2]
        assert len(shared) == 2


def test_buckets_hold_at_most_their_size_or_one_tensor() -> None:
    tensors = [torch.zeros(count) for count in (1, 2, 3, 10, 1, 1)]
    assert [[tensor.numel() for tensor in bucket] for bucket in buckets(tensors, 16)] == [[1, 2], [3], [10], [1, 1]]
    assert list(buckets([], 16)) == []
