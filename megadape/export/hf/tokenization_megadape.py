"""SentencePiece models with the ids that megadape gives; needs the sentencepiece library.

What a control token's name in a text becomes is a setting, as in megadape: text like any other, or the control token.
A lossless model with byte pieces keeps U+2581 too, which the library alone would turn into a space.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sentencepiece import SentencePieceProcessor
from transformers import PreTrainedTokenizer

SPACE = "▁"
"""How a space is written in a piece; a text may hold the same character (U+2581)."""

PROBE = "  a \n\n\tb\x00 "
"""A model that gives this back is lossless."""


class MegadapeTokenizer(PreTrainedTokenizer):
    """A SentencePiece model.

    Args:
        model_file: the .model file; not called vocab_file, for which transformers looks under other names too.
        eos_token: the piece that ends a document.
        special_tokens_in_text: text or special.
        kwargs: what every tokenizer knows.
    """

    vocab_files_names = {"model_file": "megadape.tokenizer.model"}  # noqa: RUF012 - transformers' own form
    model_input_names = ["input_ids", "attention_mask"]  # noqa: RUF012

    def __init__(
        self,
        model_file: str,
        eos_token: str = "</s>",
        special_tokens_in_text: str = "text",
        **kwargs: Any,  # noqa: ANN401
    ) -> None:
        self.model_file, self.sp = model_file, SentencePieceProcessor(model_file=model_file)
        pieces = range(self.sp.get_piece_size())
        self.controls = {self.sp.id_to_piece(i): i for i in pieces if self.sp.is_control(i)}
        self.end = self.sp.piece_to_id(str(eos_token))
        names = sorted(self.controls, key=len, reverse=True) if special_tokens_in_text == "special" else []
        self.special = re.compile("(" + "|".join(map(re.escape, names)) + ")") if names else None
        matched = special_tokens_in_text == "text" and not self.sp.is_control(self.end)
        # the model finds a piece of its vocabulary in any text: cut behind its first character, it stays text
        self.symbol = re.compile(f"(?={re.escape(self.sp.id_to_piece(self.end))})") if matched else None
        spelt = [self.sp.piece_to_id(f"<0x{byte:02X}>") for byte in SPACE.encode()]
        lossless = self.sp.decode(self.sp.encode(PROBE)) == PROBE
        self.space_bytes = spelt if lossless and all(self.sp.is_byte(piece) for piece in spelt) else []
        kwargs.setdefault("pad_token", eos_token)
        super().__init__(eos_token=eos_token, special_tokens_in_text=special_tokens_in_text, **kwargs)

    @property
    def vocab_size(self) -> int:
        return self.sp.get_piece_size()

    def get_vocab(self) -> dict[str, int]:
        return {self.sp.id_to_piece(i): i for i in range(self.vocab_size)}

    def tokenize(self, text: str, **kwargs: Any) -> list[str]:  # noqa: ANN401
        """The pieces of a text."""
        return [self.sp.id_to_piece(i) for i in self.ids_of(text)]

    def ids_of(self, text: str) -> list[int]:
        """The ids of a text."""
        ids: list[int] = []
        for part in [text] if self.special is None else self.special.split(text):
            ids += [self.controls[part]] if self.special is not None and part in self.controls else self._plain(part)
        return ids

    def _plain(self, text: str) -> list[int]:
        """The ids of a text without control tokens."""
        cuts = [] if self.symbol is None else [match.start() + 1 for match in self.symbol.finditer(text)]
        ids: list[int] = []
        for first, end in zip([0, *cuts], [*cuts, len(text)], strict=True):
            for number, part in enumerate(text[first:end].split(SPACE) if self.space_bytes else [text[first:end]]):
                ids += (self.space_bytes if number else []) + self.sp.encode(part)
        return ids

    def _convert_token_to_id(self, token: str) -> int:
        return self.sp.piece_to_id(token)

    def _convert_id_to_token(self, index: int) -> str:
        return self.sp.id_to_piece(index)

    def convert_tokens_to_string(self, tokens: Sequence[str]) -> str:
        """The text of pieces; control tokens stand for none."""
        return self.sp.decode([i for i in map(self.sp.piece_to_id, tokens) if i != self.end])

    def _decode(
        self,
        token_ids: int | Sequence[int],
        skip_special_tokens: bool = False,
        **kwargs: Any,  # noqa: ANN401
    ) -> str:
        ids = [token_ids] if isinstance(token_ids, int) else list(token_ids)
        shown, run = [], list[int]()
        for i in [*ids, None]:
            if i is not None and i != self.end and not self.sp.is_control(i):
                run.append(i)
                continue
            shown += [self.sp.decode(run)] + ([] if skip_special_tokens or i is None else [self.sp.id_to_piece(i)])
            run = []
        return "".join(shown) if not skip_special_tokens else self.sp.decode([i for i in ids if i != self.end])

    def build_inputs_with_special_tokens(
        self, token_ids_0: list[int], token_ids_1: list[int] | None = None
    ) -> list[int]:
        """Nothing is added: a document has no begin token."""
        return token_ids_0 + (token_ids_1 or [])

    def save_vocabulary(self, save_directory: str, filename_prefix: str | None = None) -> tuple[str]:
        """Copy the model file."""
        name = (f"{filename_prefix}-" if filename_prefix else "") + self.vocab_files_names["model_file"]
        target = Path(save_directory) / name
        if target.resolve() != Path(self.model_file).resolve():
            shutil.copyfile(self.model_file, target)
        return (str(target),)
