"""A study in processes of this machine: nothing is run twice, a run that fails does not stop the others, and the same
command goes on."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress

from megadape.config import dump_yaml, load
from megadape.console import Bars
from megadape.data.manifest import manifest_path
from megadape.errors import ConfigurationError, EvaluationError, MegadapeError
from megadape.evaluation.output import write_whole
from megadape.parallel.mesh import Place
from megadape.studies.batch import run_batch
from megadape.studies.cell import is_done, run_cell
from megadape.studies.grid import Cell, Study
from megadape.studies.local import Job
from megadape.studies.settings import StudySettings
from megadape.studies.text import TextRequest, prepare_text


def run_study(study: Study, cells: Sequence[Cell], at_once: int | None, bars: Bars) -> dict[str, str]:
    """Train and evaluate what is not done.

    Args:
        study: the study.
        cells: those of its cells that are wanted.
        at_once: processes; None: one for each GPU, else for each CPU.
        bars: told of progress.

    Returns:
        Runs that failed, by name -> why.
    """
    prepare_study(study, bars)
    todo = [cell for cell in cells if not is_done(cell)]
    if len(todo) < len(cells):
        bars.message(f"{len(cells) - len(todo)} of {len(cells)} runs are done already")
    if not todo:
        return {}
    check_single(todo)
    return run_batch([Job(cell.name, run_cell, (cell,)) for cell in todo], "runs", at_once, bars)


def run_here(study: Study, cells: Sequence[Cell], bars: Bars) -> None:
    """Train and evaluate one cell in this process, or in the ranks that a launcher started.

    Raises:
        ConfigurationError: several cells are named, or the study's own text is not preprocessed yet.
    """
    if len(cells) != 1:
        raise ConfigurationError(f"--here makes one run, but {len(cells)} are named: give the name of one")
    place = Place.from_environment()
    if place.world == 1:
        prepare_study(study, bars)
    elif study.settings.text is not None and not manifest_path(study.data_prefix).exists():
        raise ConfigurationError(
            f"{study.data_prefix} is not there, and several ranks do not make it together: start megadape study run "
            f"{study.file} in one process first"
        )
    cell = cells[0]
    run_cell(cell, lambda done, total, note: bars.update(cell.name, done, total, note))


def prepare_study(study: Study, bars: Bars) -> None:
    """Keep the study's settings in its folder, and preprocess its text where that is not done.

    Raises:
        ConfigurationError: the folder holds another study, or one over another text.
        EvaluationError: the folder cannot be written.
    """
    chosen, kept = study.settings, study.settings.folder / "study.yaml"
    new = not kept.is_file()
    if not new:
        before = load([kept], root=StudySettings)
        for key in ("name", "text"):
            if getattr(before, key) != getattr(chosen, key):
                raise ConfigurationError(
                    f"{chosen.folder} holds a study whose {key} is {getattr(before, key)}, not "
                    f"{getattr(chosen, key)}: give this one another folder"
                )
    try:
        write_whole(kept, dump_yaml(chosen))
    except EvaluationError as error:
        raise ConfigurationError(f"the study's folder cannot be written: {error}") from error
    if chosen.text is not None and not manifest_path(study.data_prefix).exists():
        text = chosen.text
        request = TextRequest(text.source, study.data_prefix.parent, text.tokenizer, text.vocabulary)
        try:
            prepare_text(request, bars)
        except MegadapeError:
            if new:  # a folder keeps to its text, but not to one that could not be read
                kept.unlink()
                with suppress(OSError):
                    chosen.folder.rmdir()
            raise


def check_single(cells: Sequence[Cell]) -> None:
    """Refuse runs that need several ranks: a launcher starts those.

    Raises:
        ConfigurationError: a run is tensor- or pipeline-parallel.
    """
    for cell in cells:
        parallel = cell.run.parallel
        if parallel.tp * parallel.pp > 1:
            ranks = parallel.tp * parallel.pp
            raise ConfigurationError(
                f"{cell.name} needs {ranks} ranks (parallel.tp x parallel.pp): start it with torchrun --nproc-per-node "
                f"{ranks} -m megadape study run STUDY.yaml {cell.name} --here"
            )
