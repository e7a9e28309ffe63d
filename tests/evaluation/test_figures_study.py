"""Figures of studies: bands, costs, positions, passkeys, and variants that can be told apart."""

from __future__ import annotations

import csv
from collections.abc import Callable
from itertools import combinations
from math import inf, nan
from pathlib import Path

import pytest

from megadape.errors import EvaluationError
from megadape.evaluation.figures import (
    draw_costs,
    draw_extrapolation,
    draw_passkey,
    draw_positions,
    write_costs_csv,
    write_passkey_csv,
    write_positions_csv,
)
from megadape.evaluation.figures.positions import middles
from megadape.evaluation.figures.style import VARIANTS, split_variant, style_of
from megadape.evaluation.results import Passkey, PasskeyPlace, PositionLosses

EDGES = (0, 1, 4, 16, 64)
COSTS = {"rope": (1.0, 27.4), "dape-kerple": (1.4, 4.05), "none": (1.1, inf)}
POSITIONS = {
    "rope": PositionLosses(64, EDGES, (5.0, 3.0, 2.0, inf), 8),
    "dape-kerple": PositionLosses(64, EDGES, (5.0, 3.0, 2.0, 1.5), 8),
}
PASSKEYS = {
    method: Passkey(128, 10, tuple(PasskeyPlace(length, depth, 20, 1.0, 0.25, 0.5) for length, depth in places))
    for method, places in {"rope": [(128, 0.5)], "alibi": [(128, 0.0), (256, 0.0), (256, 1.0)]}.items()
}

Draw = Callable[[Path], None]
DRAWINGS: dict[str, Draw] = {
    "bands": lambda path: draw_extrapolation(
        {"rope": {128: 4.0, 256: 9.0}}, 128, path, bands={"rope": {128: (3.9, 4.1), 256: (8.0, inf)}}
    ),
    "costs": lambda path: draw_costs(COSTS, path, title="a title"),
    "positions": lambda path: draw_positions(POSITIONS, 16, path, title="a title"),
    "passkey": lambda path: draw_passkey(PASSKEYS, path, title="a title"),
}


def read(path: Path) -> list[list[str]]:
    with path.open(newline="") as file:
        return list(csv.reader(file))


@pytest.mark.parametrize("name", DRAWINGS)
def test_every_figure_has_the_same_bytes_each_time(tmp_path: Path, name: str) -> None:
    first, second = tmp_path / "first.svg", tmp_path / "second.svg"
    DRAWINGS[name](first)
    DRAWINGS[name](second)
    assert first.read_bytes() == second.read_bytes()
    DRAWINGS[name](first.with_suffix(".png"))
    assert first.with_suffix(".png").read_bytes()[:4] == b"\x89PNG"


def test_a_band_is_drawn_where_there_is_one(tmp_path: Path) -> None:
    curves = {"rope": {128: 4.0, 256: 9.0}}
    draw_extrapolation(curves, 128, tmp_path / "plain.svg")
    DRAWINGS["bands"](tmp_path / "bands.svg")
    assert ("FillBetween" in (tmp_path / "plain.svg").read_text()) is False
    assert "FillBetween" in (tmp_path / "bands.svg").read_text()


def test_figures_say_what_they_show(tmp_path: Path) -> None:
    for name, expected in {
        "costs": ("rope  27.4", "dape-kerple  4.05", "none  inf", "training time (cheapest = 1)", "a title"),
        "positions": ("rope  inf", "dape-kerple  1.50", "position in the text (tokens)", "trained at 16"),
        "passkey": ("right key likeliest", "key written out", "alibi", "100%", "25%", "256", "length (tokens)"),
    }.items():
        DRAWINGS[name](tmp_path / "figure.svg")
        text = (tmp_path / "figure.svg").read_text()
        for words in expected:
            assert f">{words}<" in text, words


def test_csv_files_equal_the_data(tmp_path: Path) -> None:
    path = tmp_path / "figure.csv"
    write_costs_csv(COSTS, path)
    header, *rows = read(path)
    assert header == ["method", "cost", "value"]
    assert {row[0]: (float(row[1]), float(row[2])) for row in rows} == COSTS

    write_positions_csv(POSITIONS, path)
    header, *rows = read(path)
    assert header == ["method", "position_from", "position_to", "loss"]
    assert [row[1:3] for row in rows[:4]] == [["0", "0"], ["1", "3"], ["4", "15"], ["16", "63"]]
    assert [float(row[3]) for row in rows] == [*POSITIONS["rope"].losses, *POSITIONS["dape-kerple"].losses]

    write_passkey_csv(PASSKEYS, path)
    header, *rows = read(path)
    assert header == ["method", "length", "depth", "trials", "likelihood", "exact", "key_loss", "candidates"]
    assert rows == [
        ["rope", "128", "0.5", "20", "1.0", "0.25", "0.5", "10"],
        *[["alibi", *place, "20", "1.0", "0.25", "0.5", "10"] for place in (["128", "0.0"], ["256", "0.0"])],
        ["alibi", "256", "1.0", "20", "1.0", "0.25", "0.5", "10"],
    ]


def test_stretches_stand_at_their_middle() -> None:
    assert middles((0, 1, 4, 16)) == pytest.approx([1.0, (2 * 4) ** 0.5, (5 * 16) ** 0.5])


def test_what_cannot_be_drawn_leaves_nothing_behind(tmp_path: Path) -> None:
    path = tmp_path / "figure.png"
    with pytest.raises(EvaluationError, match="no costs to show"):
        draw_costs({}, path)
    with pytest.raises(EvaluationError, match="of rope cannot be drawn"):
        draw_costs({"rope": (1.0, nan)}, path)
    with pytest.raises(EvaluationError, match="of rope cannot be drawn"):
        write_costs_csv({"rope": (inf, 4.0)}, path)
    with pytest.raises(EvaluationError, match="no losses by position"):
        draw_positions({}, 16, path)
    with pytest.raises(EvaluationError, match="loss by position of rope is not a number"):
        draw_positions({"rope": PositionLosses(4, (0, 4), (nan,), 1)}, 16, path)
    with pytest.raises(EvaluationError, match="no passkeys to show"):
        draw_passkey({"rope": Passkey(128, 10, ())}, path)
    assert list(tmp_path.iterdir()) == []


# --- variants


@pytest.mark.parametrize(
    ("name", "encoding", "variant"),
    [
        ("kerple", "kerple_log", ""),
        ("kerple_d16", "kerple_log", "d16"),
        ("kerple_power_d4", "kerple_power", "d4"),
        ("randomized_rope", "randomized_rope", ""),
        ("kerple_concat_residual", "kerple_log", "concat_residual"),
        ("my_own", None, ""),
    ],
)
def test_names_are_read_as_encoding_and_variant(name: str, encoding: str | None, variant: str) -> None:
    assert split_variant(name) == (encoding, variant)


def test_variants_keep_the_colour_of_their_encoding_and_look_different() -> None:
    names = ["kerple", "dape-kerple", *(f"dape-kerple-{variant}" for variant in VARIANTS), "dape-kerple-mine"]
    styles = {name: style_of(name) for name in names}
    assert {style.colour for style in styles.values()} == {style_of("kerple").colour}
    for first, second in combinations(names, 2):
        if (first, second) != ("kerple", "dape-kerple"):  # told apart by width and filled markers
            assert (styles[first].marker, styles[first].dash) != (styles[second].marker, styles[second].dash)
    assert styles["dape-kerple-d16"].line()["linewidth"] < styles["dape-kerple"].line()["linewidth"]
    assert style_of("dape-kerple-mine") == styles["dape-kerple-mine"]
