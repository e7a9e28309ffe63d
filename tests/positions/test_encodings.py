"""What every encoding promises: gradients, slices of one model, construction on the meta device."""

import pytest
import torch
from torch import Tensor

from megadape.parameters import initialise, parameter_table
from megadape.positions import ENCODINGS, ContextualBias, Heads, PositionEncoding, ScoreBias, build

ON_SCORES = [name for name in ENCODINGS if isinstance(build(name, 2, head_dim=4), ScoreBias | ContextualBias)]
LEARNED = [name for name in ON_SCORES if list(build(name, 2, head_dim=4).parameters())]


def evaluate(encoding: PositionEncoding, q: Tensor, k: Tensor, i: Tensor, j: Tensor) -> Tensor:
    """The bias of any encoding on scores, given the queries and keys of its own heads: [b, h, q, k]."""
    if isinstance(encoding, ContextualBias):
        return encoding.contextual_bias(q, k, q @ k.mT * 0.5, i, j, 0.5)
    assert isinstance(encoding, ScoreBias)
    return encoding.bias(i, j).expand(q.shape[0], -1, -1, -1)


def spread(encoding: PositionEncoding) -> None:
    """Values away from zero and from every bound, so that finite differences are smooth."""
    generator = torch.Generator().manual_seed(1)
    for parameter in encoding.parameters():
        parameter.data = torch.rand(parameter.shape, generator=generator, dtype=torch.float64) * 0.8 + 0.15


def test_the_two_lists_are_not_empty() -> None:
    assert set(ON_SCORES) >= {"alibi", "cope", "t5"}
    assert set(LEARNED) == set(ON_SCORES) - {"alibi"}


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("name", LEARNED)
def test_gradients(name: str, causal: bool) -> None:
    settings = {"fire": {"initial_L": 8, "width": 5}, "cope": {"max_positions": 3}}.get(name, {})
    encoding = build(name, 2, head_dim=4, causal=causal, **settings).double()
    spread(encoding)
    torch.manual_seed(0)
    q = torch.randn(2, 2, 3, 4, dtype=torch.float64, requires_grad=True)
    k = torch.randn(2, 2, 5, 4, dtype=torch.float64, requires_grad=True)
    i, j = torch.tensor([2, 3, 12]), torch.arange(5)
    inputs = [*encoding.parameters(), *((q, k) if isinstance(encoding, ContextualBias) else ())]
    assert torch.autograd.gradcheck(lambda *_: evaluate(encoding, q, k, i, j), inputs)


@pytest.mark.parametrize("name", ON_SCORES)
def test_ranks_own_slices_of_the_same_model(name: str) -> None:
    whole = build(name, 6, head_dim=4)
    parts = [build(name, 6, head_dim=4, heads=Heads(6, first, 3)) for first in (0, 3)]
    for encoding in (whole, *parts):
        initialise(encoding, seed=3)
    q, k = torch.randn(2, 6, 7, 4), torch.randn(2, 6, 9, 4)
    i, j = torch.arange(7) + 2, torch.arange(9)
    pieces = [
        evaluate(part, q[:, own], k[:, own], i, j) for part, own in zip(parts, (slice(3), slice(3, 6)), strict=True)
    ]
    torch.testing.assert_close(torch.cat(pieces, dim=1), evaluate(whole, q, k, i, j))


@pytest.mark.parametrize("name", list(ENCODINGS))
def test_a_part_declares_what_it_holds_of_the_full_parameter(name: str) -> None:
    whole, part = build(name, 6, head_dim=4), build(name, 6, head_dim=4, heads=Heads(6, 2, 3))
    initialise(whole, seed=3)
    initialise(part, seed=3)
    full = dict(whole.named_parameters())
    for key, spec in parameter_table(part).items():
        assert spec.shape == full[key].shape
        torch.testing.assert_close(spec.take_own(full[key]), dict(part.named_parameters())[key])


@pytest.mark.parametrize("name", list(ENCODINGS))
def test_meta_construction_then_initialise_equals_direct(name: str) -> None:
    direct = build(name, 4, head_dim=6)
    with torch.device("meta"):
        late = build(name, 4, head_dim=6)
    late.to_empty(device="cpu")
    for encoding in (direct, late):
        initialise(encoding, seed=11)
    torch.testing.assert_close(late.state_dict(), direct.state_dict())
    assert late.device == torch.device("cpu")
    assert not list(direct.buffers())


@pytest.mark.parametrize("name", list(ENCODINGS))
def test_weight_decay_spares_exactly_the_vectors_called_bias(name: str) -> None:
    for key, spec in parameter_table(build(name, 4)).items():
        assert spec.decay != key.endswith("bias")


def test_initial_values_lie_where_the_papers_say() -> None:
    ranges = {
        "kerple_log": {"r1": (0, 2), "r2": (0, 1)},
        "kerple_power": {"a": (0, 1), "p": (0, 2)},
        "fire": {"c": (0.1, 0.1), "L_multiplier": (1, 1), "mlp.0.weight": (-1, 1), "mlp.2.weight": (-0.05, 0.05)},
        "cope": {"embedding": (0, 0)},
    }
    torch.manual_seed(0)
    for name, parameters in ranges.items():
        encoding = build(name, 400, **({"width": 400} if name == "fire" else {}))
        for key, (low, high) in parameters.items():
            value = encoding.get_parameter(key)
            assert low - 1e-6 <= value.min() <= value.max() <= high + 1e-6
            assert value.max() - value.min() >= 0.9 * (high - low) - 1e-6  # and fill it
    xl = build("transformer_xl", 40)
    assert float(xl.u.detach().std()) == pytest.approx(0.02, rel=0.1)
    assert float(xl.v.detach().std()) == pytest.approx(0.02, rel=0.1)


def test_a_table_serves_all_layers_and_learned_kernels_serve_one() -> None:
    assert [name for name in ON_SCORES if not build(name, 2, head_dim=4).shared] == [
        "kerple_log",
        "kerple_power",
        "fire",
        "cope",
        "transformer_xl",
    ]


def test_cope_keeps_a_nan_in_its_row_and_out_of_the_past() -> None:
    cope = build("cope", 1, head_dim=2, max_positions=4)
    torch.nn.init.normal_(cope.embedding)
    q, k, i = torch.randn(1, 1, 4, 2), torch.randn(1, 1, 4, 2), torch.arange(4)
    clean = evaluate(cope, q, k, i, i)
    poisoned = q.clone()
    poisoned[:, :, 2] = float("nan")
    bias = evaluate(cope, poisoned, k, i, i)
    assert bias[0, 0, 2].isnan().all()
    torch.testing.assert_close(bias[0, 0, [0, 1, 3]], clean[0, 0, [0, 1, 3]])
    later = k.clone()
    later[:, :, 3] = float("nan")
    past = torch.ones(4, 4).tril().bool()[:3]
    torch.testing.assert_close(evaluate(cope, q, later, i, i)[0, 0, :3][past], clean[0, 0, :3][past])
