"""The data section: one dataset or a blend, in files and with --set, and the words for its mistakes."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

import pytest

from megadape.config import dump_yaml, load
from megadape.data import DataSettings
from megadape.errors import ConfigurationError
from megadape.settings import Settings

BLEND = """\
data:
  split: "90,10,0"
  max_epochs: 4
  blend:
    - {prefix: data/arxiv, weight: 7}
    - prefix: data/books
      weight: 3.0
      split: "990,10,0"
      name: novels
      max_epochs: 2.5
"""


class Root(Settings):
    """A root that has data alone."""

    data: DataSettings


class WriteFile(Protocol):
    def __call__(self, name: str, text: str) -> str: ...


def test_a_blend_from_a_file(write_file: WriteFile) -> None:
    data = load([write_file("a.yaml", BLEND)], root=Root).data
    first, second = data.parts
    assert [(part.key, part.name, part.weight, part.prefix) for part in data.parts] == [
        ("data.blend[0]", "arxiv", 0.7, Path("data/arxiv")),
        ("data.blend[1]", "novels", 0.3, Path("data/books")),
    ]
    assert (first.settings.split, first.settings.max_epochs) == ("90,10,0", 4)
    assert (second.settings.split, second.settings.max_epochs) == ("990,10,0", 2.5)
    assert load([write_file("b.yaml", dump_yaml(Root(data=data)))], root=Root).data == data


def test_a_blend_on_the_command_line(write_file: WriteFile) -> None:
    given = ["data.prefix=null", "data.blend=[{prefix: x/a, weight: 1, split_by: hash}, {prefix: x/b, weight: 1}]"]
    data = load([write_file("a.yaml", "data: {prefix: data/arxiv}")], given, root=Root).data
    assert [(part.name, part.weight, part.settings.split_by) for part in data.parts] == [
        ("a", 0.5, "hash"),
        ("b", 0.5, "range"),
    ]
    assert load([], ["data.prefix=x/y"], root=Root).data.parts[0].key == "data"


@pytest.mark.parametrize(
    ("text", "overrides", "message"),
    [
        ("data: {split: '1'}", [], r"a\.yaml:1: data: there is no data: give data\.prefix.*or data\.blend"),
        (BLEND, ["data.prefix=data/one"], r"data\.prefix is for one dataset and data\.blend for several, but both"),
        (BLEND, ["data.prefix=data/one"], r"\(data\.prefix: --set; data\.blend: a\.yaml:4\)"),
        (
            BLEND.replace("weight: 3.0", "weight: -1"),
            [],
            r"a\.yaml:7: data\.blend\[1\]\.weight: must be a number above 0",
        ),
        (
            BLEND.replace("weight: 3.0", "wieght: 1"),
            [],
            r"a\.yaml:7: data\.blend\[1\]\.wieght: .*did you mean data\.blend\[1\]\.weight",
        ),
        (BLEND.replace("      weight: 3.0\n", ""), [], r"a\.yaml:6: data\.blend\[1\]\.weight: required key is missing"),
        (
            BLEND.replace("990,10,0", "990;10"),
            [],
            r"a\.yaml:8: data\.blend\[1\]\.split: the split '990;10' is malformed",
        ),
        (BLEND.replace("novels", "arxiv"), [], r"data\.blend has 2 datasets named arxiv: give each a name of its own"),
        (BLEND.replace("novels", "a/b"), [], r"a\.yaml:9: data\.blend\[1\]\.name: must be text that matches"),
        ("data: {blend: []}", [], r"a\.yaml:1: data\.blend: must be a list of at least 1"),
        ("data: {blend: {prefix: a}}", [], r"a\.yaml:1: data\.blend: must be a list"),
        (
            "data: {prefix: a, loader: {workers: -1}}",
            [],
            r"data\.loader\.workers: must be a whole number of at least 0",
        ),
        ("data: {prefix: a, loader: {pin_memory: maybe}}", [], r"data\.loader\.pin_memory: must be .*auto"),
    ],
)
def test_mistakes_are_told_with_file_line_and_key(
    write_file: WriteFile, text: str, overrides: list[str], message: str
) -> None:
    with pytest.raises(ConfigurationError, match=message):
        load([write_file("a.yaml", text)], overrides, root=Root)
