"""SentencePiece models, BPE and unigram (Kudo and Richardson, 2018, arXiv 1808.06226)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np
import numpy.typing as npt

from megadape.data.tokenizers.base import (
    Ids,
    SpecialTokens,
    Tokenizer,
    TokenizerSettingsBase,
    cut,
    digest_of,
    read_file,
    require_utf8,
)
from megadape.data.tokenizers.sentencepiece_model import read_properties
from megadape.data.tokenizers.sentencepiece_words import LONG_TEXT, SPACE, SentencePieceWords, word_expression
from megadape.errors import TokenizerError

if TYPE_CHECKING:
    from sentencepiece import SentencePieceProcessor

_PROBE = "  a \n\n\tb\x00 "


class SentencePieceSettings(TokenizerSettingsBase):
    """A trained SentencePiece model."""

    COPIES: ClassVar[dict[str, str]] = {"model": "tokenizer.model"}

    kind: Literal["sentencepiece"] = "sentencepiece"

    model: Path
    """The .model file."""

    eod_token: str | None = None
    """Piece that ends a document; the model's end of sentence when not given."""

    special_tokens_in_text: SpecialTokens = "text"
    """What the name of a control token (``</s>``) in a text becomes."""

    def build(self) -> SentencePieceTokenizer:
        """The tokenizer."""
        content = read_file(self.model, "SentencePiece model")
        return SentencePieceTokenizer(content, self.model, self.eod_token, self.special_tokens_in_text)


class SentencePieceTokenizer(Tokenizer):
    """A SentencePiece model; lossless if its normalisation is, as in the models that this project trains.

    A lossless model with byte pieces also keeps U+2581, which the library itself would turn into a space.
    """

    def __init__(self, model: bytes, path: Path, eod_token: str | None, special: SpecialTokens) -> None:
        self._model = _load(model, path)
        size = self._model.get_piece_size()
        eod = _end_of_document(self._model, eod_token, path)
        digest = digest_of("sentencepiece", model, str(eod), special)
        super().__init__(f"sentencepiece ({path.name})", size, eod, digest)
        self._controls = {self._model.id_to_piece(i): i for i in range(size) if self._model.is_control(i)}
        names = sorted(self._controls, key=len, reverse=True) if special == "special" else []
        self._special = re.compile("(" + "|".join(map(re.escape, names)) + ")") if names else None
        symbol = None if self._model.is_control(eod) or special == "special" else self._model.id_to_piece(eod)
        self._eod_symbol = re.compile(f"(?={re.escape(symbol)})") if symbol else None
        self._names = [*names, symbol] if symbol else names
        self._space_bytes = self._bytes_of_space()
        self._words = self._by_words(model)

    def token_bytes(self) -> npt.NDArray[np.int64]:
        """Bytes of each piece; 0 for control, unknown and unused pieces, whose text cannot be known."""
        model = self._model
        sizes = np.zeros(self.vocab_size, np.int64)
        for i in range(self.vocab_size):
            if model.is_byte(i):
                sizes[i] = 1
            elif not (model.is_control(i) or model.is_unknown(i) or model.is_unused(i) or i == self.eod):
                sizes[i] = len(model.id_to_piece(i).replace(SPACE, " ").encode())
        return sizes

    def token(self, i: int) -> str:
        """How the vocabulary writes an id."""
        return self._model.id_to_piece(i)

    def encode_batch(self, texts: Sequence[str]) -> list[Ids]:
        """The ids of several texts: by their words where they do not depend on each other, else by the library."""
        for text in texts:
            require_utf8(text)
        if not any(map(self._has_parts, texts)):
            return self._encode_all(list(texts))
        parts = [self._parts(text) for text in texts]
        encoded = iter(self._encode_all([part for one in parts for part in one if isinstance(part, str)]))
        ids = [[next(encoded) if isinstance(part, str) else np.array(part, np.int32) for part in one] for one in parts]
        return [one[0] if len(one) == 1 else np.concatenate(one) for one in ids]

    def _encode_all(self, texts: list[str]) -> list[Ids]:
        if self._words is not None:
            return self._words.encode(texts)
        return self._model.encode(texts, num_threads=1, return_type="numpy")

    def _encode(self, text: str) -> Ids:
        ids: list[int] = []
        for part in self._parts(text):
            ids += self._model.encode(part) if isinstance(part, str) else part
        return np.array(ids, np.int32)

    def _parts(self, text: str) -> list[str | list[int]]:
        """The text in parts that do not depend on each other, and the ids of what the model would take amiss."""
        if self._special is None:
            return self._plain(text)
        return [
            piece
            for part in self._special.split(text)
            for piece in ([[self._controls[part]]] if part in self._controls else self._plain(part))
        ]

    def _has_parts(self, text: str) -> bool:
        """Whether a text may have more than one part; quick."""
        return SPACE in text or len(text) > LONG_TEXT or any(name in text for name in self._names)

    def _plain(self, text: str) -> list[str | list[int]]:
        """Parts of a text without control tokens."""
        if self._eod_symbol is None:
            return self._spaced(text)
        # the model matches this symbol in any text: cut behind its first character, it stays text
        parts = cut(text, [match.start() + 1 for match in self._eod_symbol.finditer(text)])
        return [piece for part in parts for piece in self._spaced(part)]

    def _spaced(self, text: str) -> list[str | list[int]]:
        """Parts of a text, U+2581 spelt in bytes."""
        found: list[str | list[int]] = []
        for number, part in enumerate(text.split(SPACE) if self._space_bytes else [text]):
            if number:
                found.append(self._space_bytes)
            found += [part] if self._words is None else self._words.pieces(part)
        return found

    def _decode(self, ids: list[int]) -> str:
        return self._model.decode([i for i in ids if i != self.eod])

    def _by_words(self, model: bytes) -> SentencePieceWords | None:
        properties = read_properties(model)
        if not (properties.is_bpe and properties.keeps_text and self._space_bytes):
            return None
        expression = word_expression(self._model)
        return SentencePieceWords(self._model, expression) if expression else None

    def _bytes_of_space(self) -> list[int]:
        """Byte pieces that spell U+2581; none when the model has no byte pieces or is not lossless anyway."""
        pieces = [self._model.piece_to_id(f"<0x{byte:02X}>") for byte in SPACE.encode()]
        lossless = self._model.decode(self._model.encode(_PROBE)) == _PROBE
        return pieces if lossless and all(self._model.is_byte(piece) for piece in pieces) else []


def _load(content: bytes, path: Path) -> SentencePieceProcessor:
    from sentencepiece import SentencePieceProcessor

    try:
        model = SentencePieceProcessor(model_proto=content)
    except (RuntimeError, ValueError) as error:
        raise TokenizerError(f"{path} is not a SentencePiece model: train one with tools/train_tokenizer.py") from error
    if not content or model.get_piece_size() == 0:
        raise TokenizerError(f"{path} is empty: train a model with tools/train_tokenizer.py")
    return model


def _end_of_document(model: SentencePieceProcessor, token: str | None, path: Path) -> int:
    if token is None:
        if model.eos_id() < 0:
            raise TokenizerError(f"{path} has no end of sentence: name the piece that ends a document (eod_token)")
        return model.eos_id()
    piece = model.piece_to_id(token)
    if model.id_to_piece(piece) != token:
        raise TokenizerError(f"{path} has no piece {token!r}: name one of its pieces as eod_token")
    return piece
