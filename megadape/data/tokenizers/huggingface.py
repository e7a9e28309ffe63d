"""Hugging Face ``tokenizer.json`` files, through the ``tokenizers`` library."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt

from megadape.data.tokenizers.base import (
    Ids,
    SpecialTokens,
    Tokenizer,
    TokenizerSettingsBase,
    digest_of,
    read_file,
    require_utf8,
)
from megadape.data.tokenizers.byte_level import to_bytes
from megadape.errors import TokenizerError

if TYPE_CHECKING:
    from tokenizers import Tokenizer as Library

_ENDS = ("<|endoftext|>", "</s>", "<|end_of_text|>", "<eos>", "[SEP]")
"""Names of the end of a document, in the order in which they are looked for."""


class HuggingFaceSettings(TokenizerSettingsBase):
    """A ``tokenizer.json``."""

    COPIES: ClassVar[dict[str, str]] = {"model": "tokenizer.json"}

    kind: Literal["huggingface"] = "huggingface"

    model: Path
    """The tokenizer.json file."""

    eod_token: str | None = None
    """Token that ends a document; looked for by its usual names when not given."""

    special_tokens_in_text: SpecialTokens = "text"
    """What the name of a special token (``<|endoftext|>``) in a text becomes; the library's own default is special."""

    def build(self) -> HuggingFaceTokenizer:
        """The tokenizer."""
        content = read_file(self.model, "tokenizer file")
        return HuggingFaceTokenizer(content, self.model, self.eod_token, self.special_tokens_in_text)


class HuggingFaceTokenizer(Tokenizer):
    """A ``tokenizer.json`` without its truncation, padding and added begin and end tokens: a document has none."""

    def __init__(self, content: bytes, path: Path, eod_token: str | None, special: SpecialTokens) -> None:
        spec = _parse(content, path)
        vocabulary = _load(spec, path).get_vocab(with_added_tokens=True)
        eod = _end_of_document(vocabulary, eod_token, path)
        for token in spec.get("added_tokens", []):
            # an end that is not marked as special would be matched in texts even when special tokens are not
            token["special"] = token["special"] or token["id"] == eod
        self._library = _load(spec, path)
        self._library.no_truncation()
        self._library.no_padding()
        self._library.encode_special_tokens = special == "text"
        self._vocabulary = vocabulary
        self._added = {token["id"]: token for token in spec.get("added_tokens", [])}
        self._decoders = _types(spec.get("decoder"))
        digest = digest_of("huggingface", content, str(eod), special)
        super().__init__(f"huggingface ({path.name})", max(vocabulary.values()) + 1, eod, digest)

    def encode_batch(self, texts: Sequence[str]) -> list[Ids]:
        """The ids of several texts, by the library's own threads."""
        for text in texts:
            require_utf8(text)
        try:
            encodings = self._library.encode_batch_fast(list(texts), add_special_tokens=False)
        except Exception as error:  # the library raises bare exceptions
            raise TokenizerError(f"{self.name} cannot encode one of {len(texts)} texts: {error}") from error
        return [np.array(encoding.ids, np.int32) for encoding in encodings]

    def token_bytes(self) -> npt.NDArray[np.int64]:
        """Bytes of each token: exact for byte-level and byte-fallback vocabularies; the token's own text elsewhere."""
        sizes = np.zeros(self.vocab_size, np.int64)
        for token, i in self._vocabulary.items():
            added = self._added.get(i)
            if added is not None:
                sizes[i] = 0 if added["special"] else len(added["content"].encode())
            elif i != self.eod:
                sizes[i] = self._size(token)
        return sizes

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
        try:
            return np.array(self._library.encode(text, add_special_tokens=False).ids, np.int32)
        except Exception as error:  # the library raises bare exceptions
            raise TokenizerError(f"{self.name} cannot encode the text that begins {text[:40]!r}: {error}") from error

    def _decode(self, ids: list[int]) -> str:
        return self._library.decode([i for i in ids if i != self.eod], skip_special_tokens=True)


def _parse(content: bytes, path: Path) -> dict[str, Any]:
    try:
        spec = json.loads(content)
    except ValueError as error:
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
