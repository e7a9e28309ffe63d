"""Figures: every format, the numbers beside them, and what cannot be drawn."""

import csv
from itertools import pairwise
from math import inf, nan
from pathlib import Path

import matplotlib
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from megadape.errors import EvaluationError
from megadape.evaluation.figures import (
    draw_extrapolation,
    draw_heads,
    format_value,
    write_curves_csv,
    write_heads_csv,
)
from megadape.evaluation.figures.heads import describe, is_present, running_mean, shared_limits
from megadape.evaluation.figures.labels import spread_labels
from megadape.evaluation.figures.style import style_of
from megadape.evaluation.heads import HeadProfile

LENGTHS = (128, 256, 512, 1024, 2048, 4096, 8192)
CURVES = {
    "rope": dict(zip(LENGTHS, (4.3, 5.9, 9.1, 13.8, 18.9, 23.6, 27.4), strict=True)),
    "alibi": dict(zip(LENGTHS, (5.3, 5.25, 5.22, 5.2, 5.2, 5.21, 5.2), strict=True)),
    "dape-kerple": dict(zip(LENGTHS, (4.15, 4.11, 4.08, 4.06, 4.05, 4.05, 4.05), strict=True)),
}
SIGNATURES = {"png": b"\x89PNG\r\n", "svg": b"<?xml", "pdf": b"%PDF-"}


def make_profile(heads: int = 4, query: int = 40, *, bias: bool = True, mixer: bool = True) -> HeadProfile:
    generator = np.random.default_rng(0)
    score = generator.normal(size=(heads, query + 1)).astype(np.float32)
    static = (-bias * np.log1p(np.arange(query + 1)) * np.ones((heads, 1))).astype(np.float32)
    logits = score + static + np.float32(mixer) * np.sin(score)
    return HeadProfile(1, query, score, static, logits - score - static)


def read(path: Path) -> list[list[str]]:
    with path.open(newline="") as file:
        return list(csv.reader(file))


@pytest.mark.parametrize("suffix", SIGNATURES)
def test_both_figures_in_every_format_with_the_same_bytes_each_time(tmp_path: Path, suffix: str) -> None:
    for name in ("first", "second"):
        draw_extrapolation(CURVES, 128, tmp_path / f"{name}_curves.{suffix}", title="a title")
        draw_heads(make_profile(), tmp_path / f"{name}_heads.{suffix}", title="a title")
    for figure in ("curves", "heads"):
        first, second = ((tmp_path / f"{name}_{figure}.{suffix}").read_bytes() for name in ("first", "second"))
        assert first.startswith(SIGNATURES[suffix])
        assert first == second


def test_the_curve_figure_says_what_it_shows(tmp_path: Path) -> None:
    path = tmp_path / "curves.svg"
    draw_extrapolation(CURVES | {"a$b<c": {128: 4.0}}, 512, path, ylabel="bits per byte")
    text = path.read_text()
    for expected in ("trained at 512", "rope  27.4", "dape-kerple  4.05", "bits per byte", "8192"):
        assert f">{expected}<" in text
    assert "a$b&lt;c  4.00 at 128" in text  # signs are text; a curve that ends early says where
    assert "off the scale" not in text


@pytest.mark.parametrize(
    ("curves", "clipped"),
    [
        ({"rope": {128: 5.0}}, False),
        ({"rope": {128: inf, 256: inf}}, True),
        ({"rope": {128: 4.6, 256: 265.0, 512: inf}, "alibi": {128: 4.6, 256: 4.5, 512: 4.4}}, True),
        ({"rope": {128: 4.6, 256: 9e6}, "alibi": {128: 4.6, 256: 4.5}}, True),
        ({"rope": {128: 4.6, 256: 265.0}}, False),
        ({"none": {128: 0.0, 256: 0.0}}, False),
        ({f"method {index}": {128: 4.0 + index, 1000: 4.0} for index in range(20)}, False),
        ({"a method with a name as long as a sentence would be": {128: 4.0, 256: 5.0}}, False),
    ],
)
def test_unusual_curves(tmp_path: Path, curves: dict[str, dict[int, float]], clipped: bool) -> None:
    path = tmp_path / "curves.svg"
    draw_extrapolation(curves, 128, path)
    assert ("off the scale" in path.read_text()) == clipped
    for method, curve in curves.items():
        assert f"{method}  {format_value(curve[max(curve)])}" in path.read_text()


@pytest.mark.parametrize("heads", [1, 4, 11])
@pytest.mark.parametrize("query", [0, 300])
def test_heads_of_any_number_at_any_query(tmp_path: Path, heads: int, query: int) -> None:
    path = tmp_path / "heads.svg"
    draw_heads(make_profile(heads, query), path)
    text = path.read_text()
    assert all(f">head {head}<" in text for head in range(heads))
    assert f"layer 1, query {query}" in text


def test_terms_that_the_model_lacks_are_left_out_and_named(tmp_path: Path) -> None:
    path = tmp_path / "heads.svg"
    draw_heads(make_profile(bias=False, mixer=False), path, title="rope")
    assert ">attention score<" in path.read_text()
    assert ">static bias<" not in path.read_text()
    assert "(no static bias, no DAPE correction)" in path.read_text()
    assert describe(make_profile(), ["score", "bias", "correction"], "dape") == "dape"


def test_rounding_is_no_correction() -> None:
    profile = make_profile(mixer=False)
    values = {name: getattr(profile, name).astype(float) for name in ("score", "bias", "correction")}
    assert np.abs(values["correction"]).max() > 0
    assert not is_present(values, "correction")
    values["correction"][2, 3] += 1e-3
    assert is_present(values, "correction")


