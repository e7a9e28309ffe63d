"""The files of an evaluation, beside the run. Needs no torch.

    RUN/evaluation/fixed_target-step-300.json .csv     perplexity at every length; the mode names the file
    RUN/evaluation/positions-step-300.json .csv        loss by position
    RUN/evaluation/passkey-step-300.json .csv          passkey retrieval

Where there are several evaluation sets, or a set was given a name, its name ends the file's: all-step-300-books.json.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from itertools import pairwise
from pathlib import Path

from megadape.evaluation.evaluated import Evaluated
from megadape.evaluation.output import write_table, write_whole
from megadape.evaluation.results import Passkey, PositionLosses, write_results


def write_evaluated(evaluated: Evaluated, run_dir: Path) -> None:
    """Write everything that was found, each thing as JSON and CSV."""
    folder = run_dir / "evaluation"
    for name, results in evaluated.extrapolations.items():
        write_results(results, folder, file_name(evaluated, results.mode, name))
    for name, losses in evaluated.positions.items():
        write_positions(losses, folder, file_name(evaluated, "positions", name))
    if evaluated.passkey is not None:
        write_passkey(evaluated.passkey, folder, file_name(evaluated, "passkey"))


def file_name(evaluated: Evaluated, kind: str, name: str | None = None) -> str:
    """Of the file of a kind of result (a mode, positions, passkey) on an evaluation set, without its ending."""
    return f"{kind}-step-{evaluated.step}" + (f"-{name}" if evaluated.named and name else "")


def write_positions(losses: PositionLosses, folder: Path, name: str) -> None:
    """Write NAME.json and NAME.csv, a row a stretch of positions [first, end)."""
    write_whole(folder / f"{name}.json", json.dumps(asdict(losses), indent=1))
    rows = [(first, end, loss) for (first, end), loss in zip(pairwise(losses.edges), losses.losses, strict=True)]
    write_table(folder / f"{name}.csv", ["first", "end", "loss"], rows)


def write_passkey(passkey: Passkey, folder: Path, name: str) -> None:
    """Write NAME.json and NAME.csv, a row a length and depth."""
    write_whole(folder / f"{name}.json", json.dumps(asdict(passkey), indent=1))
    columns = ["length", "depth", "trials", "likelihood", "exact", "key_loss"]
    rows = [[getattr(place, column) for column in columns] for place in passkey.places]
    write_table(folder / f"{name}.csv", columns, rows)
