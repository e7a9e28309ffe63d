"""What a piece of work is: everything that its bytes depend on, so that no other work is gone on with.

The number of workers is no part of it. How bad lines are treated is, once one was met.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

from megadape.data.preprocessing.settings import PreprocessSettings
from megadape.data.reading.plan import Plan
from megadape.data.reading.shares import Share
from megadape.data.tokenizers import Tokenizer

WHOLE = "the whole corpus"
"""The work of a process that does all of it; other work is a part, or the merging of parts."""

VERSION = 1
"""Of the way in which documents are read and cut; a change of it makes other bytes, or other blocks."""

_POLICY = ("on_bad_line", "max_bad_lines")
_CUTS = ("block_bytes", "shard_bytes")
_OPTIONS = (
    "json_keys",
    "where",
    "document_separator",
    "append_eod",
    "skip_undecodable",
    "max_line_bytes",
    *_CUTS,
    *_POLICY,
)


def identify(settings: PreprocessSettings, plan: Plan, tokenizer: Tokenizer, work: str = WHOLE) -> dict[str, object]:
    """Everything that the bytes of the datasets depend on, and which work on them this is, as JSON keeps it."""
    options = settings.model_dump(mode="json", include=set(_OPTIONS))
    sources = [[source.name, source.format, source.size, source.identity] for source in plan.sources]
    identity: dict[str, object] = {
        "version": VERSION,
        "work": work,
        "tokenizer": f"{tokenizer.name}, digest {tokenizer.digest}",
        **{name: options[name] for name in _OPTIONS},
        "inputs": hashlib.sha256(json.dumps(sources).encode()).hexdigest(),
        "sources": sources,
    }
    return json.loads(json.dumps(identity))


def identify_part(identity: Mapping[str, Any], part: str, share: Share) -> dict[str, object]:
    """What one part of a piece of work is: it names its own sources, of the others it has the digest.

    Args:
        identity: of the work.
        part: which part.
        share: of the corpus.
    """
    own = identity["sources"][share.first_source : share.ended + 1]
    return {**identity, "work": part, "partial": True, "sources": own}


def find_difference(
    before: Mapping[str, Any], now: Mapping[str, Any], *, met_bad_lines: bool, apart_from: Collection[str] = ()
) -> str | None:
    """In which way two pieces of work differ, in words; None when they do not.

    Args:
        before: the work that was begun.
        now: the work that is asked for.
        met_bad_lines: whether the work that was begun depends on how bad lines are treated.
        apart_from: what may differ.
    """
    passed = ("inputs", "sources", *apart_from, *(() if met_bad_lines else _POLICY))
    return next(_differences({"work": WHOLE, **before}, now, passed), None)


def _differences(before: Mapping[str, Any], now: Mapping[str, Any], passed: Collection[str]) -> Iterator[str]:
    """All of them; the size of blocks and shards last, since for parts it follows from the inputs."""
    differing = [name for name in now if name not in passed and before.get(name) != now[name]]
    said = {name: f"{name} was {_shown(before.get(name))} and is {_shown(now[name])}" for name in differing}
    yield from (said[name] for name in differing if name not in _CUTS)
    if before.get("inputs") != now["inputs"]:
        differ = _changed_sources if now.get("partial") else _differing_sources
        yield from differ(before.get("sources", []), now["sources"])
    yield from (said[name] for name in differing if name in _CUTS)


def _differing_sources(before: Sequence[Sequence[Any]], now: Sequence[Sequence[Any]]) -> Iterator[str]:
    old, new = {one[0]: one for one in before}, {one[0]: one for one in now}
    yield from (f"{name} was not among the inputs" for name in new if name not in old)
    yield from (f"{name} is not among the inputs any more" for name in old if name not in new)
    yield from (f"{name} has changed since" for name in new if old[name] != new[name])
    if list(old) != list(new):
        yield "the inputs have another order"


def _changed_sources(before: Sequence[Sequence[Any]], now: Sequence[Sequence[Any]]) -> Iterator[str]:
    """When some of the inputs are known by name, and all of them by their digest, which differs."""
    old = {one[0]: one for one in before}
    yield from (f"{one[0]} has changed since" for one in now if old.get(one[0], one) != one)
    yield "some of the inputs were added, removed or changed since"


def _shown(value: object) -> str:
    return json.dumps(value) if not isinstance(value, str) else value
