"""Reading settings: files layered left to right, overrides on top, every mistake at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Generic, TypeVar, overload

from megadape.config.files import read_file
from megadape.config.layers import merge, name_kinds
from megadape.config.overrides import read_overrides
from megadape.config.slots import Slot
from megadape.config.tree import DEFAULT, KeyPath, Node, Origin, Plain, Problem, to_node
from megadape.config.validation import SettingsT, validate
from megadape.config.yaml_strict import Parsed
from megadape.config.yaml_write import leaves, plain
from megadape.errors import ConfigurationError
from megadape.settings import Settings

if TYPE_CHECKING:
    from megadape.config.run import RunSettings


_Held = TypeVar("_Held", bound=Settings, covariant=True)


@dataclass(frozen=True)
class Overlay:
    """Settings that are no file of their own, to be laid over files or under them."""

    values: dict[str, Plain]
    """Nested as in YAML."""

    source: str
    """Where they stand, for messages."""

    def parsed(self) -> Parsed:
        """As if it had been read from a file."""
        return Parsed(to_node(self.values, Origin(self.source)), [])


@dataclass(frozen=True)
class Loaded(Generic[_Held]):
    """Resolved settings and who set each of them."""

    settings: _Held

    origins: dict[KeyPath, Origin]
    """For every leaf (a scalar, a list of plain values, an empty mapping) the line or the override that set it."""


@overload
def load(paths: Sequence[str | Path | Overlay], overrides: Sequence[str] = ()) -> RunSettings: ...
@overload
def load(
    paths: Sequence[str | Path | Overlay], overrides: Sequence[str] = (), *, root: type[SettingsT]
) -> SettingsT: ...
def load(
    paths: Sequence[str | Path | Overlay], overrides: Sequence[str] = (), *, root: type[Settings] | None = None
) -> Settings:
    """Read settings files and overrides.

    Args:
        paths: YAML files, or overlays; a later one lies over an earlier one. Mappings merge, anything else replaces;
            naming another kind of something (``positions.kind``) drops the keys of the old kind.
        overrides: ``key.path=value``, the value in YAML; laid over all files.
        root: The class to fill; ``RunSettings`` if not given.

    Raises:
        ConfigurationError: With all mistakes, each with file, line and key.
    """
    return load_with_origins(paths, overrides, root=root or default_root()).settings


@overload
def load_with_origins(paths: Sequence[str | Path | Overlay], overrides: Sequence[str] = ()) -> Loaded[RunSettings]: ...
@overload
def load_with_origins(
    paths: Sequence[str | Path | Overlay], overrides: Sequence[str] = (), *, root: type[SettingsT]
) -> Loaded[SettingsT]: ...
def load_with_origins(
    paths: Sequence[str | Path | Overlay], overrides: Sequence[str] = (), *, root: type[Settings] | None = None
) -> Loaded[Settings]:
    """Like ``load``, and tells for every setting who set it."""
    assert not isinstance(paths, str | Path), "paths is a list"
    assert not isinstance(overrides, str), "overrides is a list"
    root = root or default_root()
    tree, problems = _read(paths, overrides, Slot(root))
    if tree is None:
        raise _error(problems, paths)
    settings = validate(tree, root, refused={problem.path for problem in problems})
    if isinstance(settings, list) or problems:
        found = settings if isinstance(settings, list) else []
        raise _error([*problems, *found], paths)
    return Loaded(settings, {path: tree.origin_at(path) for path, _ in leaves(plain(settings))})


def default_root() -> type[RunSettings]:
    """The settings of a run; imported here since its parts import torch."""
    from megadape.config.run import RunSettings

    return RunSettings


def _read(
    paths: Sequence[str | Path | Overlay], overrides: Sequence[str], slot: Slot
) -> tuple[Node | None, list[Problem]]:
    """All layers merged, or None if a file could not be read at all, and the mistakes met on the way."""
    files = [path.parsed() if isinstance(path, Overlay) else read_file(path) for path in paths]
    top = read_overrides(list(overrides), slot)
    problems = [problem for parsed in (*files, top) for problem in parsed.problems]
    tree = Node({}, DEFAULT)
    for parsed in (*files, top):
        if parsed.root is None:
            return None, problems
        tree = merge(tree, parsed.root, slot)
    return name_kinds(tree, slot), problems


def _error(problems: list[Problem], paths: Sequence[str | Path | Overlay]) -> ConfigurationError:
    """All mistakes in the order of the files and of their lines, then those of the overrides."""
    sources = [path.source if isinstance(path, Overlay) else str(path) for path in paths]
    order = {source: index for index, source in enumerate(sources)}

    def place(problem: Problem) -> tuple[int, int]:
        origin = problem.origin or DEFAULT
        return order.get(origin.source, len(order)), origin.line or 0

    lines = list(dict.fromkeys(str(problem) for problem in sorted(problems, key=place)))
    if len(lines) == 1:
        return ConfigurationError(lines[0])
    return ConfigurationError("\n  ".join([f"{len(lines)} mistakes in the settings:", *lines]))
