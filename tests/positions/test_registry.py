"""Encodings by name, and what users are told when they mistype."""

import pytest
from pydantic import TypeAdapter, ValidationError

from megadape.errors import ConfigurationError
from megadape.positions import ENCODINGS, Geometry, Heads, PositionSettings, build

NAMES = [
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


def test_the_names() -> None:
    assert list(ENCODINGS) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_settings_are_told_apart_by_kind_and_build(name: str) -> None:
    settings = TypeAdapter(PositionSettings).validate_python({"kind": name})
    encoding = settings.build(Geometry(Heads(4), 8, 32, 64))
    assert type(encoding) is type(build(name, 4, head_dim=8))
    with pytest.raises(ValidationError):
        settings.kind = "other"


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("kerple", {}, "did you mean 'kerple_log'"),
        ("zzz", {}, "known: none, rope"),
        ("fire", {"widht": 3}, "did you mean 'width'"),
        ("alibi", {"slope": 3}, "alibi has no setting 'slope'"),
        ("fire", {"width": 0}, "fire.width"),
        ("fire", {"activation": "gelu"}, "fire.activation"),
        ("fire", {"initial_c": float("nan")}, "fire.initial_c"),
        ("yarn", {"factor": 0.5}, "yarn.factor"),
        ("yarn", {"alpha": 40}, "alpha must be below beta"),
        ("t5", {"max_distance": 10}, "max_distance must be above"),
        ("alibi", {"training_length": 0}, "training_length must be at least 1"),
        ("alibi", {"heads": Heads(8, 0, 4)}, "part of 8"),
    ],
)
def test_mistakes(name: str, settings: dict, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        build(name, 4, **settings)


def test_no_heads() -> None:
    with pytest.raises(ConfigurationError, match="num_heads must be at least 1"):
        build("alibi", 0)


def test_the_width_of_the_model_follows_the_heads() -> None:
    assert build("learned", 3, head_dim=5).table.shape == (512, 15)
    assert build("learned", num_heads=3, head_dim=5, hidden_size=8).table.shape == (512, 8)
