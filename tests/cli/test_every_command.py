"""Every command has a help with an example, a test of its main path, and ends every mistake with one sentence."""

from __future__ import annotations

import ast
import errno
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner
from worst_inputs import MAIN, WORST, make_house

from megadape.cli import app
from megadape.cli.base import machine_refusal

TESTS = Path(__file__).parents[1]


def walk(command: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    if not hasattr(command, "commands"):
        yield name, command
    for child, one in getattr(command, "commands", {}).items():
        yield from walk(one, f"{name} {child}".strip())


COMMANDS = dict(walk(typer.main.get_command(app)))
SHOWN = [name for name, command in COMMANDS.items() if not command.hidden]


def snapshot(folder: Path) -> dict[Path, tuple[int, int]]:
    """Everything below a folder, with sizes and times of files; a dataset's cache may come and go."""
    paths = (path for path in folder.rglob("*") if ".cache" not in str(path))
    return {path: (path.stat().st_size, path.stat().st_mtime_ns) if path.is_file() else (0, 0) for path in paths}


@pytest.fixture(scope="module")
def house(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("worst inputs")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        make_house(folder, corpus)
    return folder


@pytest.mark.parametrize("name", COMMANDS)
def test_the_help_tells_of_every_word(name: str) -> None:
    command = COMMANDS[name]
    silent = [one.name for one in command.params if one.name != "help" and not getattr(one, "help", None)]
    assert not silent, f"megadape {name}: no help for {', '.join(silent)}"
    shown = CliRunner().invoke(app, [*name.split(), "--help"], terminal_width=200)
    assert shown.exit_code == 0
    for one in command.params:
        assert all(word in shown.stdout for word in one.opts if word.startswith("--"))


@pytest.mark.parametrize("name", SHOWN)
def test_the_examples_are_understood(name: str) -> None:
    """Parsed by the command itself; nothing is run."""
    paragraphs = (" ".join(part.split()) for part in (COMMANDS[name].help or "").split("\n\n"))
    examples = [line.removeprefix("Example: ") for line in paragraphs if line.startswith("Example: ")]
    assert examples, f"megadape {name} --help has no example"
    for example in examples:
        words = shlex.split(example.split(" > ")[0])
        assert words[0] == "megadape"
        typed = words[1:] if name != "evaluate run" else ["evaluate", "run", *words[2:]]
        assert typed[: len(name.split())] == name.split()
        COMMANDS[name].make_context(name, typed[len(name.split()) :])


def test_every_command_is_in_the_tables() -> None:
    assert WORST.keys() == COMMANDS.keys()
    assert all(WORST.values())
    assert MAIN.keys() == set(SHOWN)


@pytest.mark.parametrize("place", sorted(set(MAIN.values())))
def test_the_tests_of_main_paths_exist(place: str) -> None:
    file, _, name = place.partition("::")
    tree = ast.parse((TESTS / file).read_text())
    assert name in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}


@pytest.mark.parametrize(("words", "said"), [entry for entries in WORST.values() for entry in entries])
def test_the_worst_inputs(words: str, said: str, house: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(house)
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    before = snapshot(house)
    result = CliRunner().invoke(app, shlex.split(words), input="")
    assert isinstance(result.exception, SystemExit), result.exception
    assert result.exit_code == 2, result.output
    assert said in result.stderr
    assert "Traceback" not in result.stderr
    told = [line for line in result.stderr.splitlines() if line.startswith(("megadape: ", "Error: "))]
    assert len(told) == 1, result.stderr
    assert snapshot(house) == before


def test_scripts_are_printed(house: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(house)
    for words in ("slurm render good.yaml", "slurm script evaluate"):
        printed = CliRunner().invoke(app, [*words.split(), "--cluster", "site.yaml"])
        assert printed.exit_code == 0, printed.output
        assert printed.stdout.startswith("#!/usr/bin/env bash\n")


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "No space left on device"),
        (PermissionError(errno.EACCES, "Permission denied", "runs/a"), "runs/a: Permission denied"),
        (MemoryError(), "not enough memory"),
        (RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB.\nmore"), "(CUDA out of memory. Tried"),
        (BrokenPipeError(errno.EPIPE, "Broken pipe"), None),
        (RuntimeError("out of range"), None),
        (KeyError("a bug"), None),
    ],
    ids=repr,
)
def test_what_the_machine_refuses_is_told_and_a_bug_is_not_hidden(error: Exception, said: str | None) -> None:
    refusal = machine_refusal(error)
    assert (refusal is None) == (said is None)
    assert (said or "") in (refusal or "")
