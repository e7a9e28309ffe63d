"""Training a tokenizer on a sample of a corpus.

SentencePiece models are trained so that ``decode(encode(text)) == text`` for every text: no normalisation, no dummy
prefix, white space kept as it is, unknown characters as bytes, newline and tab as pieces of their own. ``bpe`` trains a
byte-level ``tokenizer.json``.
"""

from __future__ import annotations

import io
import random
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import Field

from megadape.data.files import write_whole
from megadape.data.readers import CorpusReader
from megadape.data.tokenizers.registry import TokenizerSettings, tokenizer_settings
from megadape.errors import DataError, TokenizerError
from megadape.settings import Settings

_END = "<|endoftext|>"
_LONGEST_SENTENCE = 1 << 14


class TrainTokenizerSettings(Settings):
    """What to train, on which texts, into which file."""

    inputs: tuple[str | Path, ...] = Field(min_length=1)
    """Files, folders and globs."""

    output: Path
    """File to write: a .model for sentencepiece, a .json for bpe."""

    kind: Literal["sentencepiece", "bpe"] = "sentencepiece"
    """sentencepiece: a SentencePiece model; bpe: a byte-level tokenizer.json of the tokenizers library."""

    model_type: Literal["bpe", "unigram"] = "bpe"
    """Algorithm of a SentencePiece model."""

    vocab_size: int = Field(default=8192, ge=1)
    """Ids of the vocabulary, control tokens and bytes included."""

    max_bytes: int = Field(default=100_000_000, ge=1)
    """Bytes of text to train on; a larger corpus is sampled, document by document."""

    character_coverage: float = Field(default=0.9995, gt=0, le=1)
    """Part of the characters' occurrences that get a piece (SentencePiece); the rest are written as bytes."""

    threads: int = Field(default=1, ge=1)
    """Threads of the SentencePiece trainer; the unigram model may depend on it in its last digits."""

    json_key: str = "text"
    """Key of the text in JSON objects."""

    text_suffixes: tuple[str, ...] = ()
    """Further file endings, such as .py, that are read as plain text."""

    skip_undecodable: bool = False
    """Pass over plain text files that are not UTF-8 instead of failing."""

    seed: int = 0
    """Seed of the sample."""


@dataclass(frozen=True)
class TrainProgress:
    """How far a training is."""

    stage: Literal["reading", "training", "done"]
    documents: int
    """Documents in the sample."""
    text_bytes: int
    """UTF-8 bytes in the sample."""
    read_bytes: int
    total_bytes: int


def train_tokenizer(
    settings: TrainTokenizerSettings, progress: Callable[[TrainProgress], None] | None = None
) -> TokenizerSettings:
    """Train a tokenizer, write it to ``settings.output`` and return the settings that build it.

    Raises ``DataError`` for a corpus without text and ``TokenizerError`` when the vocabulary does not fit the corpus.
    """
    reader = CorpusReader(
        settings.inputs,
        json_key=settings.json_key,
        text_suffixes=settings.text_suffixes,
        skip_undecodable=settings.skip_undecodable,
        exclude=(settings.output,),
    )
    texts: list[str] = []
    size = 0

    def report(stage: Literal["reading", "training", "done"]) -> None:
        if progress is not None:
            progress(TrainProgress(stage, len(texts), size, reader.read_bytes, reader.total_bytes))

    for text in _sample(reader, settings):
        texts.append(text)
        size += len(text.encode())
        report("reading")
    if not size:
        raise DataError(f"there is no text to train on in {len(reader.files)} files")
    report("training")
    content = _TRAINERS[settings.kind](texts, settings)
    write_whole(settings.output, content)
    report("done")
    return tokenizer_settings(_BUILT_BY[settings.kind], model=settings.output)