def test_csv_files_equal_the_data(tmp_path: Path) -> None:
    curves = CURVES | {"learned": {128: 4.123456789012345, 256: inf}}
    write_curves_csv(curves, tmp_path / "curves.csv")
    header, *rows = read(tmp_path / "curves.csv")
    assert header == ["method", *map(str, LENGTHS)]
    assert {row[0]: {int(n): float(v) for n, v in zip(header[1:], row[1:], strict=True) if v} for row in rows} == curves

    profile = make_profile(3, 5)
    write_heads_csv(profile, tmp_path / "heads.csv")
    header, *rows = read(tmp_path / "heads.csv")
    assert header == ["head", "distance", "score", "bias", "correction"]
    assert [row[:2] for row in rows] == [[str(head), str(distance)] for head in range(3) for distance in range(6)]
    table = np.array([[float(value) for value in row[2:]] for row in rows]).reshape(3, 6, 3)
    np.testing.assert_array_equal(table, np.stack([profile.score, profile.bias, profile.correction], axis=-1))


def test_what_cannot_be_drawn_leaves_nothing_behind(tmp_path: Path) -> None:
    path = tmp_path / "figure.png"
    with pytest.raises(EvaluationError, match="rope at length 256 is not a number"):
        draw_extrapolation({"rope": {128: 4.0, 256: nan}}, 128, path)
    with pytest.raises(EvaluationError, match="no results to show"):
        draw_extrapolation({}, 128, path)
    with pytest.raises(EvaluationError, match="no results of rope"):
        write_curves_csv({"rope": {}}, path)
    with pytest.raises(EvaluationError, match=r"figure\.jpeg.*\.png, \.svg, \.pdf"):
        draw_extrapolation(CURVES, 128, path.with_suffix(".jpeg"))
    broken = make_profile()
    broken.correction[0, 0] = nan
    with pytest.raises(EvaluationError, match="DAPE correction of layer 1"):
        draw_heads(broken, path)
    assert list(tmp_path.iterdir()) == []


def test_an_unwritable_place_is_one_sentence_and_keeps_what_was_there(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(EvaluationError, match=r"figure\.png cannot be written"):
        draw_extrapolation(CURVES, 128, tmp_path / "file" / "figure.png")
    (tmp_path / "taken.csv").mkdir()
    with pytest.raises(EvaluationError, match=r"taken\.csv cannot be written"):
        write_curves_csv(CURVES, tmp_path / "taken.csv")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "taken.csv"]


def test_drawing_leaves_matplotlib_as_it_was(tmp_path: Path) -> None:
    before = dict(matplotlib.rcParams)
    draw_extrapolation(CURVES, 128, tmp_path / "figure.png")
    assert dict(matplotlib.rcParams) == before


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (4.05, "4.05"),
        (9.6, "9.60"),
        (9.996, "10.0"),
        (27.44, "27.4"),
        (99.96, "100"),
        (265.45, "265"),
        (1234.0, "1234"),
        (12_345.0, "1.2e4"),
        (9999.7, "1.0e4"),
        (1e100, "1.0e100"),
        (0.05, "0.05"),
        (inf, "inf"),
    ],
)
def test_values_are_short(value: float, text: str) -> None:
    assert format_value(value) == text


def test_a_method_looks_the_same_everywhere() -> None:
    kerple, dape = style_of("kerple_log"), style_of("dape-kerple")
    assert (kerple.colour, kerple.marker) == (dape.colour, dape.marker)
    assert dape.emphasised
    assert not kerple.emphasised
    assert style_of("DAPE kerple_log") == dape
    assert style_of("dape_v2-kerple").dash != dape.dash
    assert style_of("my own") == style_of("my own")


@given(wanted=st.lists(st.floats(-2, 3), min_size=1, max_size=20), gap=st.floats(0.001, 0.05))
def test_labels_keep_their_distance_and_order(wanted: list[float], gap: float) -> None:
    places = spread_labels(wanted, gap, 0.0, 1.0)
    assert all(second - first >= gap - 1e-9 for first, second in pairwise(sorted(places)))
    assert all(-1e-9 <= place <= 1 + 1e-9 for place in places)
    pairs = [(a, b) for a in range(len(wanted)) for b in range(len(wanted)) if wanted[a] < wanted[b]]
    assert all(places[a] < places[b] for a, b in pairs)


def test_labels_that_are_far_apart_stay_where_they_are() -> None:
    assert spread_labels([0.9, 0.1, 0.5], 0.1, 0.0, 1.0) == pytest.approx([0.9, 0.1, 0.5])
    assert spread_labels([0.5, 0.5], 0.1, 0.0, 1.0) == pytest.approx([0.45, 0.55])


@given(n=st.integers(1, 2000))
def test_running_means_keep_the_mean_of_the_first_distances(n: int) -> None:
    values = np.random.default_rng(n).normal(size=n)
    distances, means = running_mean(values)
    assert distances[0] == 0
    assert means[0] == values[0]
    assert (np.diff(distances) > 0).all()
    assert distances[-1] <= n - 1
    np.testing.assert_allclose(running_mean(np.full(n, 3.0))[1], 3.0)


def test_heads_of_like_range_share_an_axis() -> None:
    values = np.stack([np.linspace(0, top, 10) for top in (1.0, 1.5, 2.0)])
    limits = shared_limits(values)
    assert limits is not None
    assert limits[0] < 0 < 2 < limits[1]
    assert shared_limits(np.stack([np.linspace(0, top, 10) for top in (1.0, 1.5, 200.0)])) is None
