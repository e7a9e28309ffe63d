"""What ranks hold alike is compared bit for bit, and a difference stops all of them, with names."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from megadape.errors import TrainingError
from megadape.model import GPT, Architecture, build_gpt
from megadape.model.part import Part
from megadape.model.stages import shared_between_stages
from megadape.parallel.drift import NAMED_AT_MOST, check_drift, digest
from megadape.parallel.mesh import Mesh, Place, make_mesh
from megadape.parallel.sharding import Sharding
from megadape.parallel.traffic import Traffic
from megadape.testing import run_distributed

ARCHITECTURE = Architecture.model_validate(
    {
        "model": {"num_layers": 2, "hidden_size": 16, "num_heads": 2, "vocab_size": 12, "tied_embeddings": True},
        "positions": {"kind": "t5"},
        "mixer": {"kind": "dape", "hidden": 4},
        "training_length": 16,
    }
)


def build(mesh: Mesh) -> GPT:
    sharding = Sharding(mesh.tp)
    if mesh.pp.size == 1:
        return build_gpt(ARCHITECTURE, seed=1, sharding=sharding)
    stage = mesh.pp.rank
    return build_gpt(
        ARCHITECTURE, seed=1, sharding=sharding, part=Part((stage,), embedding=stage == 0, head=stage == 1)
    )


def check(model: GPT, mesh: Mesh, partitioned: bool = False) -> str:
    """What this rank is told; empty if all is well."""
    try:
        check_drift(model, mesh, 70, shared=shared_between_stages(model), partitioned=partitioned)
    except TrainingError as error:
        return str(error)
    return ""


def one_bit(x: torch.Tensor) -> None:
    bits = x.view(-1)[:1].view(torch.int32)
    bits ^= 1


def not_a_number(x: torch.Tensor) -> None:
    x.view(-1)[:1] = torch.nan


def minus_zero(x: torch.Tensor) -> None:
    x.view(-1)[:1] = -0.0


def disturbed(mesh: Mesh, ranks: tuple[int, ...], name: str, change: Callable[[torch.Tensor], None] = one_bit) -> str:
    """What this rank is told after some ranks changed a parameter, which is mended afterwards."""
    model = build(mesh)
    with torch.no_grad():
        if mesh.rank in ranks:
            change(dict(model.named_parameters())[name])
    return check(model, mesh)


def over_data_and_tensor_ranks() -> dict[str, str]:
    """Ranks 0 and 1 share one model, 2 and 3 the other."""
    mesh = make_mesh(Place.from_environment(), torch.device("cpu"), tp=2)
    sharded, replicated = "blocks.1.attention.qkv_weight", "norm.weight"
    model = build(mesh)
    told = {"alike": check(model, mesh)}
    told["sharded"] = disturbed(mesh, (3,), sharded)
    told["replicated"] = disturbed(mesh, (2,), replicated)
    # alike over dp, not over tp
    told["over tp"] = disturbed(mesh, (1, 3), replicated)
    told["nan"] = disturbed(mesh, (0,), sharded, not_a_number)
    with torch.no_grad():
        for parameter in model.parameters():
            not_a_number(parameter)
    told["alike with nan"] = check(model, mesh)
    told["minus zero"] = disturbed(mesh, (0,), "blocks.0.attention_norm.bias", minus_zero)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(mesh.rank)
    told["all"] = check(model, mesh)
    return told


def over_stages() -> dict[str, str]:
    """Two stages over two data-parallel shares: ranks 0, 1 and 2, 3."""
    mesh = make_mesh(Place.from_environment(), torch.device("cpu"), pp=2)
    model = build(mesh)
    told = {"alike": check(model, mesh)}
    table = next(name for name, where in shared_between_stages(model).items() if where == "all")
    told["shared by all"] = disturbed(mesh, (2, 3), table)
    told["shared by the ends"] = disturbed(mesh, (0, 1), "embedding.weight")
    one_stage = "blocks.0.attention_norm.weight"
    told["of one stage"] = disturbed(mesh, (1,), one_stage) if mesh.pp.rank == 0 else disturbed(mesh, (), one_stage)
    with Traffic() as traffic:
        check(model, mesh)
    told["collectives"] = " ".join(f"{row.collective} {row.calls}" for row in traffic.rows())
    return told


def in_pieces() -> dict[str, str]:
    """Parameters as ZeRO 3 leaves them: empty, with another piece on each data-parallel rank, the last one padded."""
    mesh = make_mesh(Place.from_environment(), torch.device("cpu"), tp=2)
    model = build(mesh)
    for parameter in model.parameters():
        values = parameter.detach().flatten()
        size = values.numel() // 2 + 1
        own = values[mesh.dp.rank * size : (mesh.dp.rank + 1) * size]
        unwritten = torch.full((size - own.numel(),), float(mesh.rank))
        parameter.ds_numel = values.numel()  # type: ignore[attr-defined]
        parameter.ds_tensor = torch.cat([own, unwritten])  # type: ignore[attr-defined]
        parameter.data = torch.empty(0)
    told = {"alike": check(model, mesh, partitioned=True)}
    norm = dict(model.named_parameters())["norm.weight"]
    if mesh.rank == 3:
        one_bit(norm.ds_tensor)  # type: ignore[attr-defined]
    told["one piece"] = check(model, mesh, partitioned=True)
    return told


def everything() -> tuple[dict[str, str], ...]:
    return over_data_and_tensor_ranks(), over_stages(), in_pieces()


def test_any_difference_stops_all_ranks_with_its_name() -> None:
    results = run_distributed(4, everything)
    assert results == [results[0]] * 4, "all ranks are told the same"
    flat, stages, pieces = results[0]
    assert flat["alike"] == flat["alike with nan"] == ""
    assert "after step 70" in flat["sharded"]
    # two hold the sharded one of each half, and the lower rank's counts
    assert "blocks.1.attention.qkv_weight on rank 3 (unlike rank 1)" in flat["sharded"]
    assert "norm.weight on rank 2 (unlike rank 0); norm.weight on rank 3 (unlike rank 2)" in flat["replicated"]
    assert "norm.weight on rank 1 (unlike rank 0); norm.weight on rank 3 (unlike rank 2)" in flat["over tp"]
    assert "blocks.1.attention.qkv_weight on rank 2 (unlike rank 0)" in flat["nan"]
    assert "blocks.0.attention_norm.bias on rank 2 (unlike rank 0)" in flat["minus zero"]
    assert flat["all"].count("unlike") == NAMED_AT_MOST
    assert " more;" in flat["all"]
    assert stages["alike"] == ""
    assert "shared_positions" in stages["shared by all"]
    assert "on rank 2 (unlike rank 0)" in stages["shared by all"]
    assert "embedding.weight on rank 2 (unlike rank 0)" in stages["shared by the ends"]
    assert "blocks.0.attention_norm.weight on rank 1 (unlike rank 0)" in stages["of one stage"]
    assert stages["collectives"] == "all_gather 3 all_reduce 1"
    assert pieces["alike"] == ""
    assert "norm.weight on rank 3 (unlike rank 2)" in pieces["one piece"]


def majority() -> str:
    mesh = make_mesh(Place.from_environment(), torch.device("cpu"))
    return disturbed(mesh, (0,), "norm.bias")


def test_the_rank_that_is_alone_is_the_odd_one() -> None:
    assert all("norm.bias on rank 0 (unlike ranks 1, 2)" in told for told in run_distributed(3, majority))


def test_one_rank_is_never_adrift() -> None:
    mesh = Mesh(Place(), torch.device("cpu"))
    check_drift(build(mesh), mesh, 1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_a_digest_sees_every_bit_and_the_shape(dtype: torch.dtype) -> None:
    x = torch.randn(6, 4, generator=torch.Generator().manual_seed(0)).to(dtype)
    seen = {digest(x), digest(x.flatten()), digest(x.t()), digest(x.t().contiguous().view(6, 4))}
    assert len(seen) == 4
    assert digest(x) == digest(x.t().contiguous().t())
    y = x.clone()
    y.view(torch.uint8).view(-1)[-1] ^= 1
    assert digest(y) != digest(x)
    assert digest(torch.zeros((), dtype=dtype)) != digest(-torch.zeros((), dtype=dtype))
