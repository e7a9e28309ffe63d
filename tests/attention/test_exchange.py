"""What both forms of mixing over tensor-parallel ranks move, counted at torch.distributed, and how rows are dealt."""

from __future__ import annotations

from typing import NamedTuple

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from megadape.attention import DapeMixer
from megadape.attention.call import Attention
from megadape.attention.exchange import choose_exchange
from megadape.errors import AttentionError
from megadape.parallel.deal import RowDeal
from megadape.parallel.group import Group
from megadape.parallel.mesh import Place, make_mesh
from megadape.parallel.sharding import Sharding
from megadape.parallel.traffic import Traffic
from megadape.positions import Heads, build
from megadape.testing import run_distributed

HEADS, WIDTH, HIDDEN = 4, 32, 32


class Moved(NamedTuple):
    """Bytes that a rank received."""

    forward: int
    backward: int


def move(form: str, length: int, tp: Group, dtype: torch.dtype, *, backward: bool) -> Moved:
    sharding = Sharding(tp, mixing="heads" if form == "heads" else "rows")
    own = sharding.own_part(HEADS, "heads")
    heads = Heads(HEADS, own.start, own.stop - own.start)
    encoding = build("kerple_log", HEADS, head_dim=WIDTH, heads=heads)
    mixer = DapeMixer(HEADS, HIDDEN, heads=heads)
    q, k, v = (torch.randn(1, heads.local, length, WIDTH, dtype=dtype).requires_grad_(backward) for _ in range(3))
    call = Attention(q, k, v, encoding, mixer, torch.arange(length))
    with torch.set_grad_enabled(backward):
        with Traffic() as forward:
            out = choose_exchange(sharding, mixes=True)(call)
        with Traffic() as back:
            if backward:
                out.backward(torch.ones_like(out))
    return Moved(forward.total(), back.total())


def parameter_bytes(ranks: int) -> Moved:
    """Of a row exchange: r1, r2, w1, w2, b2 gathered and their gradients scattered; the gradient of b1 summed."""
    gathered = 4 * (2 * HEADS + HIDDEN * 2 * HEADS + HEADS * HIDDEN + HEADS) * (ranks - 1) // ranks
    return Moved(gathered, gathered + 2 * 4 * HIDDEN * (ranks - 1) // ranks)


def rows_bytes(length: int, ranks: int, itemsize: int) -> int:
    """f s h d (2 + 2/T), forward; backward is the same."""
    return length * HEADS * WIDTH * itemsize * (ranks - 1) * (2 * ranks + 2) // ranks**2


def heads_bytes(length: int, ranks: int) -> int:
    """An all-reduce of D s^2 numbers in float32, forward; backward is the same."""
    return 2 * HIDDEN * length**2 * 4 * (ranks - 1) // ranks


def moves(ranks: int) -> dict[tuple[str, int], Moved]:
    place = Place(torch.distributed.get_rank(), ranks)
    tp = make_mesh(place, torch.device("cpu"), tp=ranks).tp
    found = {
        (form, length): move(form, length, tp, torch.float32, backward=True)
        for form in ("rows", "heads")
        for length in (64, 256)
    }
    found["rows in bfloat16", 256] = move("rows", 256, tp, torch.bfloat16, backward=True)
    if ranks == 2:
        found |= {(form, 2048): move(form, 2048, tp, torch.float32, backward=False) for form in ("rows", "heads")}
    return found


@pytest.mark.parametrize("ranks", [2, 4])
def test_bytes_equal_the_formulas(ranks: int) -> None:
    parameters = parameter_bytes(ranks)
    for found in run_distributed(ranks, moves, ranks):
        for length in (64, 256):
            rows, heads = found["rows", length], found["heads", length]
            assert rows.forward - parameters.forward == rows_bytes(length, ranks, 4)
            assert rows.backward - parameters.backward == rows_bytes(length, ranks, 4)
            assert heads.forward == heads.backward == heads_bytes(length, ranks)
        assert found["rows in bfloat16", 256].forward - parameters.forward == rows_bytes(256, ranks, 2)
        if ranks == 2:
            assert found["rows", 2048].forward * 15 <= found["heads", 2048].forward


@given(st.integers(0, 200), st.integers(1, 9))
def test_every_row_has_one_rank_and_the_triangle_is_even(length: int, ranks: int) -> None:
    deal = RowDeal(length, ranks)
    rows = [deal.rows(rank) for rank in range(ranks)]
    assert sorted(torch.cat(rows).tolist()) == list(range(length))
    assert [len(each) for each in rows] == [deal.count(rank) for rank in range(ranks)]
    x = torch.randn(2, length, 3)
    assert torch.equal(deal.restore([deal.take(x, rank, 1) for rank in range(ranks)], 1), x)
    if length % (2 * ranks) == 0:
        assert len({int((each + 1).sum()) for each in rows}) == 1  # pairs below the diagonal


def test_the_literal_form_names_the_only_backend_that_it_has() -> None:
    q = torch.randn(1, 2, 4, 8)
    sharding = Sharding(Group((0, 1), 0), mixing="heads")
    call = Attention(
        q, q, q, build("alibi", 4, heads=Heads(4, 0, 2)), DapeMixer(4, heads=Heads(4, 0, 2)), torch.arange(4)
    )
    with pytest.raises(AttentionError, match=r"parallel\.mixing: heads computes by the reference backend alone"):
        choose_exchange(sharding, mixes=True)(Attention(**{**vars(call), "backend": "tiled"}))
