"""From settings to a trained run: threads, ranks, run folder, trainer.

run_dir/
  settings.yaml       the resolved settings
  provenance.json     command, versions, threads, ranks
  metrics.jsonl       one row a step
  outcome.json        how the newest start ended: see megadape.training.supervision.outcome
  heartbeats/         where each rank stands
  stacks/             of all ranks, after a hang
  profile/            of the steps that settings name: see megadape.training.profiling
  checkpoints/        see megadape.checkpoint.manifest
  evaluation/         written by megadape evaluate
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from datetime import timedelta
from pathlib import Path

import torch

from megadape.errors import MegadapeError, TrainingError
from megadape.machine import choose_threads, keep_freed_memory, versions
from megadape.parallel.failure import ending_together
from megadape.parallel.mesh import Mesh, Place, open_mesh
from megadape.training.accelerator import prepare_allocator, prepare_products
from megadape.training.loop import Trainer
from megadape.training.protocols import Reporter, Run
from megadape.training.supervision.outcome import Outcome, State, make_outcome, write_outcome
from megadape.training.supervision.stop import Stopper, StopSignals
from megadape.training.supervision.watchdog import Watchdog


def train(run: Run, settings_text: str, reporter: Reporter, stop_after_steps: int | None = None) -> Outcome:
    """Train a run, or go on with it, on the ranks that a launcher started (or on one).

    Args:
        run: settings.
        settings_text: the same as YAML, kept in the run folder.
        reporter: hears on the first rank.
        stop_after_steps: stop, saved, after so many steps of this start.

    Returns:
        How it ended, the same on all ranks; the first has written it to run_dir/outcome.json.
    """
    started = time.monotonic()
    place = Place.from_environment()
    threads = choose_threads(int(os.environ.get("LOCAL_WORLD_SIZE", place.world)))
    torch.set_num_threads(threads)
    keep_freed_memory()
    prepare_allocator()
    joined = open_mesh(
        place,
        tp=run.parallel.tp,
        pp=run.parallel.pp,
        process_group=run.training.engine == "deepspeed",
        timeout=timedelta(minutes=run.parallel.timeout_minutes),
    )
    # signals first: joining takes its time, and one that comes meanwhile stops the run at its first step
    with StopSignals() as signals, ending_together(place.rank, place.world), joined as mesh:
        accelerator = prepare_products(mesh.device)
        trainer = Trainer(run, mesh, reporter)
        if mesh.is_first:
            facts = {
                "threads": threads,
                "kernels": trainer.kernels,
                "parameters": trainer.parameters,
                "flops_per_token": {"plain": trainer.flops.plain, "mixing": trainer.flops.mixing},
                "peak_flops": trainer.peak_flops,
                "accelerator": accelerator,
            }
            prepare_run_folder(run.run_dir, settings_text, mesh, facts)
            reporter.message(f"{threads} thread{'s' * (threads > 1)} a rank (set OMP_NUM_THREADS for another number)")
        return fit(trainer, signals, started, stop_after_steps)


def fit(trainer: Trainer, signals: StopSignals, started: float, stop_after_steps: int | None) -> Outcome:
    """Train, watched, and say how it ended."""
    run, mesh, progress = trainer.run, trainer.mesh, trainer.progress

    def conclude(state: State, reason: str) -> Outcome:
        if mesh.is_first:
            return write_outcome(run.run_dir, state, progress.step, reason)
        return make_outcome(state, progress.step, reason)

    def report(finding: str) -> None:
        write_outcome(run.run_dir, "failed", progress.step, finding)

    conclude("running", "")
    try:
        with Watchdog(run.watch, run.run_dir, mesh, progress.step, report) as watchdog:
            stopper = Stopper(run.stop, run.run_dir, mesh, signals, started=started)
            stopped = trainer.fit(stopper, watchdog, stop_after_steps)
    except BaseException as error:
        if not isinstance(error, KeyboardInterrupt):  # that leaves "running": nothing was saved, nothing is wrong
            with suppress(MegadapeError):  # the disk may be what failed
                conclude("failed", f"{type(error).__name__}: {error}")
        raise
    if stopped is None:
        return conclude("done", f"all {progress.step} steps are made")
    trainer.reporter.message(f"stopped after step {progress.step}: {stopped}; the same command goes on")
    return conclude("resumable", stopped)


def prepare_run_folder(folder: Path, settings_text: str, mesh: Mesh, more: Mapping[str, object]) -> None:
    """Make the run folder and write what made it."""
    provenance = {
        "command": sys.argv,
        "versions": versions(),
        "ranks": mesh.place.world,
        "layout": {"tp": mesh.tp.size, "pp": mesh.pp.size, "dp": mesh.dp.size},
        "device": str(mesh.device),
        **more,
    }
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "settings.yaml").write_text(settings_text)
        (folder / "provenance.json").write_text(json.dumps(provenance, indent=1))
    except OSError as error:
        raise TrainingError(f"run folder {folder} cannot be written: {error}") from error
