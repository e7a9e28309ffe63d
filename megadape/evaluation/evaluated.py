"""All results of one evaluation of a run, and how they are found again. Needs no torch: studies read many.

Results belong to a plan: a checkpoint, the texts, and every setting that decides what is measured. They are found only
by who asks for the very same.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

from megadape.data import DataSettings
from megadape.errors import EvaluationError
from megadape.evaluation.results import Extrapolation, Passkey, PositionLosses, read_json
from megadape.evaluation.sets import text_sources
from megadape.evaluation.settings import EvaluationSettings
from megadape.evaluation.store import Store

CHECKPOINT_NAME = re.compile(r"step-(\d{8})(\.replaced)?")
STORE = Path("evaluation", "store")
"""Below a run's folder."""

NOT_DECISIVE = {"batch_tokens", "sets", "split"}
"""Settings that decide nothing, or that the texts' identities hold."""


@dataclass(frozen=True)
class Evaluated:
    """What was found about one checkpoint of a run."""

    step: int
    path: Path
    """Of the checkpoint."""
    extrapolations: Mapping[str, Extrapolation]
    """By evaluation set."""
    positions: Mapping[str, PositionLosses] = field(default_factory=dict)
    """By evaluation set; empty where not asked for."""
    passkey: Passkey | None = None
    named: bool = False
    """Whether there are several evaluation sets, or the settings name one: then files hold their names."""

    def to_json(self) -> dict[str, Any]:
        """What ``from_json`` takes; the checkpoint by its name."""
        return {**asdict(self), "path": self.path.name}

    @classmethod
    def from_json(cls, content: Mapping[str, Any], run_dir: Path) -> Evaluated:
        """From what ``to_json`` gave."""
        passkey = content["passkey"]
        return cls(
            content["step"],
            run_dir / "checkpoints" / Path(content["path"]).name,
            {name: Extrapolation.from_json(each) for name, each in content["extrapolations"].items()},
            {name: PositionLosses.from_json(each) for name, each in content["positions"].items()},
            None if passkey is None else Passkey.from_json(passkey),
            content["named"],
        )


def read_evaluated(run_dir: Path, data: DataSettings, settings: EvaluationSettings) -> Evaluated | None:
    """The results of the newest checkpoint, where they are complete.

    A checkpoint whose files are missing or cut short is passed over; one that only its digests betray is not, and
    evaluating the run anew tells. Where all checkpoints were removed, the results of the last one stand.

    Raises:
        DataError: a dataset, or its manifest, is missing.
    """
    plan, there = plan_digest(settings, data), checkpoints(run_dir)
    for checkpoint in there:
        store = open_store(run_dir, checkpoint)
        content = store.read_results(plan) if store is not None else None
        if content is not None:
            return Evaluated.from_json(content, run_dir)
        if looks_whole(checkpoint):
            return None
    kept = [] if there else [Store(folder).read_results(plan) for folder in run_dir.glob(f"{STORE}/step-*")]
    complete = [content for content in kept if content is not None]
    return Evaluated.from_json(max(complete, key=lambda one: int(one["step"])), run_dir) if complete else None


def plan_digest(settings: EvaluationSettings, data: DataSettings) -> str:
    """SHA-256 of what is measured, and on which texts."""
    texts = [source.identity() for source in text_sources(settings, data)]
    decisive = settings.model_dump(mode="json", exclude=NOT_DECISIVE)
    return sha256(json.dumps({"format": 1, "texts": texts, "settings": decisive}, sort_keys=True).encode()).hexdigest()


def open_store(run_dir: Path, checkpoint: Path) -> Store | None:
    """What was measured on a checkpoint of a run; None where it has no manifest that can be read."""
    digest = checkpoint_digest(checkpoint)
    return Store(run_dir / STORE / f"{checkpoint.name[:13]}-{digest[:16]}") if digest is not None else None


def checkpoint_digest(checkpoint: Path) -> str | None:
    """SHA-256 of everything in a checkpoint but the optimizer's part, as its manifest has it."""
    try:
        files = read_json(checkpoint / "manifest.json")["files"]
        own = {name: record["sha256"] for name, record in files.items() if not name.startswith("optimizer")}
    except (EvaluationError, KeyError, TypeError, AttributeError):
        return None
    return sha256(json.dumps(own, sort_keys=True).encode()).hexdigest()


def checkpoints(run_dir: Path) -> list[Path]:
    """The checkpoints of a run, newest first; some may be damaged."""
    folder = run_dir / "checkpoints"
    found = [path for path in folder.iterdir() if CHECKPOINT_NAME.fullmatch(path.name)] if folder.is_dir() else []
    # one that was replaced comes after the one that took its place
    return sorted(found, key=lambda path: (-int(path.name[5:13]), path.name))


def looks_whole(checkpoint: Path) -> bool:
    """Whether all files that a model needs are there, in their sizes."""
    try:
        files = read_json(checkpoint / "manifest.json")["files"]
        return all((checkpoint / name).stat().st_size == record["bytes"] for name, record in files.items())
    except (EvaluationError, OSError, KeyError, TypeError, AttributeError):
        return False
