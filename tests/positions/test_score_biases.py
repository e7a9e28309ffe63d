"""Encodings that add to scores: each against its formula, written pair by pair in float64."""

from collections.abc import Callable
from math import exp, floor, log

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from megadape.positions import ContextualBias, DistanceBias, PositionEncoding, ScoreBias, build

positions = st.tuples(st.integers(0, 12), st.integers(0, 12), st.integers(0, 30_000))


def draw(low: float, high: float, *shape: int) -> Tensor:
    return torch.rand(shape, dtype=torch.float64) * (high - low) + low


def pairs(encoding: PositionEncoding, i: Tensor, j: Tensor, formula: Callable[[int, int, int], float | Tensor]) -> None:
    """Compare bias with formula(head, i, j) at every pair."""
    assert isinstance(encoding, ScoreBias)
    bias = encoding.bias(i, j)
    heads = range(encoding.geometry.heads.local)
    expected = [[[float(formula(h, int(a), int(b))) for b in j] for a in i] for h in heads]
    wanted = torch.tensor(expected, dtype=torch.float64).view(len(heads), len(i), len(j))
    torch.testing.assert_close(bias, wanted, rtol=1e-12, atol=1e-12)


def grid(sizes: tuple[int, int, int]) -> tuple[Tensor, Tensor]:
    """Queries that start anywhere, keys from 0 or near the queries."""
    q, k, shift = sizes
    return torch.arange(q) + shift, torch.arange(k) + (shift // 2)


@given(sizes=positions, heads=st.integers(1, 20), causal=st.booleans())
def test_alibi(sizes: tuple[int, int, int], heads: int, causal: bool) -> None:
    def slope(h: int) -> float:
        power = 2 ** floor(log(heads) / log(2) + 1e-9)
        return 2 ** (-8 * (h + 1) / power) if h < power else 2 ** (-8 * (2 * (h - power) + 1) / (2 * power))

    def formula(h: int, i: int, j: int) -> float:
        return -slope(h) * abs(i - j) + (0.5 if i > j and not causal else 0)

    pairs(build("alibi", heads, causal=causal).double(), *grid(sizes), formula)


def test_alibi_slopes_of_twelve_heads_are_those_of_eight_and_every_other_one_of_sixteen() -> None:
    slopes = -build("alibi", 12).by_distance(2)[:, 1]
    expected = [2.0**-k for k in range(1, 9)] + [2.0**-k for k in (0.5, 1.5, 2.5, 3.5)]
    torch.testing.assert_close(slopes, torch.tensor(expected))


@given(sizes=positions, causal=st.booleans())
def test_kerple_log(sizes: tuple[int, int, int], causal: bool) -> None:
    kerple = build("kerple_log", 3, causal=causal).double()
    kerple.r1.data, kerple.r2.data = draw(-0.5, 2, 3), draw(-0.5, 1, 3)
    all_r1, all_r2 = kerple.r1.tolist(), kerple.r2.tolist()

    def formula(h: int, i: int, j: int) -> float:
        r1, r2 = max(all_r1[h], 0.01), max(all_r2[h], 0.01)
        return -r1 * log(1 + r2 * abs(i - j))

    pairs(kerple, *grid(sizes), formula)


@given(sizes=positions, causal=st.booleans())
def test_kerple_power(sizes: tuple[int, int, int], causal: bool) -> None:
    kerple = build("kerple_power", 3, causal=causal).double()
    kerple.a.data, kerple.p.data = draw(-0.5, 1, 3), draw(-0.5, 2.5, 3)
    all_a, all_p = kerple.a.tolist(), kerple.p.tolist()

    def formula(h: int, i: int, j: int) -> float:
        return -max(all_a[h], 0.01) * abs(i - j) ** min(max(all_p[h], 0.01), 2)

    pairs(kerple, *grid(sizes), formula)


def t5_bucket(offset: int, buckets: int, maximum: int, causal: bool) -> int:
    after = 0
    if not causal:
        buckets //= 2
        after = buckets if offset < 0 else 0
    distance = max(offset, 0) if causal else abs(offset)
    exact = buckets // 2
    if distance < exact:
        return after + distance
    # nudged: where the logarithm is a whole number its rounding must not decide
    logarithmic = floor(log(distance / exact) / log(maximum / exact) * (buckets - exact) + 1e-9)
    return after + min(exact + logarithmic, buckets - 1)


@given(
    sizes=positions, causal=st.booleans(), shape=st.sampled_from([(32, 128), (16, 128), (32, 256), (8, 1000), (5, 7)])
)
def test_t5(sizes: tuple[int, int, int], causal: bool, shape: tuple[int, int]) -> None:
    t5 = build("t5", 3, causal=causal, num_buckets=shape[0], max_distance=shape[1]).double()
    table = t5.table.tolist()
    pairs(t5, *grid(sizes), lambda h, i, j: table[t5_bucket(i - j, *shape, causal)][h])


def test_t5_buckets_of_the_default_form() -> None:
    t5 = build("t5", 1)
    buckets = t5.bucket(torch.tensor([-5, 0, 1, 15, 16, 18, 19, 112, 113, 127, 128, 10_000]))
    assert buckets.tolist() == [0, 0, 1, 15, 16, 16, 17, 30, 31, 31, 31, 31]


@given(sizes=positions, causal=st.booleans(), activation=st.sampled_from(["relu", "leaky_relu"]))
def test_fire(sizes: tuple[int, int, int], causal: bool, activation: str) -> None:
    fire = build("fire", 3, causal=causal, activation=activation, initial_L=64).double()
    fire.c.data, fire.L_multiplier.data = draw(-0.3, 0.3), draw(-2, 2)
    w1, b1, w2, b2 = (fire.get_parameter(f"mlp.{name}") for name in ("0.weight", "0.bias", "2.weight", "2.bias"))
    slope = 0.0 if activation == "relu" else 0.01

    def formula(h: int, i: int, j: int) -> Tensor:
        c, start = abs(fire.c.item()), abs(fire.L_multiplier.item() * 64)
        x = log(c * abs(i - j) + 1) / (log(c * max(start, i) + 1) + 1e-6)
        hidden = w1[:, 0] * x + b1
        return (w2[h] @ torch.where(hidden > 0, hidden, slope * hidden) + b2[h]).detach()

    pairs(fire, *grid(sizes), formula)


def content(sizes: tuple[int, int, int], heads: int, width: int) -> tuple[Tensor, ...]:
    i, j = grid(sizes)
    q, k = draw(-2, 2, 2, heads, len(i), width), draw(-2, 2, 2, heads, len(j), width)
    return i, j, q, k, (q @ k.transpose(-1, -2)) * 0.3


@given(sizes=st.tuples(st.integers(1, 7), st.integers(1, 9), st.integers(0, 8)), causal=st.booleans())
def test_cope(sizes: tuple[int, int, int], causal: bool) -> None:
    cope = build("cope", 2, head_dim=4, causal=causal, max_positions=4).double()
    cope.embedding.data = draw(-1, 1, 4, 4)
    embedding = cope.embedding.detach()
    i, j, q, k, scores = content(sizes, 2, 4)
    bias = cope.contextual_bias(q, k, scores, i, j, 0.3).detach()
    for b, h, row, column in torch.cartesian_prod(*(torch.arange(n) for n in scores.shape)).tolist():
        at, key = int(i[row]), int(j[column])
        between = range(key, at + 1) if causal or key <= at else range(at, key + 1)
        gates = [1 / (1 + exp(-float(scores[b, h, row, m]))) for m in range(len(j)) if int(j[m]) in between]
        count = min(sum(gates), 3.0)
        low = floor(count)
        below = float(q[b, h, row] @ embedding[low])
        above = float(q[b, h, row] @ embedding[min(low + 1, 3)])
        expected = below + (count - low) * (above - below)
        assert float(bias[b, h, row, column]) == pytest.approx(expected, abs=1e-12)


@given(sizes=st.tuples(st.integers(1, 5), st.integers(1, 6), st.integers(0, 20_000)), causal=st.booleans())
def test_transformer_xl(sizes: tuple[int, int, int], causal: bool) -> None:
    xl = build("transformer_xl", 2, head_dim=4, hidden_size=6, causal=causal).double().requires_grad_(False)
    i, j, q, k, scores = content(sizes, 2, 4)
    bias = xl.contextual_bias(q, k, scores, i, j, 0.3)
    rates = 10_000.0 ** -(torch.arange(0, 6, 2, dtype=torch.float64) / 6)
    for b, h, row, column in torch.cartesian_prod(*(torch.arange(n) for n in scores.shape)).tolist():
        angles = float(i[row] - j[column]) * rates
        r = xl.W_r[h] @ torch.cat((angles.sin(), angles.cos()))
        expected = 0.3 * (xl.u[h] @ k[b, h, column] + (q[b, h, row] + xl.v[h]) @ r)
        assert float(bias[b, h, row, column]) == pytest.approx(float(expected), abs=1e-10)


@pytest.mark.parametrize("name", ["alibi", "kerple_log", "kerple_power", "t5"])
def test_a_table_over_distance_is_the_bias_of_the_last_query(name: str) -> None:
    encoding = build(name, 3)
    assert isinstance(encoding, DistanceBias)
    table = encoding.by_distance(50)
    torch.testing.assert_close(table.flip(-1), encoding.bias(torch.tensor([49]), torch.arange(50))[:, 0])


@pytest.mark.parametrize("name", ["alibi", "kerple_log", "transformer_xl"])
def test_positions_far_apart_cost_no_table_as_long_as_their_distance(name: str) -> None:
    encoding = build(name, 2, head_dim=4).double()
    i, j = torch.tensor([0, 10**12, 7]), torch.tensor([3, 10**12 - 1])
    if isinstance(encoding, ContextualBias):
        q, k = draw(-1, 1, 1, 2, 3, 4), draw(-1, 1, 1, 2, 2, 4)
        whole = encoding.contextual_bias(q, k, q @ k.mT, i, j, 1.0)
        one = encoding.contextual_bias(q[:, :, :1], k, (q @ k.mT)[:, :, :1], i[:1], j, 1.0)
        torch.testing.assert_close(whole[:, :, :1], one)
        return
    whole = encoding.bias(i, j)
    torch.testing.assert_close(whole[:, :, 0], encoding.at(torch.tensor([-3, 10**12 - 3, 4])))


@pytest.mark.parametrize("name", ["alibi", "kerple_log", "kerple_power", "t5", "fire"])
@pytest.mark.parametrize("causal", [True, False])
def test_far_past_the_training_length_the_bias_is_finite(name: str, causal: bool) -> None:
    encoding = build(name, 4, training_length=32, causal=causal)
    assert encoding.bias(torch.arange(32 * 64 - 4, 32 * 64), torch.arange(32 * 64)).isfinite().all()


@pytest.mark.parametrize("name", ["alibi", "kerple_log", "kerple_power", "t5", "fire"])
def test_a_half_precision_module_keeps_its_distances(name: str) -> None:
    encoding = build(name, 4)
    i, j = torch.tensor([4097]), torch.arange(4098)
    expected = encoding.bfloat16().bias(i, j)
    assert expected.dtype == torch.float32
    torch.testing.assert_close(encoding.float().bias(i, j), expected)


def test_a_bound_parameter_still_learns_and_moves_the_bias_no_further() -> None:
    kerple = build("kerple_power", 2).double()
    kerple.a.data.fill_(-3.0)
    kerple.p.data.fill_(7.0)
    bias = kerple.by_distance(5)
    torch.testing.assert_close(bias[0], -0.01 * torch.arange(5.0, dtype=torch.float64) ** 2)
    bias.sum().backward()
    assert kerple.a.grad.all()
    assert kerple.p.grad.all()


@pytest.mark.parametrize(("count", "size"), [(0, 3), (3, 0), (0, 0), (1, 1)])
@pytest.mark.parametrize("name", ["alibi", "t5", "fire", "kerple_log"])
def test_no_and_single_positions(name: str, count: int, size: int) -> None:
    assert build(name, 4).bias(torch.arange(count), torch.arange(size)).shape == (4, count, size)
