"""All data of a run: one dataset, or several blended.

Of a blend, each dataset gives as many training samples as the order of the blend takes of it, no more; Megatron asks
each for half a per cent more than its share and leaves them unused. Validation takes the same number of each dataset,
from its own validation split.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from megadape.data.blend import BlendedSamples, BlendIndex, Samples
from megadape.data.blend_order import normalise
from megadape.data.build import DividedDataset
from megadape.data.index_cache import digest
from megadape.data.manifest import TokenizerManifest, load_manifest, manifest_path
from megadape.data.samples import TokenSamples
from megadape.data.settings import BlendPart, DataSettings
from megadape.errors import DataError


@dataclass(frozen=True)
class PartData:
    """What a run takes of one dataset; None: nothing."""

    part: BlendPart
    index: str
    """SHA-256 of PREFIX.idx."""

    train: TokenSamples | None
    valid: TokenSamples | None
    epochs: float
    """How often training reads its split."""


@dataclass(frozen=True)
class RunData:
    """The samples of a run."""

    parts: tuple[PartData, ...]
    train: Samples
    order: BlendIndex | None
    """Of the datasets in ``train``, where there are several."""

    def fingerprint(self) -> str:
        """Differs when anything differs that decides what is read: indexes of datasets, orders of samples, blend."""
        indexes = [samples.index for part in self.parts for samples in (part.train, part.valid) if samples is not None]
        orders = [digest(index) for index in indexes] + ([digest(self.order)] if self.order is not None else [])
        return hashlib.sha256("\n".join([*(part.index for part in self.parts), *orders]).encode()).hexdigest()

    def describe(self) -> list[str]:
        """A sentence for each dataset: samples, share, epochs."""
        total = len(self.train)
        sentences = []
        for each in self.parts:
            count = 0 if each.train is None else len(each.train)
            share = f" of {total:,} ({100 * count / total:.4g} %)" if len(self.parts) > 1 else ""
            sentences.append(f"{each.part.name}: {count:,}{share} training samples, {each.epochs:.2f} epochs of it")
        return sentences


def open_run_data(
    settings: DataSettings, sequence_length: int, train_samples: int, valid_samples: int, seed: int
) -> RunData:
    """Open all datasets, divide and blend them, and index their samples.

    Args:
        settings: the ``data`` section.
        sequence_length: L, tokens that a sample trains on.
        train_samples: of the whole run.
        valid_samples: of each dataset.
        seed: the run's seed, used where the settings give none.

    Raises:
        DataError: a dataset is missing or damaged, has too few tokens, would be read too often, or has another
            tokenizer than the others.
    """
    parts = settings.parts
    divided = [DividedDataset(part.settings, part.key) for part in parts]
    check_tokenizers(parts)
    order = None
    counts = [train_samples]
    if len(parts) > 1:
        # normalised once more, as Megatron does: it may move the last bit
        order = divided[0].cache.get_blend(normalise([part.weight for part in parts]), train_samples)
        counts = order.counts.tolist()
    _require_enough(divided, sequence_length, counts, valid_samples)
    opened = tuple(
        PartData(
            part,
            each.cache.dataset,
            each.samples("train", sequence_length, count, seed),
            each.samples("valid", sequence_length, valid_samples, seed),
            each.epochs("train", sequence_length, count),
        )
        for part, each, count in zip(parts, divided, counts, strict=True)
    )
    train = opened[0].train if order is None else BlendedSamples([each.train for each in opened], order)
    assert train is not None
    return RunData(opened, train, order)


def open_training_samples(settings: DataSettings, sequence_length: int, samples: int, seed: int) -> Samples:
    """The training samples alone, for a process that reads them; see ``open_run_data``."""
    return open_run_data(settings, sequence_length, samples, 0, seed).train


def check_tokenizers(parts: Sequence[BlendPart]) -> None:
    """``DataError`` unless all datasets were written by one tokenizer, as far as their manifests tell; what other
    projects wrote has none."""
    told = [(part, load_manifest(part.prefix).tokenizer) for part in parts if manifest_path(part.prefix).exists()]
    for (one, first), (other, second) in pairwise(told):
        if first.digest != second.digest or first.eod != second.eod:
            raise DataError(
                f"{one.prefix} and {other.prefix} ({one.key} and {other.key}) cannot be blended: they were written by "
                f"different tokenizers, {_describe(first)} and {_describe(second)}; preprocess one of them again"
            )


def _require_enough(divided: Sequence[DividedDataset], length: int, counts: Sequence[int], valid: int) -> None:
    """All that the datasets can lack, before an index of any is built."""
    for each, count in zip(divided, counts, strict=True):
        if count:
            each.require_tokens("train", length)
            each.require_epochs(length, count)
        if valid:
            each.require_tokens("valid", length)


def _describe(tokenizer: TokenizerManifest) -> str:
    eod, short = tokenizer.eod, tokenizer.digest[:12]
    return f"{tokenizer.kind} {short} of {tokenizer.vocab_size} tokens, token {eod} ends a document"
