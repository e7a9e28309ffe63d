"""Every position encoding by its name.

To add one: write its file, and enter its settings class in ``PositionSettings``.
"""

from __future__ import annotations

from difflib import get_close_matches
from typing import Annotated, get_args

from pydantic import Field, ValidationError

from megadape.errors import ConfigurationError
from megadape.positions.alibi import AlibiSettings
from megadape.positions.base import EncodingSettings, Geometry, Heads, PositionEncoding
from megadape.positions.cope import CopeSettings
from megadape.positions.fire import FireSettings
from megadape.positions.kerple import KerpleLogSettings, KerplePowerSettings
from megadape.positions.learned import LearnedSettings
from megadape.positions.none import NoneSettings
from megadape.positions.randomized_rope import RandomizedRopeSettings
from megadape.positions.rope import RopeSettings
from megadape.positions.sinusoidal import SinusoidalSettings
from megadape.positions.t5 import T5Settings
from megadape.positions.transformer_xl import TransformerXLSettings
from megadape.positions.yarn import YarnSettings

PositionSettings = Annotated[
    NoneSettings
    | RopeSettings
    | YarnSettings
    | RandomizedRopeSettings
    | T5Settings
    | AlibiSettings
    | KerpleLogSettings
    | KerplePowerSettings
    | FireSettings
    | CopeSettings
    | TransformerXLSettings
    | SinusoidalSettings
    | LearnedSettings,
    Field(discriminator="kind"),
]
"""Settings of any encoding, told apart by ``kind``."""

ENCODINGS: dict[str, type[EncodingSettings]] = {
    settings.model_fields["kind"].default: settings for settings in get_args(get_args(PositionSettings)[0])
}
"""Name -> settings class."""


def build(
    name: str,
    num_heads: int,
    *,
    head_dim: int = 64,
    hidden_size: int | None = None,
    training_length: int = 512,
    causal: bool = True,
    heads: Heads | None = None,
    **settings: object,
) -> PositionEncoding:
    """Build an encoding by name.

    Args:
        name: one of ``ENCODINGS``.
        num_heads: attention heads of the model, over all tensor-parallel ranks.
        head_dim: width of one head.
        hidden_size: width of the model; default ``num_heads * head_dim``.
        training_length: length trained at.
        causal: whether queries see earlier keys only; False for encoders.
        heads: the heads of this rank; default all.
        settings: the encoding's own settings.

    Raises:
        ConfigurationError: the name or a setting is unknown, or a value does not fit.
    """
    _check_sizes(num_heads=num_heads, head_dim=head_dim, hidden_size=hidden_size, training_length=training_length)
    if heads is not None and heads.total != num_heads:
        raise ConfigurationError(f"heads are a part of {heads.total}, but the model has num_heads = {num_heads}")
    geometry = Geometry(
        heads or Heads(num_heads), head_dim, hidden_size or num_heads * head_dim, training_length, causal
    )
    return _read_settings(name, settings).build(geometry)


def _check_sizes(**sizes: int | None) -> None:
    for name, size in sizes.items():
        if size is not None and size < 1:
            raise ConfigurationError(f"{name} must be at least 1, but is {size}")


def _read_settings(name: str, settings: dict[str, object]) -> EncodingSettings:
    if name not in ENCODINGS:
        raise ConfigurationError(f"unknown position encoding {name!r}{_suggest(name, list(ENCODINGS))}")
    known = [key for key in ENCODINGS[name].model_fields if key != "kind"]
    for key in settings:
        if key not in known:
            raise ConfigurationError(f"{name} has no setting {key!r}{_suggest(key, known)}")
    try:
        return ENCODINGS[name].model_validate(settings)
    except ValidationError as error:
        reasons = [
            ".".join(str(part) for part in (name, *each["loc"])) + ": " + each["msg"].removeprefix("Value error, ")
            for each in error.errors()
        ]
        raise ConfigurationError("; ".join(reasons)) from error


def _suggest(name: str, known: list[str]) -> str:
    close = get_close_matches(name, known, n=1)
    guess = f"; did you mean {close[0]!r}?" if close else ""
    return f"{guess} ({'it has none' if not known else 'known: ' + ', '.join(known)})"
