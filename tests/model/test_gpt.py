"""The model: its size, its initial values, causality and length for every encoding and mixer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from megadape.errors import ConfigurationError
from megadape.model import GPT, Architecture, build_gpt, count_parameters, count_token_flops
from megadape.parameters import parameter_table

TRAINED = 8
ENCODINGS = [
    "none",
    "rope",
    "yarn",
    "randomized_rope",
    "t5",
    "alibi",
    "kerple_log",
    "kerple_power",
    "fire",
    "cope",
    "transformer_xl",
    "sinusoidal",
    "learned",
]
MIXED = ["alibi", "kerple_log", "kerple_power", "fire", "t5"]
VARIANTS = ["concat_residual", "concat", "add_residual", "bias_only"]
PAIRS = (
    [(kind, {"kind": "none"}) for kind in ENCODINGS]
    + [(kind, {"kind": "dape", "hidden": 6, "variant": variant}) for kind in MIXED for variant in VARIANTS]
    + [(kind, {"kind": "dape", "hidden": 6}) for kind in ("none", "rope", "cope", "transformer_xl")]
)
IDS = [f"{kind}-{mixer.get('variant', mixer['kind'])}" for kind, mixer in PAIRS]


def architecture(kind: str, mixer: dict[str, Any], **model: Any) -> Architecture:
    shape = {"num_layers": 2, "hidden_size": 24, "num_heads": 3, "vocab_size": 31} | model
    return Architecture.model_validate(
        {"model": shape, "positions": {"kind": kind}, "mixer": mixer, "training_length": TRAINED}
    )


@pytest.mark.parametrize(("kind", "mixer"), PAIRS, ids=IDS)
def test_a_later_token_never_changes_an_earlier_prediction(kind: str, mixer: dict[str, Any]) -> None:
    model = build_gpt(architecture(kind, mixer), seed=1).double().eval()
    with torch.no_grad():
        for parameter in model.parameters():  # CoPE's embeddings start at zero: give everything a say
            parameter.add_(0.1 * torch.randn_like(parameter))
    tokens = torch.randint(0, 31, (1, 2 * TRAINED))
    with torch.no_grad():
        before = model(tokens)
        for place in (1, TRAINED, 2 * TRAINED - 1):
            changed = tokens.clone()
            changed[0, place:] = (changed[0, place:] + 7) % 31
            after = model(changed)
            torch.testing.assert_close(after[:, :place], before[:, :place], rtol=0, atol=1e-12)
            assert not torch.equal(after[:, place], before[:, place])


@pytest.mark.parametrize(("kind", "mixer"), PAIRS, ids=IDS)
def test_eight_times_the_training_length(kind: str, mixer: dict[str, Any]) -> None:
    model = build_gpt(architecture(kind, mixer), seed=1).eval()
    tokens = torch.randint(0, 31, (2, 8 * TRAINED + 1))
    with torch.no_grad():
        assert model.loss(tokens).isfinite()


@pytest.mark.parametrize(("kind", "mixer"), PAIRS, ids=IDS)
def test_every_parameter_is_reached_by_the_gradient(kind: str, mixer: dict[str, Any]) -> None:
    model = build_gpt(architecture(kind, mixer), seed=1).double()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "positions" in name:  # CoPE's zeros and T5's would hide each other's gradients
                parameter.add_(0.1 * torch.rand_like(parameter))
    model.loss(torch.randint(0, 31, (2, 4 * TRAINED + 1))).backward()
    unseen = {name for name, p in model.named_parameters() if p.grad is None or not p.grad.abs().max() > 0}
    # softmax does not see what is added to a whole row: the mixer's last bias and a bias on all keys learn nothing
    allowed = ("b2", "mlp.2.bias", "qkv_bias")
    assert all(name.endswith(allowed) for name in unseen), unseen


def test_125m_counts_as_published() -> None:
    root = Path(__file__).parents[2]
    import yaml

    shape = yaml.safe_load((root / "configs/models/125M.yaml").read_text())["model"]
    with torch.device("meta"):
        model = GPT(architecture("rope", {"kind": "none"}, **shape))
    assert round(count_parameters(model) / 1e6, 1) == 162.3
    embeddings = 2 * model.output_weight().numel()
    assert round((count_parameters(model) - embeddings) / 1e6, 1) == 85.1


def test_initial_values_depend_on_seed_and_name_alone() -> None:
    small = build_gpt(architecture("kerple_log", {"kind": "dape"}), seed=5)
    torch.randn(17)  # other draws in between change nothing
    same = build_gpt(architecture("kerple_log", {"kind": "dape"}), seed=5)
    deeper = build_gpt(architecture("kerple_log", {"kind": "dape"}, num_layers=3), seed=5)
    other = build_gpt(architecture("kerple_log", {"kind": "dape"}), seed=6)
    for name, value in small.state_dict().items():
        assert torch.equal(value, same.state_dict()[name])
        if "output" not in name:  # output projections are scaled by the number of layers
            assert torch.equal(value, deeper.state_dict()[name])
    drawn = "blocks.0.attention.positions.r1"
    assert not torch.equal(small.state_dict()[drawn], other.state_dict()[drawn])
    assert not torch.equal(small.state_dict()[drawn], small.state_dict()["blocks.1.attention.positions.r1"])


def test_initial_scales() -> None:
    model = build_gpt(architecture("rope", {"kind": "none"}, hidden_size=96, vocab_size=4096), seed=0)
    small, wang = (2 / (5 * 96)) ** 0.5, 2 / (2 * 96**0.5)
    state = model.state_dict()
    assert state["embedding.weight"].std().item() == pytest.approx(small, rel=0.02)
    assert state["blocks.0.attention.qkv_weight"].std().item() == pytest.approx(small, rel=0.02)
    assert state["blocks.1.mlp.output.weight"].std().item() == pytest.approx(wang, rel=0.02)
    assert state["blocks.1.mlp.output.bias"].abs().max() == 0


def test_weight_decay_spares_norms_and_biases() -> None:
    table = parameter_table(build_gpt(architecture("fire", {"kind": "dape"}), seed=0))
    spared = {name for name, spec in table.items() if not spec.decay}
    assert all("norm" in name or name.rsplit(".")[-1] in ("bias", "qkv_bias", "b1", "b2") for name in spared)
    for name in (
        "attention.mixer.w1",
        "attention.mixer.w2",
        "attention.positions.c",
        "attention.positions.mlp.0.weight",
    ):
        assert table[f"blocks.0.{name}"].decay


def test_tied_embeddings_are_one_parameter() -> None:
    tied = build_gpt(architecture("rope", {"kind": "none"}, tied_embeddings=True), seed=0)
    untied = build_gpt(architecture("rope", {"kind": "none"}), seed=0)
    assert count_parameters(untied) - count_parameters(tied) == 31 * 24
    tied.loss(torch.randint(0, 31, (1, 9))).backward()


def test_token_losses_in_pieces_equal_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    model = build_gpt(architecture("alibi", {"kind": "none"}), seed=0).double()
    tokens = torch.randint(0, 31, (2, 21))
    whole = model.token_losses(model.hidden(tokens[:, :-1]), tokens[:, 1:])
    monkeypatch.setattr("megadape.model.gpt.LOGIT_ELEMENTS", 100)
    with torch.no_grad():
        pieces = model.token_losses(model.hidden(tokens[:, :-1]), tokens[:, 1:])
    torch.testing.assert_close(pieces, whole)


@pytest.mark.parametrize("kind", ["kerple_log", "randomized_rope"])
def test_activation_checkpointing_changes_no_gradient(kind: str) -> None:
    shape = architecture(kind, {"kind": "dape"}, dropout=0.2, attention_dropout=0.1)
    tokens = torch.randint(0, 31, (2, 17))
    gradients = []
    for recompute in (False, True):
        model = build_gpt(shape, seed=0, activation_checkpointing=recompute).double().train()
        torch.manual_seed(3)
        model.loss(tokens).backward()
        gradients.append([p.grad for p in model.parameters() if p.grad is not None])
    torch.testing.assert_close(*gradients)


def test_randomized_positions_are_drawn_anew_in_training_only() -> None:
    model = build_gpt(architecture("randomized_rope", {"kind": "none"}), seed=0)
    tokens = torch.randint(0, 31, (1, 17))
    assert model.loss(tokens) != model.loss(tokens)
    model.eval()
    assert model.loss(tokens) == model.loss(tokens)


def test_flops_of_a_model_counted_by_hand() -> None:
    model = build_gpt(architecture("kerple_log", {"kind": "dape", "hidden": 6}), seed=0)
    flops = count_token_flops(model, 16)
    keys = 17 / 2
    linear = 2 * (24 * 72 + 24 * 24 + 2 * 24 * 96) + 24 * 31
    assert flops.plain == 6 * (linear + 2 * 2 * 24 * keys)
    assert flops.mixing == 6 * 2 * (6 * 6 + 6 * 3) * keys


def test_a_head_count_that_does_not_divide_is_refused() -> None:
    with pytest.raises(ValueError, match=r"hidden_size % num_heads must be 0, but 24 % 5 = 4"):
        architecture("rope", {"kind": "none"}, num_heads=5)


def test_an_unknown_vocabulary_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="vocab_size"):
        GPT(architecture("rope", {"kind": "none"}, vocab_size=None))
