"""Reading settings files, and the names that a user may have meant by one that is not there."""

from __future__ import annotations

import difflib
from pathlib import Path

import megadape
from megadape.config.tree import Origin, Problem
from megadape.config.yaml_strict import Parsed, parse

_SUFFIXES = (".yaml", ".yml")
_MOST = 3

_MAX_BYTES = 16 << 20
"""Bound on a file: /dev/zero never ends."""


def read_file(path: str | Path) -> Parsed:
    """The settings in one YAML file; its root is None if the file cannot be read or is no mapping.

    Args:
        path: As the user gave it; messages and origins repeat it so.
    """
    source = str(path)
    text = _read_text(Path(path), source)
    if isinstance(text, Problem):
        return Parsed(None, [text])
    parsed = parse(text, lambda mark: Origin(source, mark.line + 1))
    root = parsed.root
    if root is not None and not isinstance(root.value, dict):
        what = "a list" if isinstance(root.value, list) else "a single value"
        problem = Problem(root.origin, (), f"a settings file must hold keys with values (such as seed: 1), not {what}")
        return Parsed(None, [*parsed.problems, problem])
    return parsed


def _read_text(path: Path, source: str) -> str | Problem:
    try:
        with path.open("rb") as file:
            data = file.read(_MAX_BYTES + 1)
    except (FileNotFoundError, NotADirectoryError):
        return Problem(Origin(source), (), f"there is no such settings file{_hint(source)}")
    except IsADirectoryError:
        return Problem(Origin(source or "."), (), f"is a folder, not a settings file{_listing(path)}")
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        return Problem(Origin(source), (), f"the settings file cannot be read: {reason}")
    if len(data) > _MAX_BYTES:
        return Problem(Origin(source), (), f"has more than {_MAX_BYTES >> 20} MiB: it is no settings file")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        return Problem(Origin(source, line), (), f"is not UTF-8 text (byte {error.start}); save the file as UTF-8")


def near_files(name: str) -> list[str]:
    """Settings files with a like name: beside it, else in ``configs`` here, else in the repository's ``configs``."""
    wanted = Path(name)
    repository = Path(megadape.__file__).parent.parent / "configs"
    for folder, deep in ((wanted.parent, False), (Path("configs"), True), (repository, True)):
        by_stem: dict[str, list[str]] = {}
        for path in sorted(_yaml_files(folder, deep)):
            by_stem.setdefault(path.stem, []).append(str(path))
        stems = difflib.get_close_matches(wanted.stem, by_stem, n=2)
        if stems:
            return [path for stem in stems for path in by_stem[stem]][:_MOST]
    return []


def _hint(name: str) -> str:
    if "=" in name:
        return f"; if it is a setting, write --set {name}"
    near = near_files(name)
    return f"; did you mean {' or '.join(near)}?" if near else "; give the path of a YAML file"


def _listing(folder: Path) -> str:
    names = sorted(str(path) for path in _yaml_files(folder, deep=False))[:6]
    return f"; it holds {', '.join(names)}" if names else "; give the path of a YAML file"


def _yaml_files(folder: Path, deep: bool) -> list[Path]:
    try:
        inside = folder.rglob("*") if deep else folder.iterdir()
        return [path for path in inside if path.suffix in _SUFFIXES and path.is_file()]
    except OSError:
        return []
