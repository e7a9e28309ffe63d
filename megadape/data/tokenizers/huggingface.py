"""Hugging Face ``tokenizer.json`` files.

The ``tokenizers`` library runs all of them and is the reference. tiktoken runs byte-level BPE several times faster; it
takes over where the file qualifies, and is checked against the reference as it goes.
"""

from __future__ import annotations

import json
import logging
import multiprocessing
import re
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt

from megadape.data.tokenizers.base import (
    FastPath,
    Ids,
    Lengths,
    NotFastError,
    SpecialTokens,
    Tokenizer,
    TokenizerSettingsBase,
    apart,
    digest_of,
    joined,
    read_file,
    require_utf8,
)
from megadape.data.tokenizers.byte_level import to_bytes
from megadape.data.tokenizers.byte_level_file import read_byte_level
from megadape.data.tokenizers.fast import MARK, FastByteLevel
from megadape.data.tokenizers.self_check import SelfCheck
from megadape.errors import TokenizerError

if TYPE_CHECKING:
    from tokenizers import Tokenizer as Library

_ENDS = ("<|endoftext|>", "</s>", "<|end_of_text|>", "<eos>", "[SEP]")
"""Names of the end of a document, in the order in which they are looked for."""

logger = logging.getLogger(__name__)


class HuggingFaceSettings(TokenizerSettingsBase):
    """A ``tokenizer.json``."""

    COPIES: ClassVar[dict[str, str]] = {"model": "tokenizer.json"}
    IMMATERIAL: ClassVar[frozenset[str]] = frozenset({"fast"})

    kind: Literal["huggingface"] = "huggingface"

    model: Path
    """The tokenizer.json file."""

    eod_token: str | None = None
    """Token that ends a document; looked for by its usual names when not given."""

    special_tokens_in_text: SpecialTokens = "text"
    """What the name of a special token (``<|endoftext|>``) in a text becomes; the library's own default is special."""

    fast: FastPath = "auto"
    """Whether tiktoken runs a byte-level vocabulary, with the same ids: auto, if it can; always, or an error; never."""

    def build(self) -> HuggingFaceTokenizer:
        """The tokenizer."""
        content = read_file(self.model, "tokenizer file")
        spec = _parse(content, self.model)
        origin = ("huggingface", content)
        return HuggingFaceTokenizer(
            spec, self.model, origin, self.eod_token, special=self.special_tokens_in_text, fast=self.fast
        )


