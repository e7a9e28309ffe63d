"""Follows a run until it ends."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

from rich.console import Console
from rich.live import Live

from megadape.console import PLAIN_INTERVAL
from megadape.errors import MonitoringError
from megadape.monitoring.listing import is_run
from megadape.monitoring.rows import Follower
from megadape.monitoring.standing import Standing, look_at
from megadape.monitoring.view import ending, line, panel
from megadape.training.supervision.outcome import RESUMABLE

LOOK_SECONDS = 1.0
"""Between two looks at the folder."""


def watch(
    run_dir: Path,
    console: Console,
    *,
    once: bool = False,
    every: float = PLAIN_INTERVAL,
    draw: Callable[[], object] = lambda: None,
) -> int:
    """Show a run until it ends.

    Args:
        run_dir: its folder.
        console: a panel in a terminal, elsewhere a line now and then.
        once: show how it stands, and go.
        every: seconds between lines, and between drawings.
        draw: draws its curves.

    Returns:
        0 after one look; else the run's exit code, that of a killed run being RESUMABLE.

    Raises:
        MonitoringError: there is no such folder, or it is no run's.
    """
    if not run_dir.is_dir():
        raise MonitoringError(f"there is no run folder {run_dir}: megadape runs lists those that there are")
    if not (is_run(run_dir) or (run_dir / "settings.yaml").exists()):
        raise MonitoringError(f"{run_dir} is no run's folder: megadape runs {run_dir} lists those below it")
    follower = Follower(run_dir / "metrics.jsonl")
    if once:
        standing = _look(run_dir, follower)
        console.print(panel(standing, follower.rows))
        draw()
        return 0
    standing = _follow(run_dir, follower, console, every, draw)
    draw()
    console.print(ending(standing), markup=False)
    return RESUMABLE if standing.exit_code is None else standing.exit_code


def _look(run_dir: Path, follower: Follower) -> Standing:
    try:
        follower.update()
    except OSError:
        follower.rows = {}  # the standing says it
    return look_at(run_dir)


def _follow(run_dir: Path, follower: Follower, console: Console, every: float, draw: Callable[[], object]) -> Standing:
    standing, told = _look(run_dir, follower), ""
    spoken: float | None = None
    with Live(console=console, refresh_per_second=4) if console.is_terminal else nullcontext() as live:
        while True:
            if live is not None:
                live.update(panel(standing, follower.rows))
            if standing.ended:
                return standing
            now = time.monotonic()
            if spoken is None or now - spoken >= every:
                spoken = now
                draw()
                if live is None and line(standing) != told:
                    console.print(told := line(standing), markup=False)
            time.sleep(LOOK_SECONDS)
            standing = _look(run_dir, follower)
