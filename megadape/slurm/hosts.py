"""Slurm's lists of nodes, such as ``gpu-a[001-003,007],b[1-2]``, without Slurm: containers often have no scontrol."""

from __future__ import annotations

import re
from collections.abc import Iterator

from megadape.errors import SlurmError

_NAME = r"[A-Za-z0-9_.-]"
_RANGES = r"\[\d+(?:-\d+)?(?:,\d+(?:-\d+)?)*\]"
_ITEM = re.compile(rf"(?!-)(?:{_NAME}+|(?:{_NAME}*{_RANGES})+)")
_PART = re.compile(rf"({_NAME}+)|({_RANGES})")
_SEPARATOR = re.compile(r",(?![^\[]*\])")

MAX_HOSTS = 65536
"""Slurm's own bound on a range; a longer list is a slip of the pen."""


def expand_hosts(text: str) -> tuple[str, ...]:
    """The nodes of a list, in its order, as ``scontrol show hostnames`` prints them.

    Args:
        text: names with commas between them, each with any number of bracketed ranges; numbers keep their leading
            zeros.

    Raises:
        SlurmError: it is no such list.
    """
    hosts: list[str] = []
    for item in filter(None, _SEPARATOR.split(text.strip())):
        if not _ITEM.fullmatch(item):
            raise SlurmError(f"{text!r} is no list of nodes: write them as gpu-a[001-003,007],b[1-2]")
        names = [""]
        for match in _PART.finditer(item):
            endings = [match[1]] if match[1] else list(_numbers(match[2][1:-1], text))
            if len(hosts) + len(names) * len(endings) > MAX_HOSTS:
                raise SlurmError(f"{text!r} names more than {MAX_HOSTS:,} nodes")
            names = [name + ending for name in names for ending in endings]
        hosts += names
    if not hosts:
        raise SlurmError(f"{text!r} names no node: write them as gpu-a[001-003,007],b[1-2]")
    return tuple(hosts)


def _numbers(ranges: str, text: str) -> Iterator[str]:
    for part in ranges.split(","):
        first, _, last = part.partition("-")
        low, high = int(first), int(last or first)
        if low > high:
            raise SlurmError(f"{text!r}: the range {part} ends before it begins")
        if high - low >= MAX_HOSTS:
            raise SlurmError(f"{text!r} names more than {MAX_HOSTS:,} nodes")
        yield from (f"{number:0{len(first)}d}" for number in range(low, high + 1))