class HuggingFaceTokenizer(Tokenizer):
    """A ``tokenizer.json`` without its truncation, padding and added begin and end tokens: a document has none.

    Args:
        spec: what the file holds.
        path: the file that errors name.
        origin: the kind of tokenizer and the contents of its files, which the digest is made of.
        eod_token: the token that ends a document.
        special: what special tokens in texts are.
        fast: whether tiktoken takes over.
    """

    def __init__(
        self,
        spec: dict[str, Any],
        path: Path,
        origin: tuple[str | bytes, ...],
        eod_token: str | None,
        *,
        special: SpecialTokens,
        fast: FastPath,
    ) -> None:
        library = _load(spec, path)
        vocabulary = library.get_vocab(with_added_tokens=True)
        eod = _end_of_document(vocabulary, eod_token, path)
        if any(token["id"] == eod and not token["special"] for token in spec.get("added_tokens", [])):
            # an end that is not marked as special would be matched in texts even when special tokens are not
            library = _load({**spec, "added_tokens": _with_special(spec["added_tokens"], eod)}, path)
        self._library = library
        self._library.no_truncation()
        self._library.no_padding()
        self._library.encode_special_tokens = special == "text"
        self._vocabulary = vocabulary
        self._added = library.get_added_tokens_decoder()
        self._decoders = _types(spec.get("decoder"))
        name = f"{origin[0]!s} ({path.name})"
        super().__init__(name, max(vocabulary.values()) + 1, eod, digest_of(*origin, str(eod), special))
        self._fast = None if fast == "never" else self._fast_path(spec, path, special, required=fast == "always")
        strings = [token.content for token in self._added.values()]
        self._self_check = SelfCheck(name, self._encode, self._reference, strings)

    def encode_batch(self, texts: Sequence[str]) -> list[Ids]:
        """The ids of several texts."""
        return self._reference_batch(texts) if self._fast is None else apart(*self.encode_flat(texts))

    def encode_flat(self, texts: Sequence[str]) -> tuple[Ids, Lengths]:
        """The ids of several texts, one after the other, and how many each has."""
        if self._fast is None or any(MARK in text for text in texts):
            return joined(self._reference_batch(texts))
        for text in texts:
            require_utf8(text)
        ids, lengths = self._fast.encode(texts)
        self._self_check.check(texts, ids, lengths)
        return ids, lengths

    def token_bytes(self) -> npt.NDArray[np.int64]:
        """Bytes of each token: exact for byte-level and byte-fallback vocabularies; the token's own text elsewhere."""
        sizes = np.zeros(self.vocab_size, np.int64)
        for token, i in self._vocabulary.items():
            added = self._added.get(i)
            if added is not None:
                sizes[i] = 0 if added.special else len(added.content.encode())
            elif i != self.eod:
                sizes[i] = self._size(token)
        return sizes

    def to_json(self) -> str:
        """The ``tokenizer.json`` that the tokenizers library runs."""
        return self._library.to_str()

    def token(self, i: int) -> str:
        """How the vocabulary writes an id."""
        token = self._library.id_to_token(i)
        assert token is not None, f"no token {i}"
        return token

    def _size(self, token: str) -> int:
        if "ByteLevel" in self._decoders:
            content = to_bytes(token)
            return len(token.encode() if content is None else content)
        if "ByteFallback" in self._decoders and re.fullmatch("<0x[0-9A-F]{2}>", token):
            return 1
        if "WordPiece" in self._decoders:
            token = token.removeprefix("##")
        return len(token.replace("▁", " ").encode())

    def _encode(self, text: str) -> Ids:
        if self._fast is None or MARK in text:
            return self._reference(text)
        return self._fast.encode([text])[0]

    def _reference(self, text: str) -> Ids:
        try:
            return np.array(self._library.encode(text, add_special_tokens=False).ids, np.int32)
        except Exception as error:  # the library raises bare exceptions
            raise TokenizerError(f"{self.name} cannot encode the text that begins {text[:40]!r}: {error}") from error

    def _reference_batch(self, texts: Sequence[str]) -> list[Ids]:
        """By the library's own threads."""
        for text in texts:
            require_utf8(text)
        try:
            encodings = self._library.encode_batch_fast(list(texts), add_special_tokens=False)
        except Exception as error:  # the library raises bare exceptions
            raise TokenizerError(f"{self.name} cannot encode one of {len(texts)} texts: {error}") from error
        return [np.array(encoding.ids, np.int32) for encoding in encodings]

    def _decode(self, ids: list[int]) -> str:
        return self._library.decode([i for i in ids if i != self.eod], skip_special_tokens=True)

    def _fast_path(
        self, spec: dict[str, Any], path: Path, special: SpecialTokens, *, required: bool
    ) -> FastByteLevel | None:
        try:
            made = FastByteLevel(read_byte_level(spec), self._library, special_is_text=special == "text")
        except NotFastError as reason:
            if required:
                raise TokenizerError(f"{path} cannot be run by tiktoken (fast: always): {reason}") from reason
            _announce(logging.WARNING, f"{path}: the tokenizers library runs it, not tiktoken: {reason}")
            return None
        _announce(logging.INFO, f"{path}: tiktoken runs it")
        return made


@cache
def _announce(level: int, message: str) -> None:
    """Once, and not again in every worker."""
    if multiprocessing.parent_process() is None:
        logger.log(level, message)


def _parse(content: bytes, path: Path) -> dict[str, Any]:
    try:
        spec = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise TokenizerError(f"{path} is not a tokenizer.json: it is not valid JSON ({error})") from error
    if not isinstance(spec, dict) or "model" not in spec:
        raise TokenizerError(
            f"{path} is not a tokenizer.json: it has no model; give the file of the tokenizers library"
        )
    return spec


def _load(spec: dict[str, Any], path: Path) -> Library:
    from tokenizers import Tokenizer as Library

    try:
        library = Library.from_str(json.dumps(spec))
    except Exception as error:  # the library raises bare exceptions
        raise TokenizerError(f"{path} is not a tokenizer.json that the tokenizers library can read: {error}") from error
    if library.get_vocab_size() == 0:
        raise TokenizerError(f"{path} has an empty vocabulary")
    return library


def _with_special(tokens: list[dict[str, Any]], eod: int) -> list[dict[str, Any]]:
    return [{**token, "special": token["special"] or token["id"] == eod} for token in tokens]


def _end_of_document(vocabulary: dict[str, int], token: str | None, path: Path) -> int:
    for name in _ENDS if token is None else (token,):
        if name in vocabulary:
            return vocabulary[name]
    wanted = f"no token {token!r}" if token else f"none of {', '.join(_ENDS)}"
    raise TokenizerError(f"{path} has {wanted}: name the token that ends a document (eod_token)")


def _types(decoder: dict[str, Any] | None) -> set[str]:
    """Types of a decoder and of the decoders that it is made of."""
    if decoder is None:
        return set()
    return {decoder["type"]}.union(*(_types(part) for part in decoder.get("decoders", [])))
