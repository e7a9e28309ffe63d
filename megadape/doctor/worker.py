"""The process in which checks run: it is told the name of one, and answers with what that found, until nobody asks.

What checks print, or libraries, does not get between: questions and answers have a connection of their own.
"""

from __future__ import annotations

import json
import sys
import traceback
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from megadape.doctor.base import Check, Finding, Subject, bad, first_line
from megadape.doctor.registry import CHECKS


def serve(connection: Connection, subject: Subject) -> None:
    """Answer until the other end closes."""
    checks = {check.name: check for check in CHECKS}
    with suppress(EOFError, BrokenPipeError, ConnectionResetError):
        while True:
            name = connection.recv_bytes().decode()
            connection.send_bytes(json.dumps([asdict(finding) for finding in examine(checks[name], subject)]).encode())


def examine(check: Check, subject: Subject) -> list[Finding]:
    """Everything that a check finds; what it raises is a finding, too."""
    findings: list[Finding] = []
    try:
        findings.extend(check.look(subject))
    except (Exception, SystemExit) as error:
        place = traceback.extract_tb(error.__traceback__)[-1]
        seen = f"this check failed at {Path(place.filename).name}:{place.lineno}: {first_line(error)}"
        findings.append(bad(check.name, seen, "see the problems above; if there are none, report this as a bug"))
    return findings


def subject_of(words: Mapping[str, Any]) -> Subject:
    """From what stands in the command."""
    return Subject(Path(words["run_dir"]), bool(words["named"]))


if __name__ == "__main__":
    serve(Connection(int(sys.argv[1])), subject_of(json.loads(sys.argv[2])))
