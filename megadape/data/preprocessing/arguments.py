"""Settings from plain arguments, as a command line has them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pydantic import ValidationError

from megadape.data.files import PathLike
from megadape.data.preprocessing.settings import PreprocessSettings
from megadape.data.tokenizers import tokenizer_settings
from megadape.errors import DataError


def preprocess_settings(
    inputs: Sequence[PathLike],
    prefix: PathLike,
    tokenizer: str,
    tokenizer_options: dict[str, object],
    **options: object,
) -> PreprocessSettings:
    """Settings from plain arguments, as ``preprocess_files`` takes them."""
    built = tokenizer_settings(tokenizer, **tokenizer_options)
    try:
        return PreprocessSettings.model_validate(
            {"inputs": tuple(map(str, inputs)), "prefix": Path(prefix), "tokenizer": built, **options}
        )
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        reason = first["msg"].removeprefix("Value error, ")
        said = f"{where} cannot be {first['input']!r}: {reason}" if where else reason
        raise DataError(said) from error


def parse_conditions(given: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """``KEY=VALUE``, several times, as the setting ``where``: values of the same key are alternatives."""
    conditions: dict[str, tuple[str, ...]] = {}
    for one in given:
        key, equals, value = one.partition("=")
        if not key or not equals:
            raise DataError(f"--where {one} is not KEY=VALUE, such as meta.source=arxiv")
        conditions[key] = (*conditions.get(key, ()), value)
    return conditions