def _sample(reader: CorpusReader, settings: TrainTokenizerSettings) -> Iterator[str]:
    """Documents up to ``max_bytes`` of text; of a larger corpus, documents drawn from all of it."""
    share = settings.max_bytes / max(reader.total_bytes, 1)
    draws = random.Random(settings.seed)
    left = settings.max_bytes
    for document in reader:
        if share < 1 and draws.random() >= share:
            continue
        content = document.text.encode()[:left]
        left -= len(content)
        yield content.decode(errors="ignore")
        if left <= 0:
            return


def _train_sentencepiece(texts: list[str], settings: TrainTokenizerSettings) -> bytes:
    from sentencepiece import SentencePieceTrainer

    model = io.BytesIO()
    try:
        SentencePieceTrainer.train(
            sentence_iterator=_sentences(texts),
            model_writer=model,
            model_type=settings.model_type,
            vocab_size=settings.vocab_size,
            character_coverage=settings.character_coverage,
            num_threads=settings.threads,
            byte_fallback=True,
            normalization_rule_name="identity",
            remove_extra_whitespaces=False,
            add_dummy_prefix=False,
            allow_whitespace_only_pieces=True,
            user_defined_symbols=["\n", "\t"],
            max_sentence_length=8 * _LONGEST_SENTENCE,
            minloglevel=2,
        )
    except RuntimeError as error:
        raise _explained(str(error), texts, settings) from error
    return model.getvalue()


def _sentences(texts: list[str]) -> Iterator[str]:
    """Lines: no piece crosses a newline, and the trainer passes over sentences that are too long for it."""
    for text in texts:
        for line in re.split("[\n\0]", text):
            for start in range(0, len(line), _LONGEST_SENTENCE):
                yield line[start : start + _LONGEST_SENTENCE]


def _explained(message: str, texts: list[str], settings: TrainTokenizerSettings) -> TokenizerError:
    """The trainer's error in one sentence with what to do."""
    size = sum(len(text.encode()) for text in texts)
    if most := re.search(r"too high.*<= (\d+)", message):
        return _too_small(settings.vocab_size, size, int(most[1]))
    if least := re.search(r"smaller than required_chars\. \d+ vs (\d+)", message):
        return TokenizerError(
            f"a vocabulary of {settings.vocab_size} is too small: bytes, control tokens and the characters "
            f"of the text alone take {least[1]}; ask for more, or for a smaller character_coverage"
        )
    return TokenizerError(f"SentencePiece cannot train on {size} bytes of text: {message}; give more text")


def _too_small(wanted: int, size: int, most: int) -> TokenizerError:
    return TokenizerError(
        f"{size} bytes of text are too few for a vocabulary of {wanted}: "
        f"give more text, or ask for a vocab_size of at most {most}"
    )


def _train_byte_level(texts: list[str], settings: TrainTokenizerSettings) -> bytes:
    from tokenizers import Tokenizer as Library
    from tokenizers import decoders, models, pre_tokenizers, trainers

    alphabet = pre_tokenizers.ByteLevel.alphabet()
    if settings.vocab_size < len(alphabet) + 1:
        raise TokenizerError(
            f"a vocabulary of {settings.vocab_size} is too small: 256 bytes and the end of a document take 257"
        )
    library: Library = Library(models.BPE())
    library.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    library.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=settings.vocab_size, special_tokens=[_END], initial_alphabet=alphabet, show_progress=False
    )
    library.train_from_iterator(texts, trainer)
    if library.get_vocab_size() < settings.vocab_size:
        size = sum(len(text.encode()) for text in texts)
        raise _too_small(settings.vocab_size, size, library.get_vocab_size())
    return library.to_str().encode()


_TRAINERS: dict[str, Callable[[list[str], TrainTokenizerSettings], bytes]] = {
    "sentencepiece": _train_sentencepiece,
    "bpe": _train_byte_level,
}

_BUILT_BY = {"sentencepiece": "sentencepiece", "bpe": "huggingface"}
"""What was trained -> kind of the tokenizer that reads it."""
