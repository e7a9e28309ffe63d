"""The file of the texts: each is a line of it as soon as it is finished, and the file takes its name when all are."""

from __future__ import annotations

import json
import logging
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO, Self

from megadape.errors import EvaluationError
from megadape.generation.writing import Generation

logger = logging.getLogger(__name__)

PARTIAL = ".partial"
"""What the name ends in until all texts are there."""


class TextsFile:
    """JSON lines, one a text, in the order of prompts and samples. As a context.

    What an interruption finds finished stays in FILE.partial, whole lines alone; an older FILE is untouched then. What
    is no regular file, such as /dev/stdout, is written to as it stands.

    Args:
        path: of the file; its folder is made.
        samples: texts of each prompt.

    Raises:
        EvaluationError: on entering, or with a text: it cannot be written.
    """

    def __init__(self, path: Path, samples: int) -> None:
        self.path, self._samples = path, samples
        self._next = (0, 0)
        self._held: dict[tuple[int, int], bytes] = {}
        self._count, self._end = 0, 0
        self._made: list[Path] = []

    def __enter__(self) -> Self:
        try:
            special = self.path.exists() and not self.path.is_file()
            self._final = None if special else self.path.resolve()
            self._open = self.path if self._final is None else self._final.with_name(f"{self._final.name}{PARTIAL}")
            self._made = [folder for folder in self._open.parents if not folder.exists()]
            self._open.parent.mkdir(parents=True, exist_ok=True)
            self._file: BinaryIO = self._open.open("wb", buffering=0)
        except OSError as error:
            raise self._cannot(error) from error
        return self

    def add(self, prompt: str, text: Generation) -> None:
        """Take a finished text; it is written when those before it are."""
        row = {
            "prompt": prompt,
            "sample": text.sample,
            "text": text.text,
            "tokens": list(text.tokens),
            "reason": text.reason,
        }
        self._held[text.prompt, text.sample] = (json.dumps(row, ensure_ascii=False) + "\n").encode()
        while self._next in self._held:
            self._write(self._held.pop(self._next))
            number, sample = self._next
            self._next = (number, sample + 1) if sample + 1 < self._samples else (number + 1, 0)

    def _write(self, line: bytes) -> None:
        try:
            left = memoryview(line)
            while left:
                left = left[self._file.write(left) :]
        except OSError as error:
            raise self._cannot(error) from error
        self._count, self._end = self._count + 1, self._end + len(line)

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        with self._file:
            if self._final is not None and kind is not None:
                with suppress(OSError):
                    self._file.truncate(self._end)  # no half a line
        if self._final is None:
            return
        if kind is None:
            try:
                self._open.replace(self._final)
            except OSError as error:
                raise self._cannot(error) from error
        elif self._count:
            there = "1 text was" if self._count == 1 else f"{self._count} texts were"
            logger.warning("%s is not written; %s finished: see %s", self.path, there, self._open)
        else:
            self._open.unlink(missing_ok=True)
            for folder in self._made:
                with suppress(OSError):
                    folder.rmdir()

    def _cannot(self, error: OSError) -> EvaluationError:
        return EvaluationError(f"{self.path} cannot be written: {error.strerror or error}")
