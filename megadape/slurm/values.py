"""What may stand in a script: every value of a site is of one of these kinds.

None of them can hold a space, a line break, a quote, a dollar sign, a backslash or a control character, so that no
value can end a directive or begin a command, even before it is quoted.
"""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import AfterValidator

from megadape.errors import SlurmError
from megadape.slurm.hosts import expand_hosts


def _matching(pattern: str, what: str) -> AfterValidator:
    compiled = re.compile(pattern)

    def check(text: str) -> str:
        if not compiled.fullmatch(text):
            raise ValueError(f"{text!r} is no {what}: it must match {pattern}")
        return text

    return AfterValidator(check)


def _check_hosts(text: str) -> str:
    if any(character.isspace() for character in text):
        raise ValueError(f"{text!r} is no list of nodes: it holds blanks")
    try:
        expand_hosts(text)
    except SlurmError as error:
        raise ValueError(str(error)) from error
    return text


Word = Annotated[str, _matching(r"[A-Za-z0-9_][A-Za-z0-9_.@+-]*", "name of Slurm")]
"""An account, a quality of service, a reservation, a job's name."""

Words = Annotated[str, _matching(r"[A-Za-z0-9_][A-Za-z0-9_.@+-]*(,[A-Za-z0-9_][A-Za-z0-9_.@+-]*)*", "list of names")]
"""Names with commas between them: partitions."""

Constraint = Annotated[str, _matching(r"[A-Za-z0-9_(\[][A-Za-z0-9_.&|*()\[\],:-]*", "constraint of Slurm")]
"""Features of nodes, such as h100&ib."""

Hosts = Annotated[str, AfterValidator(_check_hosts)]
"""A list of nodes."""

Memory = Annotated[str, _matching(r"\d+[KMGT]?", "amount of memory")]
"""As sbatch --mem takes it; 0: all of the node's."""

Module = Annotated[str, _matching(r"[A-Za-z0-9_][A-Za-z0-9_./+-]*", "module")]
"""As ``module load`` takes it."""

FilePath = Annotated[str, _matching(r"[A-Za-z0-9_./][A-Za-z0-9_./@+=,-]*", "path that a script can hold")]
"""A file or folder; of plain characters, so that it never needs a quote."""

Image = Annotated[str, _matching(r"[A-Za-z0-9_./][A-Za-z0-9_./:@#+-]*", "container image")]
"""A file, or the address of a registry."""

Mount = Annotated[
    str, _matching(r"/[A-Za-z0-9_./@+=-]*(:/[A-Za-z0-9_./@+=-]*(:[a-z]+)?)?", "mount (/there, /there:/here, ...:ro)")
]
"""A folder of the node, where it is seen in the container, and flags."""

Variable = Annotated[str, _matching(r"[A-Za-z_][A-Za-z0-9_]*", "name of a variable")]
"""Of the environment."""

VariableValue = Annotated[str, _matching(r"[A-Za-z0-9_./:@%+=,^-]*", "value that a script can hold")]
"""Of a variable."""

LogName = Annotated[str, _matching(r"[A-Za-z0-9_./%][A-Za-z0-9_./%+-]*", "name of a log file")]
"""With sbatch's own patterns, such as %x-%j.log."""
