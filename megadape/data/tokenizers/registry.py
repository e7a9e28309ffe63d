"""The tokenizers by name: adding one is one line here."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, TypeAdapter, ValidationError

from megadape.data.tokenizers.base import TokenizerSettingsBase
from megadape.data.tokenizers.byte import ByteTokenizerSettings
from megadape.data.tokenizers.gpt2 import Gpt2Settings
from megadape.data.tokenizers.huggingface import HuggingFaceSettings
from megadape.data.tokenizers.sentencepiece import SentencePieceSettings
from megadape.errors import TokenizerError

TokenizerSettings = Annotated[
    ByteTokenizerSettings | SentencePieceSettings | HuggingFaceSettings | Gpt2Settings, Field(discriminator="kind")
]
"""Settings of any tokenizer; ``kind`` says which."""

KINDS: dict[str, type[TokenizerSettingsBase]] = {
    "byte": ByteTokenizerSettings,
    "sentencepiece": SentencePieceSettings,
    "huggingface": HuggingFaceSettings,
    "gpt2": Gpt2Settings,
}


def tokenizer_settings(kind: str, **options: object) -> TokenizerSettings:
    """Settings from plain arguments, without those that are None; ``TokenizerError`` for missing and unknown ones."""
    given = {name: value for name, value in options.items() if value is not None}
    if kind not in KINDS:
        raise TokenizerError(f"there is no tokenizer {kind!r}: choose one of {', '.join(KINDS)}")
    try:
        return TypeAdapter[TokenizerSettings](TokenizerSettings).validate_python({"kind": kind, **given})
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"][1:])
        known = ", ".join(name for name in KINDS[kind].model_fields if name != "kind")
        raise TokenizerError(f"the {kind} tokenizer: {field}: {first['msg']}; its options are {known}") from error
