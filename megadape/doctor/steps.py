"""Whether a whole training works here: text, dataset, model, one update, checkpoint; with torch and with DeepSpeed."""

from __future__ import annotations

import math
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from megadape.doctor.base import Finding, Subject, bad, fine, first_line
from megadape.doctor.packages import remedy_for

TINY = {
    "model.num_layers": 1,
    "model.hidden_size": 32,
    "model.num_heads": 4,
    "positions.kind": "kerple_log",
    "mixer.kind": "dape",
    "training.steps": 1,
    "training.sequence_length": 32,
    "training.global_batch_size": 2,
    "training.micro_batch_size": 1,
}


class Listener:
    """A reporter that keeps what it hears."""

    def __init__(self) -> None:
        self.rows: list[Mapping[str, Any]] = []

    def message(self, text: str) -> None:
        """Passed over."""

    def step(self, row: Mapping[str, Any], steps: int) -> None:
        """Kept."""
        self.rows.append(row)


def look_at_training(subject: Subject) -> Iterator[Finding]:
    """One update of a tiny DAPE model with the engine torch."""
    yield _train("training", "torch", {})


def look_at_deepspeed_training(subject: Subject) -> Iterator[Finding]:
    """The same with DeepSpeed and ZeRO 1."""
    yield _train("deepspeed training", "deepspeed", {"training.engine": "deepspeed", "parallel.zero": 1})


def _train(name: str, package: str, more: Mapping[str, object]) -> Finding:
    from megadape.config import dump_yaml, load
    from megadape.data import preprocess_files
    from megadape.errors import MegadapeError
    from megadape.training.launch import train

    listener, started = Listener(), time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        run_dir, prefix = Path(folder, "run"), Path(folder, "text")
        keys = {**TINY, "run_dir": run_dir, "data.prefix": prefix, **more}
        try:
            preprocess_files([Path(__file__)], prefix, tokenizer="byte", append_eod=True, text_suffixes=(".py",))
            run = load([], [f"{key}={value}" for key, value in keys.items()])
            outcome = train(run, dump_yaml(run), listener)
        except MegadapeError as error:
            return bad(name, first_line(str(error)), "as it says")
        except Exception as error:
            seen = f"a tiny model does not train: {first_line(error)}"
            return bad(name, seen, f"see the problems above; if there are none, {remedy_for(package)}")
    (row,) = listener.rows
    if outcome.state != "done" or row["loss"] is None or not math.isfinite(row["loss"]):
        return bad(name, f"a tiny model's first loss is {row['loss']} ({outcome.reason})", remedy_for(package))
    seconds = time.monotonic() - started
    return fine(name, f"one update and a checkpoint of a tiny model in {seconds:.1f} s, loss {row['loss']:.3f}")
