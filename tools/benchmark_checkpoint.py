"""How long training waits for a checkpoint of the 125M model, written at once and in the background.

    python tools/benchmark_checkpoint.py --rounds 5
    torchrun --nproc-per-node 2 tools/benchmark_checkpoint.py --tp 2

Parameters, and both moments of Adam, in float32: 1.9 GB. The modes take turns, so that a busy disk slows both. The
first save in the background also gets its memory; it is listed apart. On one rank the state is the model's own memory,
which the sync form writes without a copy: the figures are those of the checkpoint alone, without an engine's gathering.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from megadape.checkpoint.settings import CheckpointSettings
from megadape.checkpoint.writer import CheckpointWriter
from megadape.config import load
from megadape.console import make_table, open_console
from megadape.evaluation.output import write_table
from megadape.model import build_gpt
from megadape.parallel.mesh import Mesh, Place, open_mesh
from megadape.parallel.sharding import Sharding
from megadape.parameters import ParameterSpec, parameter_table

ROOT = Path(__file__).parents[1]
CONFIGS = ("configs/models/125M.yaml", "configs/positions/dape_kerple.yaml")
MODES = {"sync": False, "async": True}
COLUMNS = ("mode", "round", "training waits (s)", "until it counts (s)", "MiB", "MiB/s")


@dataclass(frozen=True)
class State:
    """What is saved."""

    table: dict[str, ParameterSpec]
    parameters: dict[str, Tensor]
    moments: dict[str, dict[str, Tensor]]


def make_state(mesh: Mesh, files: tuple[str, ...]) -> State:
    """This rank's part of the model, and moments that are no zeros (a disk may compress)."""
    unused = ["run_dir=unused", "data.prefix=unused"]
    architecture = load([ROOT / file for file in files], unused).architecture
    model = build_gpt(architecture, seed=1, device=mesh.device, sharding=Sharding(mesh.tp))
    parameters = {name: parameter.detach() for name, parameter in model.named_parameters()}
    moments = {
        moment: {name: torch.randn_like(tensor) for name, tensor in parameters.items()}
        for moment in ("exp_avg", "exp_avg_sq")
    }
    return State(parameter_table(model), parameters, moments)


def measure(mesh: Mesh, folder: Path, state: State, rounds: int) -> list[list[object]]:
    """Rows of ``COLUMNS``."""
    writers = {}
    for mode, asynchronous in MODES.items():
        settings = CheckpointSettings(asynchronous=asynchronous, keep=1)
        writers[mode] = CheckpointWriter(folder / mode, mesh, settings)
        writers[mode].take_over()
    rows: list[list[object]] = []
    for number in range(rounds + 1):
        for mode, writer in writers.items():
            mesh.barrier()
            started = time.perf_counter()
            saved = writer.save(number + 1, state.parameters, state.moments, state.table, {"step": number + 1})
            pause = time.perf_counter() - started
            saved = saved or writer.finish()
            assert saved is not None
            size = saved.bytes / 2**20
            rows.append(
                [
                    mode,
                    number or "first",
                    round(pause, 3),
                    round(saved.seconds, 3),
                    round(size),
                    round(size / saved.seconds),
                ]
            )
    return rows


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="saves of each mode, after a first one")
    parser.add_argument("--tp", type=int, default=1, help="tensor-parallel ranks")
    parser.add_argument(
        "--folder", type=Path, default=Path("benchmark-checkpoint"), help="where to write; removed after"
    )
    parser.add_argument("--settings", nargs="+", default=CONFIGS, help="settings files of the model")
    parser.add_argument("--out", type=Path, default=None, help="folder for the table as CSV")
    arguments = parser.parse_args()
    console = open_console()
    with open_mesh(Place.from_environment(), tp=arguments.tp) as mesh:
        if mesh.place.world > 1 and mesh.device.type == "cpu":
            torch.set_num_threads(1)
        try:
            rows = measure(mesh, arguments.folder, make_state(mesh, tuple(arguments.settings)), arguments.rounds)
            mesh.barrier()
        finally:
            if mesh.is_first:
                shutil.rmtree(arguments.folder, ignore_errors=True)
        if not mesh.is_first:
            return
        console.print(make_table("saving", COLUMNS, [[str(one) for one in row] for row in rows]))
        pauses = {
            mode: statistics.median(float(str(row[2])) for row in rows if row[0] == mode and row[1] != "first")
            for mode in MODES
        }
        share = pauses["async"] / pauses["sync"]
        console.print(
            f"median pause: {pauses['sync']:.2f} s at once, {pauses['async']:.2f} s in the background "
            f"({share:.0%} of it; {'at most' if share <= 0.2 else 'MORE than'} a fifth)"
        )
        if arguments.out is not None:
            write_table(arguments.out / "checkpoint.csv", COLUMNS, rows)


if __name__ == "__main__":
    main()
