"""Every command line in README and pages is one that the command understands; nothing is run."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
import typer
from pages import PAGES, ROOT, blocks, inline, logical_lines, megadape_words

from megadape.cli import app
from megadape.cli.base import DefaultsToRun

COMMAND: Any = typer.main.get_command(app)


def parse(words: Sequence[str]) -> None:
    """Read words as the command would, down to the last group; whatever it refuses is raised."""
    command, name, rest = COMMAND, "megadape", list(words)
    parent = None
    while True:
        parent = command.make_context(name, rest, parent=parent)
        if not hasattr(command, "commands"):
            return
        remaining = [*getattr(parent, "_protected_args", ()), *parent.args]
        name, command, rest = command.resolve_command(parent, remaining)


def leaf(words: Sequence[str]) -> tuple[Any, list[str]]:
    """The command that words name, and what is left of them."""
    command, rest = COMMAND, list(words)
    while hasattr(command, "commands"):
        if rest and rest[0] in command.commands:
            command = command.commands[rest.pop(0)]
        elif rest and isinstance(command, DefaultsToRun):
            command = command.commands["run"]
        else:
            assert not rest or rest[0].startswith("-"), f"there is no command {rest[0]!r}"
            break
    return command, rest


def options(command: Any) -> set[str]:
    names = {name.strip() for one in command.params for name in (*one.opts, *one.secondary_opts)}
    return {*names, "--help"}


def written_commands() -> Iterator[Any]:
    """The command lines of all blocks, and of the study files' comments."""
    for page in PAGES:
        for block in blocks(page):
            for line in logical_lines(block.text):
                words = megadape_words(line)
                if words is not None and "..." not in words:
                    yield pytest.param(words, id=f"{page.name}:{block.line} {' '.join(words)[:60]}")
    for file in sorted((ROOT / "configs").rglob("*.yaml")):
        comments = "\n".join(
            line.removeprefix("#").strip() for line in file.read_text().splitlines() if line[:1] == "#"
        )
        for line in logical_lines(comments):
            words = megadape_words(line)
            if words is not None:
                yield pytest.param(words, id=f"{file.name} {' '.join(words)[:60]}")


def documented_examples() -> Iterator[Any]:
    """The examples in the help of every command."""

    def walk(command: Any, name: str) -> Iterator[Any]:
        for paragraph in (command.help or "").split("\n\n"):
            line = " ".join(paragraph.split())
            if line.startswith("Example:"):
                yield pytest.param(megadape_words(line.removeprefix("Example:").strip()), id=f"{name}: {line[:70]}")
        for child, one in getattr(command, "commands", {}).items():
            yield from walk(one, f"{name} {child}")

    yield from walk(COMMAND, "megadape")


WRITTEN, EXAMPLES = list(written_commands()), list(documented_examples())


def test_commands_are_found() -> None:
    assert len(WRITTEN) > 60
    assert len(EXAMPLES) > 20
    with pytest.raises(Exception, match="--no-such-option"):
        parse(["train", "a.yaml", "--no-such-option"])
    with pytest.raises(Exception, match="no-such-command"):
        parse(["no-such-command"])


@pytest.mark.parametrize("words", [*WRITTEN, *EXAMPLES])
def test_the_command_understands(words: list[str]) -> None:
    if "--help" in words:
        leaf(words)
    else:
        parse(words)


def test_every_command_has_an_example() -> None:
    def walk(command: Any, name: str) -> Iterator[str]:
        if not hasattr(command, "commands"):
            if not command.hidden and "Example:" not in (command.help or ""):
                yield name
            return
        for child, one in command.commands.items():
            yield from walk(one, f"{name} {child}")

    assert list(walk(COMMAND, "megadape")) == []


def test_commands_in_sentences_exist() -> None:
    """``megadape data inspect | validate`` names two commands; words in capitals stand for something."""
    found = 0
    for page in PAGES:
        for token in inline(page, "code_inline"):
            words = token.content.split()
            if len(words) < 2 or words[0] != "megadape" or not re.fullmatch(r"[\w-]+|--\w.*", words[1]):
                continue
            found += 1
            *_, alternatives = _alternatives(words[1:])
            for one in alternatives:
                command, rest = leaf([word for word in one if not word.isupper()])
                unknown = {word for word in rest if word.startswith("--")} - options(command)
                assert not unknown, f"{page.name}: {token.content}: no option {', '.join(unknown)}"
    assert found > 20


def _alternatives(words: list[str]) -> Iterator[list[list[str]]]:
    """``data inspect | validate`` as ``data inspect`` and ``data validate``."""
    if "|" not in words:
        yield [words]
        return
    first = words.index("|") - 1
    names = [word for word in words[first:] if word != "|"]
    yield [[*words[:first], name] for name in names if not name.isupper()]
