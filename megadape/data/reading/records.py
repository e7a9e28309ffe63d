"""From a record to its texts: which values are wanted, of which records, and what makes a record unusable.

Keys may be nested, with dots (``meta.title``); a key that stands there literally goes first. JSON is read by orjson;
what orjson refuses goes to Python's json module, so that NaN, infinities and endless numbers in values that nobody asks
for cost no text. A text is a string that has a UTF-8 form: a lone surrogate makes its record unusable.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass

import orjson

Texts = tuple[str, ...]
"""The texts of one document, one for each key."""


class UnusableError(Exception):
    """A record that gives no document.

    Args:
        reason: why.
        line: on which line of the record, from 0.
        at: how many of its bytes stand before the mistake.
    """

    def __init__(self, reason: str, line: int = 0, at: int = 0) -> None:
        super().__init__(reason)
        self.reason = reason
        self.line = line
        self.at = at


@dataclass(frozen=True)
class Selection:
    """What is wanted of the records of a corpus.

    Args:
        keys: whose values are the texts.
        where: key -> values; a record must have one of them under every key, others are passed over.
    """

    keys: Texts
    where: Mapping[str, Texts]

    def __call__(self, record: object) -> Texts | None:
        """The texts of a record; None for a record that is passed over; ``UnusableError``."""
        if not isinstance(record, dict):
            raise UnusableError(f"a JSON object is wanted, not a {_kind(record)}")
        if self.where and not self._wanted(record):
            return None
        return tuple(self._text(record, key) for key in self.keys)

    def _wanted(self, record: dict[str, object]) -> bool:
        return all(_written(_find(record, key)) in values for key, values in self.where.items())

    def _text(self, record: dict[str, object], key: str) -> str:
        value = _find(record, key)
        if value is _MISSING:
            raise UnusableError(
                f"the object has no key {key!r} (its keys: {', '.join(map(repr, list(record)[:10])) or 'none'})"
            )
        if not isinstance(value, str):
            raise UnusableError(f"the value of {key!r} must be a string, not a {_kind(value)}")
        if not value.isascii():
            require_utf8(value, f"the value of {key!r}")
        return value


def parse_json(content: bytes) -> object:
    """A JSON value; ``UnusableError`` names the line and the position of a mistake."""
    try:
        return orjson.loads(content)
    except orjson.JSONDecodeError as error:
        return _parse_leniently(content, error)


def decode(content: bytes) -> str:
    """UTF-8 text; ``UnusableError`` names the line and the position of a byte that is none."""
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start)
        reason = f"byte {content[error.start]:#04x} is not valid UTF-8"
        raise UnusableError(reason, line, error.start) from error


def require_utf8(text: str, what: str) -> None:
    """``UnusableError`` for a text without UTF-8 form."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise UnusableError(
            f"{what} holds half of a surrogate pair, {text[error.start]!r}, without UTF-8 form"
        ) from error


def _parse_leniently(content: bytes, refusal: orjson.JSONDecodeError) -> object:
    text = decode(content)
    try:
        return json.loads(text, parse_int=_number)
    except RecursionError as error:
        raise UnusableError("not valid JSON (nested too deeply)") from error
    except ValueError as error:
        before = text[: refusal.pos].rfind("\n") + 1
        at = len(text[:before].encode(errors="surrogatepass"))
        raise UnusableError(f"not valid JSON ({refusal.msg})", refusal.lineno - 1, at) from error


def _number(digits: str) -> int | float:
    """An integer; of one with more digits than Python converts, the float."""
    try:
        return int(digits)
    except ValueError:
        return float(digits)


class _Missing:
    """No value."""


_MISSING = _Missing()


def _find(record: dict[str, object], key: str) -> object:
    """The value of a key, or of a path of keys with dots."""
    if key in record:
        return record[key]
    head, dot, rest = key.partition(".")
    inner = record.get(head) if dot else None
    return _find(inner, rest) if isinstance(inner, dict) else _MISSING


def _written(value: object) -> str | None:
    """A value as ``--where`` compares it: strings as they are, numbers, booleans and null as JSON writes them."""
    if isinstance(value, str):
        return value
    if value is None or isinstance(value, (bool, int, float)):
        return json.dumps(value)
    return None


def _kind(value: object) -> str:
    names: dict[type, str] = {
        dict: "object",
        list: "list",
        str: "string",
        bool: "boolean",
        int: "number",
        float: "number",
        bytes: "sequence of bytes that are not UTF-8",
        type(None): "null",
    }
    return names.get(type(value), type(value).__name__)
