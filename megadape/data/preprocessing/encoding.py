"""What a worker does: read a block, tokenize its texts, check the ids."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from megadape.data.reading.contents import Block, Content, ReadOptions, Tally
from megadape.data.tokenizers import Ids, Tokenizer, TokenizerSettingsBase
from megadape.errors import TokenizerError
from megadape.faults import reach


class Task(NamedTuple):
    """A block on its way to a worker."""

    shard: int
    block: Block


class EncodedTexts(NamedTuple):
    """The texts of one key: ids of all, concatenated, and how many each has."""

    tokens: npt.NDArray[np.integer]
    lengths: npt.NDArray[np.int32]
    text_bytes: int
    empty: int


@dataclass(frozen=True)
class Encoded:
    """A block on its way back."""

    shard: int
    stored: int
    """Bytes of the input, as they are stored."""
    texts: tuple[EncodedTexts, ...]
    """For each key."""
    tallies: tuple[Tally, ...]
    """For each source."""

    @property
    def nbytes(self) -> int:
        """Bytes of memory that it takes, about."""
        bad = sum(len(bad.raw) for tally in self.tallies for bad in tally.bad)
        return bad + sum(text.tokens.nbytes + text.lengths.nbytes for text in self.texts)


@dataclass(frozen=True)
class Encoder:
    """Reads and tokenizes blocks.

    Args:
        tokenizer: what makes ids of texts.
        options: how blocks are read.
        append_eod: whether every document ends with the end-of-document token.
        dtype: of the ids.
    """

    tokenizer: Tokenizer
    options: ReadOptions
    append_eod: bool
    dtype: np.dtype[np.integer]

    def __call__(self, task: Task) -> Encoded:
        """The ids of a block."""
        reach("preprocess.before_encode")
        contents = list(task.block.read(self.options))
        keys = range(len(self.options.selection.keys))
        return Encoded(
            task.shard,
            task.block.stored,
            tuple(self._encode(key, contents) for key in keys),
            tuple(content.tally() for content in contents),
        )

    def _encode(self, key: int, contents: Sequence[Content]) -> EncodedTexts:
        texts = [document[key] for content in contents for document in content.documents]
        ids = self.tokenizer.encode_batch(texts)
        assert len(ids) == len(texts), "a tokenizer gives ids for every text"
        end = [np.array([self.tokenizer.eod], np.int32)] if self.append_eod else []
        parts = [part for document in ids for part in (document, *end)]
        return EncodedTexts(
            tokens=self._checked(np.concatenate(parts) if parts else np.empty(0, np.int32)),
            lengths=np.array([len(document) + self.append_eod for document in ids], np.int32),
            text_bytes=sum(map(_utf8_bytes, texts)),
            empty=sum(not text for text in texts),
        )

    def _checked(self, ids: Ids) -> npt.NDArray[np.integer]:
        """The ids in the dataset's dtype; none may be outside of the vocabulary, so none wraps around."""
        size = self.tokenizer.vocab_size
        if ids.size and not (ids.min() >= 0 and ids.max() < size):
            wrong = ids[(ids < 0) | (ids >= size)][0]
            raise TokenizerError(
                f"{self.tokenizer.name} gave the id {wrong}, outside of its vocabulary (0 to {size - 1}): "
                "its files do not belong together"
            )
        return ids.astype(self.dtype)


def build_encoder(
    tokenizer: TokenizerSettingsBase, options: ReadOptions, append_eod: bool, dtype: str
) -> Callable[[Task], Encoded]:
    """Called once in each worker."""
    return Encoder(tokenizer.build(), options, append_eod, np.dtype(dtype))


def make_encoder(
    settings: TokenizerSettingsBase,
    built: Tokenizer,
    options: ReadOptions,
    append_eod: bool,
    dtype: np.dtype[np.integer],
    *,
    anew: bool,
) -> Callable[[], Callable[[Task], Encoded]]:
    """What gives a worker its function.

    Args:
        settings: of the tokenizer.
        built: the tokenizer.
        options: how blocks are read.
        append_eod: whether every document ends with the end-of-document token.
        dtype: of the ids.
        anew: the worker has to build the tokenizer itself.
    """
    if not anew:
        return lambda: Encoder(built, options, append_eod, dtype)
    return partial(build_encoder, settings, options, append_eod, dtype.str)


def _utf8_bytes(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode())
