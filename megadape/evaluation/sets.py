"""The texts that a run is evaluated on: its own data, or named datasets. Needs no torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from megadape.data import DataSettings, IndexedDataset, load_manifest, load_tokenizer, split_sequences, token_stream
from megadape.errors import EvaluationError
from megadape.evaluation.settings import EvaluationSettings

EVERYTHING = "all"
SPLITS = ("train", "valid", "test")


@dataclass(frozen=True)
class TextSource:
    """A dataset to evaluate on, or a part of it."""

    name: str
    """Of the evaluation set."""

    data: DataSettings
    """Of this dataset alone."""

    split: str
    """train, valid, test, or all."""

    @property
    def prefix(self) -> Path:
        """Of the dataset."""
        assert self.data.prefix is not None
        return self.data.prefix

    def identity(self) -> dict[str, object]:
        """Everything that decides which tokens it is; not where the dataset lies.

        Raises:
            DataError: the dataset or its manifest is missing or damaged.
        """
        manifest = load_manifest(self.prefix)
        divided = [self.data.split, self.data.split_by, self.data.split_seed] if self.split != EVERYTHING else []
        files = [manifest.bin_sha256, manifest.idx_sha256, manifest.tokenizer.digest]
        return {"name": self.name, "split": self.split, "divided": divided, "files": files}


@dataclass(frozen=True)
class EvaluationText:
    """Tokens to evaluate on, and how many bytes of text each token id stands for."""

    stream: np.ndarray
    token_bytes: np.ndarray


def text_sources(settings: EvaluationSettings, data: DataSettings) -> tuple[TextSource, ...]:
    """The sets that the settings name, divided as the run's data are unless they say otherwise; else each dataset of
    the run."""
    if settings.sets is None:
        return tuple(TextSource(part.name, part.settings, settings.split) for part in data.parts)
    sources = []
    for name, each in settings.sets.items():
        own = {"prefix": each.prefix, "blend": None, "split": each.shares or data.split}
        sources.append(TextSource(name, data.model_copy(update=own), each.split))
    return tuple(sources)


def open_text(data: DataSettings, settings: EvaluationSettings, split: str) -> EvaluationText:
    """The beginning of a split, as much of it as the evaluation can use.

    Args:
        data: of one dataset.
        settings: how much is wanted.
        split: train, valid, test, or all.

    Raises:
        EvaluationError: no such split, or an empty one.
    """
    assert data.prefix is not None
    if split not in (*SPLITS, EVERYTHING):
        raise EvaluationError(f"unknown split {split!r}; choose from {', '.join(SPLITS)}")
    dataset = IndexedDataset(data.prefix)
    stream = token_stream(dataset, _sequences(dataset, data, split), limit=max(tokens_wanted(settings)))
    if not len(stream):
        of_it = f"the {split} split of {data.prefix} (data.split {data.split})" if split != EVERYTHING else data.prefix
        raise EvaluationError(f"{of_it} is empty: give --data PREFIX, or another --split")
    return EvaluationText(stream, load_tokenizer(data.prefix).token_bytes())


def tokens_wanted(settings: EvaluationSettings) -> tuple[int, int, int]:
    """Tokens of text that extrapolation, loss by position and passkey retrieval can use."""
    positions, passkey = settings.positions, settings.passkey
    longest = max(settings.lengths)
    by_position = 0
    if positions is not None:
        by_position = (positions.length or longest) * (positions.sequences or settings.sequences) + 1
    around_keys = 0
    if passkey is not None and passkey.filler is None:
        around_keys = 4 * max(passkey.lengths or settings.lengths)  # trials begin at different places
    return settings.sequences * longest + 1, by_position, around_keys


def require_known_tokens(text: EvaluationText, vocabulary: int, run_dir: Path) -> None:
    """``EvaluationError`` unless the model knows every token of a text."""
    largest = int(text.stream.max())
    if largest >= vocabulary:
        raise EvaluationError(
            f"the evaluation text has token {largest}, but the model of {run_dir} knows {vocabulary} "
            "tokens: evaluate on a dataset made with the run's tokenizer"
        )


def _sequences(dataset: IndexedDataset, data: DataSettings, split: str) -> npt.NDArray[np.int64]:
    if split == EVERYTHING:
        return np.arange(len(dataset))
    sequences: npt.NDArray[np.int64] = getattr(
        split_sequences(dataset, data.split, data.split_by, data.split_seed), split
    )
    return sequences
