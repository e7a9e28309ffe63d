"""Prompts from a file: one a line, or an object with "prompt" a line."""

from __future__ import annotations

import json
from pathlib import Path

from megadape.data.files import reporting
from megadape.errors import DataError


def read_prompts(path: Path) -> list[str]:
    """The prompts of a file: of a .jsonl file the "prompt" of every object, else every line; an empty line is an empty
    prompt, but is passed over in a .jsonl file.

    Raises:
        DataError: it cannot be read, has none, or a line of it is none.
    """
    with reporting("read the prompts", path):
        content = path.read_bytes()
    try:
        lines = split_lines(content.decode())
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise DataError(f"{path}, line {line}: not UTF-8; write the prompts in UTF-8") from error
    if path.suffix == ".jsonl":
        prompts = [_read_object(path, number, line) for number, line in enumerate(lines, 1) if line.strip()]
    else:
        prompts = lines
    if not prompts:
        raise DataError(f"{path} has no prompts: write one a line")
    return prompts


def split_lines(text: str) -> list[str]:
    """Lines as editors count them, without their ends; what follows the last end is a line only if it is not empty."""
    lines = text.split("\n")
    return [line.removesuffix("\r") for line in (lines if lines[-1] else lines[:-1])]


def _read_object(path: Path, number: int, line: str) -> str:
    try:
        content = json.loads(line)
        prompt = content["prompt"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise DataError(f'{path}, line {number}: not an object with "prompt", such as {{"prompt": "Once"}}') from error
    if not isinstance(prompt, str):
        raise DataError(f'{path}, line {number}: "prompt" must be a text, not {json.dumps(prompt)[:40]}')
    return prompt
