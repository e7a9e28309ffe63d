"""What is shown of texts while they are written: one after the other, each as it grows, in the order of the prompts."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from megadape.generation.engine import News

Write = Callable[[str], None]

VISIBLE = {code: f"\\x{code:02x}" for code in (*range(32), *range(127, 160)) if chr(code) not in "\n\t"}
"""Control characters, which would move a terminal's cursor or worse, and what is shown of them there."""


class Transcript:
    """Shows the text whose turn it is as it comes, and holds those whose turn comes later.

    Args:
        prompts: to be shown before their texts; None: texts alone.
        count: how many texts there are.
        samples: texts of each prompt.
        write: takes what is shown.
    """

    def __init__(self, prompts: Sequence[str] | None, count: int, samples: int, write: Write) -> None:
        self._prompts, self._samples, self._write = prompts, samples, write
        self._held = [""] * count
        self._ended = [False] * count
        self._turn = 0
        self._begun = False

    def tell(self, news: News, first: int = 0) -> None:
        """Take note of a token; ``first`` is the number of the first prompt."""
        if not self._begun:  # not before: what reading the prompts makes known would get between prompt and text
            self._begun = True
            self._open()
        place = (news.prompt - first) * self._samples + news.sample
        self._held[place] += news.text
        self._ended[place] = news.ended
        while self._turn < len(self._held):
            if self._held[self._turn]:
                self._write(self._held[self._turn])
                self._held[self._turn] = ""
            if not self._ended[self._turn]:
                return
            self._write("\n")
            self._turn += 1
            if self._turn < len(self._held):
                self._write("\n")
                self._open()

    def _open(self) -> None:
        if self._prompts is not None:
            self._write(self._prompts[self._turn // self._samples])


class Pace:
    """How fast texts are written."""

    def __init__(self) -> None:
        self._started = time.monotonic()
        self._first: float | None = None
        self._tokens = 0

    def count(self) -> None:
        """A token was written."""
        self._tokens += 1
        if self._first is None:
            self._first = time.monotonic() - self._started

    def __str__(self) -> str:
        seconds = time.monotonic() - self._started
        if self._first is None:
            return "no tokens"
        speed = self._tokens / max(seconds, 1e-9)
        return f"{self._tokens} tokens in {seconds:.2f} s, {speed:.1f} tokens/s, the first after {self._first:.3f} s"


def make_visible(text: str) -> str:
    """A text for a terminal: control characters are spelt out."""
    return text.translate(VISIBLE)
