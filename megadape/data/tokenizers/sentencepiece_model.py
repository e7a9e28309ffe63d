"""What SentencePiece's ``.model`` file says of itself that the library does not tell.

The file is a Protocol Buffers message, read here as far as it is needed: the compiled form that comes with the library
runs with one version of protobuf only.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

_TRAINER, _NORMALIZER = 2, 3
_MODEL_TYPE, _SUFFIX_SPACE = 3, 24
_CHARACTER_MAP, _DUMMY_PREFIX, _EXTRA_SPACES, _ESCAPED_SPACES = 2, 3, 4, 5
_BPE = 2

_VARINT, _EIGHT_BYTES, _BYTES, _FOUR_BYTES = 0, 1, 2, 5

Value = int | bytes


@dataclass(frozen=True)
class ModelProperties:
    """How a model was trained."""

    is_bpe: bool
    keeps_text: bool
    """Whether texts reach the model as they are, a space written as U+2581."""


def read_properties(model: bytes) -> ModelProperties:
    """The properties of a ``.model`` file that the library has accepted."""
    fields = dict(_fields(model))
    trainer, normalizer = (dict(_fields(_content(fields.get(number, b"")))) for number in (_TRAINER, _NORMALIZER))
    return ModelProperties(
        is_bpe=trainer.get(_MODEL_TYPE) == _BPE,
        keeps_text=not normalizer.get(_CHARACTER_MAP)
        and normalizer.get(_DUMMY_PREFIX, 1) == 0
        and normalizer.get(_EXTRA_SPACES, 1) == 0
        and normalizer.get(_ESCAPED_SPACES, 1) == 1
        and not trainer.get(_SUFFIX_SPACE),
    )


def _fields(message: bytes) -> Iterator[tuple[int, Value]]:
    """Number and value of each field of a message, in order; of a repeated one, the last counts."""
    at = 0
    while at < len(message):
        key, at = _varint(message, at)
        kind = key & 7
        value: Value
        if kind == _VARINT:
            value, at = _varint(message, at)
        else:
            size, at = _varint(message, at) if kind == _BYTES else ({_EIGHT_BYTES: 8, _FOUR_BYTES: 4}[kind], at)
            value, at = message[at : at + size], at + size
        yield key >> 3, value


def _varint(message: bytes, at: int) -> tuple[int, int]:
    """An integer of seven bits a byte, the lowest first, and where it ends."""
    value = shift = 0
    while True:
        byte = message[at]
        value |= (byte & 127) << shift
        at, shift = at + 1, shift + 7
        if byte < 128:
            return value, at


def _content(value: Value) -> bytes:
    assert isinstance(value, bytes)
    return value
