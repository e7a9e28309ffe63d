"""One text that is being written: its tokens, its stream of random numbers, its text, and why it ends."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from megadape.data import Tokenizer
from megadape.generation.settings import GenerationSettings
from megadape.generation.text import StopStrings, TextStream
from megadape.parameters import seed_of

Reason = Literal["end_of_document", "stop", "length"]
"""Why a text ended: its end was drawn, a stop string was written, or max_tokens were drawn."""


@dataclass(frozen=True)
class Generation:
    """One text that was written."""

    prompt: int
    """Number of its prompt."""

    sample: int
    """Which of the texts for that prompt."""

    prompt_tokens: tuple[int, ...]
    """What was read; where a prompt was empty, the token that ends a document."""

    tokens: tuple[int, ...]
    """All that were drawn, with the one that ended the document and those of a stop string."""

    text: str
    """What they stand for, without the end; empty where no tokenizer was given."""

    reason: Reason


@dataclass(frozen=True)
class Prompt:
    """What a text begins with."""

    number: int
    tokens: tuple[int, ...]

    whole: bool = True
    """Whether it ends with a whole character."""


class Writing:
    """A text in the making.

    Args:
        prompt: it begins with.
        sample: its number among the texts for the prompt.
        settings: when it ends.
        tokenizer: gives its text.
        end: the token that ends a document, where there is one.
    """

    def __init__(
        self, prompt: Prompt, sample: int, settings: GenerationSettings, tokenizer: Tokenizer | None, end: int | None
    ) -> None:
        self.prompt, self.sample, self.settings, self.end = prompt, sample, settings, end
        self.tokens: list[int] = []
        self.reason: Reason | None = None
        self._text: list[str] = []
        self._stops = StopStrings(settings.stop, keep=settings.keep_stop)
        self._stream = TextStream(tokenizer, prompt.tokens, whole=prompt.whole) if tokenizer is not None else None
        name = f"generate/{prompt.number}/{sample}"
        self._random = torch.Generator().manual_seed(seed_of(settings.seed, name))

    def draw(self) -> Tensor:
        """The next random number, in [0, 1): a scalar in float64."""
        return torch.rand((), generator=self._random, dtype=torch.float64)

    def take(self, token: int) -> str:
        """Add a token; the text that is certain now."""
        assert self.reason is None, "it has ended"
        self.tokens.append(token)
        if token == self.end and not self.settings.ignore_end:
            return self._finish("end_of_document")
        text = "" if self._stream is None else self._stops.push(self._stream.push(token))
        self._text.append(text)
        if self._stops.found:
            self.reason = "stop"
        elif len(self.tokens) == self.settings.max_tokens:
            text += self._finish("length")
        return text

    def result(self) -> Generation:
        """What was written."""
        assert self.reason is not None, "it has not ended"
        prompt = self.prompt
        text = "".join(self._text)
        return Generation(prompt.number, self.sample, prompt.tokens, tuple(self.tokens), text, self.reason)

    def _finish(self, reason: Reason) -> str:
        """The end; what was held back is text after all."""
        self.reason = reason
        rest = ""
        if self._stream is not None:
            rest = self._stops.push(self._stream.finish())
            if self._stops.found:
                self.reason = "stop"
            else:
                rest += self._stops.finish()
        self._text.append(rest)
        return rest


def seen_tokens(writings: Sequence[Writing], vocabulary: int, device: torch.device) -> Tensor:
    """[writings, vocabulary] booleans: the tokens of each text, its prompt's included."""
    seen = torch.zeros(len(writings), vocabulary, dtype=torch.bool)
    for row, writing in zip(seen, writings, strict=True):
        row[[*writing.prompt.tokens, *writing.tokens]] = True
    return seen.to(device)
