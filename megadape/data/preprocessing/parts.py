"""Parts of a preprocessing: how they are named, and where each grows until they are merged.

``.NAME.parts`` beside the prefix has a folder for every part, ``2-of-8`` for example: the ids and lengths of each key
and the bad records of its share of the plan, and a journal whose last mark says when it is complete. The folders are
hidden so that no other part takes what is in them for texts.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from megadape.data.preprocessing.settings import PreprocessSettings
from megadape.data.preprocessing.staging import Staging
from megadape.errors import DataError

BAD_RECORDS = "bad.jsonl"
"""Name of a part's file of bad records."""

MOST = 100_000
"""Parts that there may be: more than any array of jobs has tasks."""


@dataclass(frozen=True)
class Part:
    """One of so many parts, counted from 1; ``DataError`` for numbers that name none."""

    number: int
    of: int

    def __post_init__(self) -> None:
        if not 1 <= self.of <= MOST:
            raise DataError(f"there can be 1 to {MOST} parts, not {self.of}")
        if not 1 <= self.number <= self.of:
            raise DataError(f"there is no part {self.number} of {self.of}: parts are counted from 1 to {self.of}")

    @classmethod
    def parse(cls, given: str) -> Self:
        """From ``I/N``."""
        match = re.fullmatch(r"([0-9]+)/([0-9]+)", given)
        if match is None:
            raise DataError(f"--part {given} is not I/N, such as 2/8 for the second of eight parts")
        return cls(int(match[1]), int(match[2]))

    def __str__(self) -> str:
        return f"part {self.number} of {self.of}"


def key_name(number: int) -> str:
    """Name of a part's pair of one key, by the key's number: datasets may be named in several ways."""
    return f"key-{number}"


def all_parts(count: int) -> list[Part]:
    """So many parts, in order."""
    return [Part(number, count) for number in range(1, count + 1)]


def parts_folder(settings: PreprocessSettings) -> Path:
    """Where the parts of a preprocessing are."""
    return settings.prefix.with_name(f".{settings.prefix.name}.parts")


def part_staging(settings: PreprocessSettings, part: Part) -> Staging:
    """Where one part grows."""
    folder = parts_folder(settings) / f"{part.number}-of-{part.of}"
    return Staging(settings.prefix, folder, f"{part} of {settings.prefix}")
