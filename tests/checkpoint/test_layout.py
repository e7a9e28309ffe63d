"""Full tensors are put together on the first rank from any layout, and come apart into any."""

from __future__ import annotations

from itertools import product

import pytest
import torch

from megadape.checkpoint.layout import gather_full, take_own
from megadape.errors import CheckpointError
from megadape.model import Architecture, build_gpt
from megadape.model.part import Part
from megadape.parallel.group import Group
from megadape.parallel.mesh import Mesh, Place, make_mesh
from megadape.parallel.sharding import Sharding
from megadape.parallel.traffic import Traffic
from megadape.parameters import DeclaredModule, ParameterSpec, constant, parameter_table
from megadape.testing import run_distributed

SHAPE = (8, 16, 24)
SHARDS = [(None, 1), *product((0, 1, 2), (1, 2))]
"""(axis, blocks)."""


def full_tensors(stages: int = 2) -> dict[str, torch.Tensor]:
    """Whatever the stages of a run may hold: every kind of shard, several dtypes, a scalar."""
    generator = torch.Generator().manual_seed(0)
    full = {}
    for stage in range(stages):
        for axis, blocks in SHARDS:
            full[f"stage{stage}.axis{axis}.blocks{blocks}"] = torch.randn(SHAPE, generator=generator)
        full[f"stage{stage}.scalar"] = torch.tensor(float(stage + 1))
        full[f"stage{stage}.half"] = torch.randn(8, generator=generator).bfloat16()
        full[f"stage{stage}.count"] = torch.arange(4) + stage
    full["shared.table"] = torch.randn(4, 6, generator=generator)
    return full


class Stage(DeclaredModule):
    """Declares what one stage holds, as one tensor-parallel rank."""

    def __init__(self, stage: int, stages: int, tp: Group) -> None:
        super().__init__()
        held = range(stage, 2, stages)
        for name, tensor in full_tensors().items():
            axis, blocks = layout_of(name)
            if name.startswith("shared") or int(name[5]) in held:
                size = tensor.shape[axis] // blocks // tp.size if axis is not None else 0
                own = slice(tp.rank * size, (tp.rank + 1) * size)
                self.specs[name] = ParameterSpec(tuple(tensor.shape), constant(0.0), axis, own, blocks=blocks)


def layout_of(name: str) -> tuple[int | None, int]:
    if "axis" in name:
        _, axis, blocks = name.split(".")
        return None if axis == "axisNone" else int(axis[-1]), int(blocks[-1])
    return (0, 1) if name == "shared.table" or name.endswith(("half", "count")) else (None, 1)


def same(left: dict[str, torch.Tensor], right: dict[str, torch.Tensor]) -> bool:
    return left.keys() == right.keys() and all(
        left[name].dtype == right[name].dtype and torch.equal(left[name], right[name]) for name in left
    )


def there_and_back(tp: int, pp: int) -> bool | None:
    """Whether the first rank has everything, as it was; None on the others, if they have nothing."""
    mesh = make_mesh(Place.from_environment(), torch.device("cpu"), tp, pp)
    table = Stage(mesh.pp.rank, pp, mesh.tp).specs
    own = take_own(full_tensors(), table)
    if mesh.pp.rank > 0:
        own["shared.table"] = own["shared.table"] + 1  # never asked for
    full = gather_full(own, table, mesh)
    if mesh.rank != 0:
        assert full is None
        return None
    assert full is not None
    return same(full, full_tensors())


def over_two_ranks() -> list[bool | None]:
    return [there_and_back(2, 1), there_and_back(1, 2), there_and_back(1, 1)]


def over_four_ranks() -> list[bool | None]:
    return [there_and_back(2, 2), there_and_back(4, 1), there_and_back(2, 1), there_and_back(1, 2)]


def test_what_came_apart_goes_together_over_two_ranks() -> None:
    assert run_distributed(2, over_two_ranks) == [[True] * 3, [None] * 3]


def test_what_came_apart_goes_together_over_four_ranks() -> None:
    assert run_distributed(4, over_four_ranks) == [[True] * 4] + [[None] * 4] * 3


def model_over_ranks() -> tuple[bool, int] | None:
    """A real model of two stages, split over two ranks each, is the model of one rank."""
    architecture = Architecture.model_validate(
        {
            "model": {"num_layers": 2, "hidden_size": 16, "num_heads": 2, "vocab_size": 12, "tied_embeddings": True},
            "positions": {"kind": "t5"},
            "mixer": {"kind": "dape", "hidden": 4},
            "training_length": 16,
        }
    )
    mesh = make_mesh(Place.from_environment(), torch.device("cpu"), 2, 2)
    stage = mesh.pp.rank
    model = build_gpt(architecture, seed=1, sharding=Sharding(mesh.tp), part=Part((stage,), stage == 0, stage == 1))
    with Traffic() as traffic:
        full = gather_full(dict(model.named_parameters()), parameter_table(model), mesh)
    if full is None:
        return None
    received = sum(row.received for row in traffic.rows() if row.collective == "p2p")
    whole = {name: parameter.detach() for name, parameter in build_gpt(architecture, seed=1).named_parameters()}
    return same(dict(sorted(full.items())), dict(sorted(whole.items()))), received


def test_a_model_over_tensor_ranks_and_stages_is_the_whole_one() -> None:
    first, *others = run_distributed(4, model_over_ranks)
    assert others == [None] * 3
    equal, received = first
    assert equal
    assert received > 0


def test_one_rank_has_everything_already() -> None:
    mesh = Mesh(Place(), torch.device("cpu"))
    table = Stage(0, 1, mesh.tp).specs
    full = gather_full(take_own(full_tensors(), table), table, mesh)
    assert full is not None
    assert same(full, full_tensors())


def test_a_missing_tensor_is_named() -> None:
    table = Stage(0, 1, Group()).specs
    full = full_tensors()
    del full["stage1.axis2.blocks2"]
    with pytest.raises(CheckpointError, match=r"no stage1\.axis2\.blocks2"):
        take_own(full, table)


def test_a_tensor_of_another_shape_is_named() -> None:
    table = Stage(0, 1, Group()).specs
    with pytest.raises(CheckpointError, match=r"shared\.table is \[4, 7\] in the checkpoint and \[4, 6\] in the model"):
        take_own(full_tensors() | {"shared.table": torch.zeros(4, 7)}, table)
