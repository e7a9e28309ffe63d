"""How runs to look at are made, in this process or by the command."""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def keys(run_dir: Path, corpus: Path, *more: str) -> list[str]:
    return [
        f"run_dir={run_dir}",
        f"data.prefix={corpus}",
        "data.split=80,20",
        "model.num_layers=1",
        "model.hidden_size=16",
        "model.num_heads=2",
        "training.sequence_length=16",
        "training.global_batch_size=4",
        "training.micro_batch_size=2",
        "watch.interval_seconds=0.2",
        *more,
    ]


FILES = [str(ROOT / "configs/models/demo.yaml"), str(ROOT / "configs/positions/dape_kerple.yaml")]


def train_tiny(run_dir: Path, corpus: Path, *more: str, stop_after_steps: int | None = None) -> Path:
    from megadape.config import dump_yaml, load
    from megadape.testing import Silent
    from megadape.training.launch import train

    run = load(FILES, keys(run_dir, corpus, *more))
    train(run, dump_yaml(run), Silent(), stop_after_steps)
    return run_dir


def command(run_dir: Path, corpus: Path, *more: str) -> list[str]:
    words = [word for key in keys(run_dir, corpus, *more) for word in ("--set", key)]
    return [sys.executable, "-m", "megadape", "train", *FILES, *words]
