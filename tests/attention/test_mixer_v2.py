"""DAPE V2 is its equation, leaks nothing, and decodes as it was trained."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError
from torch.nn import functional

from megadape.attention import BACKENDS, DapeMixer, DapeV2Mixer, MixerSettings, dape_attention, explain
from megadape.errors import ConfigurationError
from megadape.parameters import parameter_table
from megadape.positions import Heads, build

HEADS, WIDTH = 3, 4
CAPABLE = ["reference", "tiled"]


def draw(length: int, batch: int = 2) -> list[torch.Tensor]:
    return [torch.randn(batch, HEADS, length, WIDTH, dtype=torch.float64) for _ in range(3)]


@given(
    kernel=st.sampled_from([1, 3, 5, 7]),
    with_bias=st.booleans(),
    causal=st.booleans(),
    length=st.integers(1, 9),
)
def test_the_equation_at_every_pair(kernel: int, with_bias: bool, causal: bool, length: int) -> None:
    mixer = DapeV2Mixer(2, 3, kernel, with_bias=with_bias).double()
    scores, bias = torch.randn(1, 2, length, length).double(), torch.randn(2, length, length).double()
    visible = torch.ones(length, length).tril().bool()
    logits = mixer(scores, bias if with_bias else None, visible if causal else None)[0]
    x = torch.cat((scores[0], bias)) if with_bias else scores[0]
    side = kernel // 2
    for i in range(length):
        end = i + 1 if causal else length

        def convolve(weight, values, start, stop, j):  # noqa: ANN001, ANN202
            taps = [(t, j + t - side) for t in range(kernel) if start <= j + t - side < stop]
            return sum((weight[:, :, t] @ values[at] for t, at in taps), torch.zeros(len(weight)).double())

        columns = range(end + side if causal else end)  # where conv1 has values: unseen keys follow
        inputs = {j: x[:, i, j] for j in range(end)}
        hidden = {j: functional.leaky_relu(mixer.b1 + convolve(mixer.w1, inputs, 0, end, j)) for j in columns}
        for j in range(end):
            expected = scores[0, :, i, j] + mixer.b2 + convolve(mixer.w2, hidden, 0, len(columns), j)
            torch.testing.assert_close(logits[:, i, j], expected + (bias[:, i, j] if with_bias else 0))


def test_the_published_form_but_for_the_last_queries() -> None:
    mixer, length = DapeV2Mixer(HEADS, 5, 3).double(), 8
    scores, bias = torch.randn(2, HEADS, length, length).double(), torch.randn(HEADS, length, length).double()
    visible = torch.ones(length, length).tril().bool()
    x = torch.cat((scores, bias.expand_as(scores)), dim=1)
    for mask, compared in ((visible, visible), (None, torch.ones_like(visible))):
        hidden = functional.conv2d(x if mask is None else x.tril(), mixer.w1[:, :, None], mixer.b1, padding=(0, 1))
        published = functional.conv2d(functional.leaky_relu(hidden), mixer.w2[:, :, None], mixer.b2, padding=(0, 1))
        rows = slice(0, length if mask is None else -1)
        kept = torch.where(compared, mixer.correction(scores, bias, mask), 0)
        expected = torch.where(compared, published, 0)
        torch.testing.assert_close(kept[:, :, rows], expected[:, :, rows])


def test_a_kernel_of_one_is_dape() -> None:
    second, first = DapeV2Mixer(HEADS, 5, 1), DapeMixer(HEADS, 5)
    first.load_state_dict(
        {name: value.squeeze(-1) if value.dim() == 3 else value for name, value in second.state_dict().items()}
    )
    scores, bias = torch.randn(2, HEADS, 4, 6), torch.randn(HEADS, 4, 6)
    torch.testing.assert_close(second(scores, bias), first(scores, bias))


@pytest.mark.parametrize("backend", CAPABLE)
@pytest.mark.parametrize("bias", [None, "kerple_log", "fire", "t5"])
@pytest.mark.parametrize("kernel", [1, 3, 5])
def test_no_later_token_is_seen_and_steps_equal_the_whole(backend: str, bias: str | None, kernel: int) -> None:
    encoding = None if bias is None else build(bias, HEADS, head_dim=WIDTH).double()
    mixer = DapeV2Mixer(HEADS, 6, kernel, with_bias=bias is not None).double()
    q, k, v = draw(9)
    whole = dape_attention(q, k, v, bias=encoding, mixer=mixer, backend=backend)
    for seen in range(1, 10):
        parts = q[:, :, :seen], k[:, :, :seen], v[:, :, :seen]
        prefix = dape_attention(*parts, bias=encoding, mixer=mixer, backend=backend)
        torch.testing.assert_close(prefix, whole[:, :, :seen])
        step = dape_attention(parts[0][:, :, -1:], *parts[1:], bias=encoding, mixer=mixer, backend=backend)
        torch.testing.assert_close(step, whole[:, :, seen - 1 : seen])
        later = [
            torch.cat((part, 1e6 * torch.randn_like(x[:, :, seen:])), dim=2)
            for part, x in zip(parts, (q, k, v), strict=True)
        ]
        changed = dape_attention(*later, bias=encoding, mixer=mixer, backend=backend)
        torch.testing.assert_close(changed[:, :, :seen], whole[:, :, :seen])


def test_neighbouring_keys_are_read() -> None:
    mixer = DapeV2Mixer(HEADS, 6, 3, with_bias=False).double()
    q, k, _ = draw(6)
    before = explain(q, k, mixer=mixer).logits
    k[:, :, 2] += 1
    moved = (explain(q, k, mixer=mixer).logits - before).abs().sum((0, 1)) > 1e-12
    assert moved[5].tolist() == [True] * 5 + [False]  # two keys on each side: one for each convolution


def test_a_window_of_positions() -> None:
    mixer, encoding = DapeV2Mixer(HEADS, 6).double(), build("kerple_log", HEADS).double()
    q, k, v = draw(9)
    whole = dape_attention(q, k, v, bias=encoding, mixer=mixer)
    at = torch.tensor([1, 4, 5])
    for backend in (*CAPABLE, "rows"):
        with torch.no_grad():
            out = dape_attention(q[:, :, at], k, v, bias=encoding, mixer=mixer, query_positions=at, backend=backend)
        torch.testing.assert_close(out, whole[:, :, at])


@pytest.mark.parametrize("causal", [True, False])
def test_gradients(causal: bool) -> None:
    mixer = DapeV2Mixer(2, 3).double()
    scores, bias = torch.randn(1, 2, 3, 4).double().requires_grad_(), torch.randn(2, 3, 4).double().requires_grad_()
    visible = torch.ones(3, 4).tril(1).bool() if causal else None
    assert torch.autograd.gradcheck(lambda s, b, *_: mixer(s, b, visible), (scores, bias, *mixer.parameters()))


def test_parameters_and_settings() -> None:
    read = TypeAdapter(MixerSettings).validate_python
    mixer = read({"kind": "dape_v2", "hidden": 8, "kernel": 5}).build(Heads(6), with_bias=True)
    assert isinstance(mixer, DapeV2Mixer)
    shapes = {name: (spec.shape, spec.decay) for name, spec in parameter_table(mixer).items()}
    assert shapes == {"w1": ((8, 12, 5), True), "b1": ((8,), False), "w2": ((6, 8, 5), True), "b2": ((6,), False)}
    assert read({"kind": "dape_v2"}).build(Heads(6), with_bias=False).w1.shape == (32, 6, 3)
    for parameter, fan_in in ((mixer.w1, 60), (mixer.w2, 40)):
        assert 0.8 * fan_in**-0.5 < parameter.detach().abs().max() <= fan_in**-0.5


def test_mistakes() -> None:
    with pytest.raises(ValidationError, match="kernel must be odd, but is 4"):
        TypeAdapter(MixerSettings).validate_python({"kind": "dape_v2", "kernel": 4})
    with pytest.raises(ConfigurationError, match="must be odd, not 2"):
        DapeV2Mixer(2, kernel=2)
    assert "tiled" in BACKENDS
