"""What a piece of work is: everything that its bytes depend on, so that no other work is gone on with.

The number of workers is no part of it. How bad lines are treated is, once one was met.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from megadape.data.preprocessing.settings import PreprocessSettings
from megadape.data.reading.plan import Plan
from megadape.data.tokenizers import Tokenizer

VERSION = 1
"""Of the way in which documents are read and cut; a change of it makes other bytes, or other blocks."""

_POLICY = ("on_bad_line", "max_bad_lines")
_OPTIONS = (
    "json_keys",
    "where",
    "document_separator",
    "append_eod",
    "skip_undecodable",
    "max_line_bytes",
    "block_bytes",
    "shard_bytes",
    *_POLICY,
)


def identify(settings: PreprocessSettings, plan: Plan, tokenizer: Tokenizer) -> dict[str, object]:
    """Everything that the bytes of the datasets depend on, as JSON keeps it."""
    options = settings.model_dump(mode="json", include=set(_OPTIONS))
    identity: dict[str, object] = {
        "version": VERSION,
        "tokenizer": f"{tokenizer.name}, digest {tokenizer.digest}",
        **{name: options[name] for name in _OPTIONS},
        "sources": [[source.name, source.format, source.size, source.identity] for source in plan.sources],
    }
    return json.loads(json.dumps(identity))


def find_difference(before: Mapping[str, Any], now: Mapping[str, Any], *, met_bad_lines: bool) -> str | None:
    """In which way two pieces of work differ, in words; None when they do not.

    Args:
        before: the work that was begun.
        now: the work that is asked for.
        met_bad_lines: whether the work that was begun depends on how bad lines are treated.
    """
    for name in now:
        if name == "sources" or (name in _POLICY and not met_bad_lines):
            continue
        if before.get(name) != now[name]:
            return f"{name} was {_shown(before.get(name))} and is {_shown(now[name])}"
    return next(_differing_sources(before.get("sources", []), now["sources"]), None)


def _differing_sources(before: Sequence[Sequence[Any]], now: Sequence[Sequence[Any]]) -> Iterator[str]:
    old, new = {one[0]: one for one in before}, {one[0]: one for one in now}
    yield from (f"{name} was not among the inputs" for name in new if name not in old)
    yield from (f"{name} is not among the inputs any more" for name in old if name not in new)
    yield from (f"{name} has changed since" for name in new if old[name] != new[name])
    if list(old) != list(new):
        yield "the inputs have another order"


def _shown(value: object) -> str:
    return json.dumps(value) if not isinstance(value, str) else value
