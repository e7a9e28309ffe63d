"""How texts are written."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, StringConstraints, ValidationError

from megadape.errors import ConfigurationError
from megadape.settings import Settings

StopString = Annotated[str, StringConstraints(min_length=1)]


class GenerationSettings(Settings):
    """What is drawn from a model's distribution of the next token, and when a text ends."""

    max_tokens: int = Field(default=128, ge=1)
    """Tokens that are drawn for a text, at most."""

    temperature: float = Field(default=1.0, ge=0)
    """Logits are divided by it; 0: the likeliest token is taken (greedy)."""

    top_k: int | None = Field(default=None, ge=1)
    """Only so many of the likeliest tokens may be drawn; null: any."""

    top_p: float = Field(default=1.0, gt=0, le=1)
    """Only the fewest tokens that together are so likely may be drawn, of those that top_k leaves."""

    repetition_penalty: float = Field(default=1.0, gt=0)
    """Logits of tokens that stand in the text already, prompt included, are divided by it where they are positive, else
    multiplied (CTRL, Keskar et al., 2019, arXiv 1909.05858)."""

    stop: tuple[StopString, ...] = ()
    """A text ends before the first of these strings that is written."""

    keep_stop: bool = False
    """Whether the string that ended a text is part of it."""

    ignore_end: bool = False
    """Go on past the token that ends a document."""

    seed: int = Field(default=0, ge=0, lt=2**63)
    """Every sample of every prompt has a stream of its own, from this and its two numbers."""

    samples: int = Field(default=1, ge=1)
    """Texts for each prompt."""

    batch_size: int = Field(default=16, ge=1)
    """Texts that are written at once; whatever it is, the texts are the same, but for the rounding of logits."""

    read_as: int = Field(default=0, ge=0, lt=2**31)
    """Tokens that texts are taken to have, at least, by encodings that read differently at each length (yarn without a
    factor past the training length, randomized_rope). 0: as many as there are so far; then all is read anew for every
    token. Other encodings do not care."""


def generation_settings(**given: object) -> GenerationSettings:
    """Settings from plain arguments, without those that are None; ``ConfigurationError`` for bad values."""
    try:
        return GenerationSettings.model_validate({name: value for name, value in given.items() if value is not None})
    except ValidationError as error:
        reasons = [
            f"{'.'.join(map(str, each['loc']))}: {each['msg'].removeprefix('Value error, ')}, not {each['input']!r}"
            for each in error.errors()
        ]
        raise ConfigurationError(f"generation: {'; '.join(reasons)}") from error
