"""What ``sbatch --test-only`` does not see in a script."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

from megadape.errors import SlurmError

_DIRECTIVE = re.compile(r"#SBATCH\s+(?P<option>--?[A-Za-z][A-Za-z-]*)(?:[=\s]+(?P<value>.*\S))?\s*")
_NEARLY = re.compile(r"\s*#(\s*SBATCH|sbatch)\b")
_SHORT = {"-J": "--job-name", "-N": "--nodes", "-o": "--output", "-t": "--time", "-p": "--partition", "-A": "--account"}

NEEDED = {
    "--signal": (re.compile(r"[BR]*B[BR]*:USR1@\d+"), "B:USR1@SECONDS, or nothing is saved at the time limit"),
    "--open-mode": (re.compile(r"append"), "append, or the log is lost at every new start"),
    "--requeue": (re.compile(r""), "given, or the job does not survive a preemption"),
}
"""Options without which the scripts do not do what they say."""


def lint(text: str, folder: Path) -> list[str]:
    """What is wrong with a script, each with its line.

    Args:
        text: the script.
        folder: from which it is submitted.
    """
    return list(_problems(text, folder))


def _problems(text: str, folder: Path) -> Iterator[str]:
    lines = text.split("\n")
    if not lines[0].startswith("#!"):
        yield "line 1: a script begins with #!/usr/bin/env bash"
    if "\r" in text:
        yield "it has carriage returns: save it with the line ends of Unix"
    given: dict[str, str] = {}
    commands = False
    for number, line in enumerate(lines, 1):
        commands |= bool(line.strip()) and not line.lstrip().startswith("#")
        if not _NEARLY.match(line):
            continue
        match = _DIRECTIVE.fullmatch(line)
        if match is None:
            yield f"line {number}: {line.strip()!r} is no directive: write #SBATCH --option=value, unindented"
            continue
        option = _SHORT.get(match["option"], match["option"])
        if commands:
            yield f"line {number}: {line!r} stands below a command, where sbatch does not read it"
        elif given.setdefault(option, match["value"] or "") != (match["value"] or ""):
            yield f"line {number}: {option} is given twice"
    for option, (pattern, wanted) in NEEDED.items():
        if option not in given or not pattern.fullmatch(given[option]):
            yield f"{option} must be {wanted}"
    log = folder / given.get("--output", "")
    if "%" not in str(log.parent) and not log.parent.is_dir():
        yield f"--output: there is no folder {log.parent}, and Slurm makes none: the job would end without a word"


def check_script(text: str, folder: Path) -> None:
    """Lint a script, and let bash read it.

    Raises:
        SlurmError: with all that is wrong.
    """
    problems = lint(text, folder)
    try:
        done = subprocess.run(["bash", "-n"], input=text, capture_output=True, text=True, timeout=60, check=False)
    except OSError as error:
        raise SlurmError(f"bash, which is to read the script, does not start: {error.strerror}") from error
    problems += [f"bash: {line}" for line in done.stderr.splitlines()]
    if problems:
        raise SlurmError("the script cannot be submitted: " + "\n  ".join(problems))
