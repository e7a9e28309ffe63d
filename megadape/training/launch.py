"""From settings to a trained run: threads, ranks, run folder, trainer.

run_dir/
  settings.yaml       the resolved settings
  provenance.json     command, versions, threads, ranks
  metrics.jsonl       one row a step
  checkpoints/        see megadape.checkpoint.store
  evaluation/         written by megadape evaluate
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path

import torch

from megadape.errors import TrainingError
from megadape.machine import choose_threads, keep_freed_memory, versions
from megadape.parallel.failure import ending_together
from megadape.parallel.mesh import Mesh, Place, open_mesh
from megadape.training.loop import Trainer
from megadape.training.protocols import Reporter, Run


def train(run: Run, settings_text: str, reporter: Reporter, stop_after_steps: int | None = None) -> None:
    """Train a run, or go on with it, on the ranks that a launcher started (or on one).

    Args:
        run: settings.
        settings_text: the same as YAML, kept in the run folder.
        reporter: hears on the first rank.
        stop_after_steps: stop, saved, after so many steps of this start.
    """
    place = Place.from_environment()
    threads = choose_threads(int(os.environ.get("LOCAL_WORLD_SIZE", place.world)))
    torch.set_num_threads(threads)
    keep_freed_memory()
    joined = open_mesh(
        place,
        tp=run.parallel.tp,
        pp=run.parallel.pp,
        process_group=run.training.engine == "deepspeed",
        timeout=timedelta(minutes=run.parallel.timeout_minutes),
    )
    with ending_together(place.rank, place.world), joined as mesh:
        trainer = Trainer(run, mesh, reporter)
        if mesh.is_first:
            prepare_run_folder(run.run_dir, settings_text, mesh, {"threads": threads, "kernels": trainer.kernels})
            reporter.message(f"{threads} thread{'s' * (threads > 1)} a rank (set OMP_NUM_THREADS for another number)")
        trainer.fit(stop_after_steps)


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
