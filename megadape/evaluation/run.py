"""Evaluate a run: its newest checkpoint on texts that it was not trained on."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch

from megadape.data import DataSettings
from megadape.errors import CheckpointError
from megadape.evaluation.by_position import PositionPlan, plan_positions
from megadape.evaluation.evaluated import Evaluated, open_store, plan_digest, read_evaluated
from megadape.evaluation.extrapolation import ExtrapolationPlan, evaluate_lengths, plan_extrapolation
from megadape.evaluation.files import write_evaluated
from megadape.evaluation.passkey.plan import PasskeyPlan, plan_passkey
from megadape.evaluation.pieces import Piece, Progress, Worker, measure_all
from megadape.evaluation.restore import RestoredModel, restore_model
from megadape.evaluation.results import Extrapolation
from megadape.evaluation.sets import EvaluationText, TextSource, open_text, require_known_tokens, text_sources
from megadape.evaluation.settings import EvaluationSettings
from megadape.evaluation.store import Measured, Store
from megadape.machine import keep_freed_memory
from megadape.parallel.group import ALONE, Group
from megadape.parallel.mesh import Mesh, Place

__all__ = ["EvaluationText", "evaluate_all", "evaluate_run", "open_text"]


def evaluate_all(
    run_dir: Path,
    data: DataSettings,
    settings: EvaluationSettings,
    progress: Progress | None = None,
    mesh: Mesh | None = None,
) -> Evaluated:
    """Measure all that the settings ask for on a run's newest valid checkpoint, and write it beside the run.

    What was measured before is not measured again: neither after a kill, nor where other settings asked for the same.

    Args:
        run_dir: the run's folder.
        data: the run's data, which the evaluation sets are divided like, or are.
        settings: what to measure.
        progress: told (tokens fed, tokens to feed) of this rank.
        mesh: ranks that share the work; each returns the same results, the first one writes. Default: this process
            alone.

    Raises:
        EvaluationError: a text is empty, too short, or written by another tokenizer.
        CheckpointError: there is none to evaluate.
        DataError: a dataset is missing.
    """
    group = ALONE if mesh is None else mesh.world
    known = read_evaluated(run_dir, data, settings) if group.rank == 0 else None
    evaluated: Evaluated | None = group.gather_objects(known)[0]
    if evaluated is None:
        sources = text_sources(settings, data)
        texts = {source.name: open_text(source.data, settings, source.split) for source in sources}
        plan = make_plan(settings, sources, texts)
        restored, worker = open_worker(run_dir, mesh, texts.values())
        store = open_common_store(run_dir, restored, group)
        evaluated = plan.collect(measure_plan(plan, worker, store, progress), restored)
        if group.rank == 0:
            store.write_results(plan_digest(settings, data), evaluated.to_json())
    elif progress is not None:
        progress(1, 1)
    if group.rank == 0:
        write_evaluated(evaluated, run_dir)
    return evaluated


@dataclass(frozen=True)
class Plan:
    """Everything that is to be measured."""

    extrapolations: Mapping[str, ExtrapolationPlan]
    """By evaluation set."""
    positions: Mapping[str, PositionPlan] = field(default_factory=dict)
    """By evaluation set."""
    passkey: PasskeyPlan | None = None
    named: bool = False
    """See ``Evaluated``."""

    def series(self) -> list[list[list[Piece]]]:
        """Of each part, in a fixed order."""
        by_length = [part.series() for part in self.extrapolations.values()]
        by_position = [part.series() for part in self.positions.values()]
        return by_length + by_position + ([self.passkey.series()] if self.passkey is not None else [])

    def collect(self, measured: Sequence[Sequence[Sequence[Measured]]], restored: RestoredModel) -> Evaluated:
        """The results, from what the parts gave in that order."""
        left = iter(measured)
        length = restored.training_length
        return Evaluated(
            restored.step,
            restored.path,
            {name: part.collect(next(left), length) for name, part in self.extrapolations.items()},
            {name: part.collect(next(left)) for name, part in self.positions.items()},
            self.passkey.collect(next(left), length) if self.passkey is not None else None,
            self.named,
        )


def make_plan(settings: EvaluationSettings, sources: Sequence[TextSource], texts: Mapping[str, EvaluationText]) -> Plan:
    """Lay out everything before anything is measured.

    Raises:
        EvaluationError: a text is too short.
    """
    first = sources[0]
    return Plan(
        {name: plan_extrapolation(text, settings) for name, text in texts.items()},
        {name: plan_positions(text, settings) for name, text in texts.items()} if settings.positions else {},
        plan_passkey(first, texts[first.name], settings) if settings.passkey else None,
        named=settings.sets is not None or len(texts) > 1,
    )


def measure_plan(
    plan: Plan, worker: Worker, store: Store | None = None, progress: Progress | None = None
) -> list[list[list[Measured]]]:
    """What the pieces of each part gave; a collective."""
    parts = plan.series()
    measured = iter(measure_all([series for part in parts for series in part], worker, store, progress))
    return [[next(measured) for _ in part] for part in parts]


def open_worker(run_dir: Path, mesh: Mesh | None, texts: Iterable[EvaluationText]) -> tuple[RestoredModel, Worker]:
    """Restore a run's model on this rank; ``EvaluationError`` if it does not know a token of the texts."""
    keep_freed_memory()
    if mesh is None:
        mesh = Mesh(Place(), torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    restored = restore_model(run_dir, mesh.device)
    for text in texts:
        require_known_tokens(text, restored.model.settings.vocab_size or 0, run_dir)
    return restored, Worker(restored.model, mesh.device, mesh.world)


def open_common_store(run_dir: Path, restored: RestoredModel, group: Group) -> Store:
    """The store of the checkpoint that all ranks have restored.

    Raises:
        CheckpointError: it is gone, or they have restored different ones; the run goes on meanwhile.
    """
    store = open_store(run_dir, restored.path)
    if len(set(group.gather_objects(store and store.folder.name))) > 1 or store is None:
        raise CheckpointError(
            f"{restored.path} was removed or replaced while it was read: its run goes on; evaluate it again"
        )
    return store


def evaluate_run(
    run_dir: Path,
    text: EvaluationText,
    settings: EvaluationSettings,
    progress: Progress | None = None,
    mesh: Mesh | None = None,
) -> tuple[RestoredModel, Extrapolation]:
    """Restore a run's model and evaluate it at every length of one text; nothing is written.

    Args:
        run_dir: the run's folder.
        text: what to evaluate on.
        settings: lengths, mode, amounts.
        progress: told (tokens fed, tokens to feed) of this rank.
        mesh: ranks that share the work; each returns the same results. Default: this process alone.
    """
    restored, worker = open_worker(run_dir, mesh, [text])
    results = evaluate_lengths(
        restored.model,
        text.stream,
        text.token_bytes,
        settings,
        device=worker.device,
        group=worker.group,
        progress=progress,
    )
    return restored, results
