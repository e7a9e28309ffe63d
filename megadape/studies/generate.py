"""What ``megadape generate`` does with a run folder: restore, read prompts, write texts."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import torch

from megadape.config import load
from megadape.data import Tokenizer, rebuild_tokenizer
from megadape.data.manifest import DatasetManifest, read_manifest
from megadape.errors import CheckpointError, ConfigurationError, DataError, TokenizerError
from megadape.evaluation.restore import restore_model
from megadape.generation import GenerationSettings, News, generate
from megadape.generation.prompts import read_prompts, split_lines
from megadape.generation.texts_file import TextsFile
from megadape.generation.transcript import Pace, Transcript, Write, make_visible
from megadape.machine import choose_threads, keep_freed_memory
from megadape.model import GPT
from megadape.parallel.failure import ending_together
from megadape.parallel.mesh import Mesh, Place, open_mesh
from megadape.parallel.sharding import Sharding

logger = logging.getLogger(__name__)

PATIENCE = timedelta(days=1)
"""How long ranks wait for one another: for as long as somebody thinks about what to type."""


@dataclass(frozen=True)
class GenerationRequest:
    """A run, prompts, and what to do with the texts."""

    run_dir: Path
    settings: GenerationSettings

    prompts: Sequence[str] = ()

    prompts_file: Path | None = None
    """Neither: lines of standard input, which in a terminal are answered one by one."""

    data: Path | None = None
    """Prefix of the dataset whose tokenizer is used; default: the run's own."""

    out: Path | None = None
    """JSON lines, one a text as it is finished."""

    echo: bool = True
    """Whether prompts are shown before their texts."""


@dataclass(frozen=True)
class Author:
    """Everything that texts are written with."""

    model: GPT
    tokenizer: Tokenizer
    manifest: DatasetManifest
    request: GenerationRequest
    mesh: Mesh
    write: Write

    def answer(self, prompts: Sequence[str], first: int, kept: TextsFile | None, *, echo: bool) -> None:
        """Write texts for some prompts, shown on the first rank as they grow, and kept as they end; a collective."""
        if "" in prompts and not self.manifest.append_eod:
            number = first + list(prompts).index("") + 1
            raise DataError(f"prompt {number} is empty, and no token ends the documents of the run: give it a text")
        settings = self.request.settings
        shown, count = prompts if echo else None, len(prompts) * settings.samples
        transcript, pace = Transcript(shown, count, settings.samples, self._show), Pace()

        def listen(news: News) -> None:
            pace.count()
            if kept is not None and news.whole is not None:
                kept.add(prompts[news.prompt - first], news.whole)
            transcript.tell(news, first)

        generate(self.model, prompts, settings, tokenizer=self.tokenizer, first=first, listener=listen)
        logger.info("%s", pace)

    def _show(self, text: str) -> None:
        if self.mesh.is_first:
            self.write(text)


def generate_and_write(request: GenerationRequest, write: Write) -> None:
    """Write texts for the prompts that are asked for, and the file of them where one is asked for.

    Started on several ranks, they share every layer, and the first one reads and writes.

    Args:
        request: what is asked for.
        write: takes text as it appears.

    Raises:
        CheckpointError: no run, or no checkpoint.
        TokenizerError: the dataset of the run is gone, and its tokenizer with it.
        DataError: prompts cannot be read, or are none.
        EvaluationError: the file of the texts cannot be written.
        ConfigurationError: the model does not divide over the ranks.
    """
    place = Place.from_environment()
    torch.set_num_threads(choose_threads(int(os.environ.get("LOCAL_WORLD_SIZE", place.world))))
    keep_freed_memory()
    with ending_together(place.rank, place.world), open_mesh(place, tp=place.world, timeout=PATIENCE) as mesh:
        author = open_author(request, mesh, write)
        out = request.out if mesh.is_first else None
        with nullcontext() if out is None else TextsFile(out, request.settings.samples) as kept:
            first = 0
            for prompts, echo in gather_prompts(request, mesh):
                author.answer(prompts, first, kept, echo=echo and request.echo)
                first += len(prompts)


def open_author(request: GenerationRequest, mesh: Mesh, write: Write) -> Author:
    """Restore the run's newest checkpoint, this rank's part of every layer, and its tokenizer."""
    try:
        restored = restore_model(request.run_dir, mesh.device, Sharding(tp=mesh.tp))
    except ConfigurationError as error:
        raise ConfigurationError(
            f"{error}: all {mesh.tp.size} ranks share every layer; start another number"
        ) from error
    if len(set(mesh.gather(restored.path.name))) > 1:
        raise CheckpointError(f"{restored.path} was replaced while it was read: its run goes on; start again")
    prefix = request.data or find_data(request.run_dir)
    try:
        manifest = read_manifest(prefix)
        tokenizer = rebuild_tokenizer(manifest.tokenizer, prefix.parent)
    except (DataError, TokenizerError) as error:
        raise TokenizerError(
            f"the tokenizer of {request.run_dir} lies beside its data, and cannot be had ({error}): give --data PREFIX "
            "of a dataset made with it"
        ) from error
    return Author(restored.model, tokenizer, manifest, request, mesh, write)


def find_data(run_dir: Path) -> Path:
    """Prefix of the dataset, or the first of those, that a run was trained on: all have one tokenizer."""
    file = run_dir / "settings.yaml"
    if not file.is_file():
        raise TokenizerError(f"{run_dir} has no settings.yaml that says what it was trained on: give --data PREFIX")
    return load([file]).data.parts[0].prefix


def gather_prompts(request: GenerationRequest, mesh: Mesh) -> Iterator[tuple[list[str], bool]]:
    """Prompts to be answered together, as the first rank reads them, and whether they are to be shown; a collective.

    Raises:
        DataError: there are none, or they cannot be read.
    """
    batches = _read_batches(request) if mesh.is_first else iter(())
    while (batch := mesh.gather(next(batches, None))[0]) is not None:
        assert isinstance(batch, tuple)
        yield batch


def _read_batches(request: GenerationRequest) -> Iterator[tuple[list[str], bool]]:
    if request.prompts and request.prompts_file is not None:
        raise DataError("prompts are given on the command line and in a file: give them in one place")
    if request.prompts:
        yield list(request.prompts), True
    elif request.prompts_file is not None:
        yield read_prompts(request.prompts_file), True
    elif sys.stdin.isatty():
        logger.info("a prompt a line; Ctrl-D ends")
        for line in sys.stdin:
            yield split_lines(line), False
    else:
        prompts = split_lines(sys.stdin.read())
        if not prompts:
            raise DataError("standard input has no prompts: write one a line, or give them on the command line")
        yield prompts, True


def for_terminal(write: Write) -> Write:
    """Shows control characters in a terminal, and nothing else than the text elsewhere."""
    return (lambda text: write(make_visible(text))) if sys.stdout.isatty() else write
