"""``megadape doctor``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def doctor(
    run_dir: Annotated[
        Path | None, typer.Option("--run", help="A run folder, there or not yet, that shall be written.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead, when all checks are made.")] = False,
) -> None:
    """Say what of this machine and installation is not fit for training, and what mends it; takes about half a minute.

    Looks at versions, compilers, processor and attention kernels, threads, memory, disk, open files, GPUs, apex and
    DeepSpeed, lets two processes meet, and trains a tiny model. Ends with 0 when there is no problem, else 1.

    Example: megadape doctor --run runs/demo
    """
    import json

    from megadape.console import open_console
    from megadape.doctor import report
    from megadape.doctor.base import Subject
    from megadape.doctor.examination import examine_all
    from megadape.doctor.registry import CHECKS

    console, findings = open_console(), []
    subject = Subject(Path("runs") if run_dir is None else run_dir, named=run_dir is not None)
    with console.status("looking around") as status:
        for finding in examine_all(CHECKS, subject, lambda name: status.update(f"looking at {name}")):
            findings.append(finding)
            if not as_json:
                report.show(console, finding)
    if as_json:
        typer.echo(json.dumps(report.as_json(findings), indent=1))
    else:
        console.print(report.summary(findings), markup=False)
    raise typer.Exit(1 if report.worst(findings) == "problem" else 0)
