"""Tokenizers behind one base class; their libraries are imported when a tokenizer is built."""

from megadape.data.tokenizers.base import Ids, Tokenizer, TokenizerSettingsBase
from megadape.data.tokenizers.registry import KINDS, TokenizerSettings, tokenizer_settings

__all__ = ["KINDS", "Ids", "Tokenizer", "TokenizerSettings", "TokenizerSettingsBase", "tokenizer_settings"]
