"""The report: one table in four forms, safe and self-contained."""

import json
from dataclasses import replace
from html.parser import HTMLParser
from math import inf, nan
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from megadape.errors import EvaluationError
from megadape.evaluation.figures import draw_extrapolation
from megadape.studies.report import (
    DemoReport,
    MethodResult,
    comparison_rows,
    results_json,
    write_html,
    write_markdown,
)

NASTY = "<script>alert('$x & \"y\"')</script> | `a` *b* _c_"


def make_method(name: str, *perplexities: float) -> MethodResult:
    curve = {128 * 2**index: value for index, value in enumerate(perplexities)}
    bits = {length: value / 3 for length, value in curve.items()}
    return MethodResult(name, curve, bits, train_seconds=61.25, parameters=812_345, steps=600, final_loss=1.437)


def make_report(*methods: MethodResult) -> DemoReport:
    chosen = methods or (make_method("rope", 4.30, 27.4), make_method("dape-kerple", 4.15, 4.05))
    return DemoReport("A title", ("A sentence.",), chosen, 128, facts={"seed": "1234"})


class Page(HTMLParser):
    """Collects what a page shows and what it refers to."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.references: list[str] = []
        self.best: list[str] = []
        self.text = ""
        self._in_best = False
        self.source = path.read_text(encoding="utf-8")
        self.feed(self.source)
        self.close()

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self._in_best = ("class", "best") in attributes
        self.references += [value or "" for name, value in attributes if name in ("src", "href", "srcset", "action")]

    def handle_data(self, data: str) -> None:
        self.text += data
        if self._in_best:
            self.best.append(data)
        self._in_best = False


def test_json_has_the_promised_shape_and_survives_json() -> None:
    results = results_json(make_report(make_method("rope", 4.3, inf), make_method("alibi", 5.3, 5.2)))
    assert results["methods"]["rope"]["perplexity"] == {"128": 4.3, "256": None}
    assert set(results["methods"]["alibi"]) == {
        "perplexity",
        "bits_per_byte",
        "train_seconds",
        "parameters",
        "steps",
        "final_loss",
    }
    assert results["methods"]["alibi"]["bits_per_byte"] == {"128": 5.3 / 3, "256": 5.2 / 3}
    assert results["methods"]["alibi"]["train_seconds"] == 61.25
    assert results["methods"]["alibi"]["parameters"] == 812_345
    assert results["training_length"] == 128
    assert results["mode"] == "fixed_target"
    assert json.loads(json.dumps(results, allow_nan=False)) == results


def test_rows_for_a_terminal_mark_the_best_of_each_length() -> None:
    report = make_report(
        make_method("rope", 4.0, 12_345.0, inf), make_method("alibi", 4.2, 4.1, inf), make_method("fire", 4.0)
    )
    assert comparison_rows(report) == (
        ["method", "128", "256", "512", "train s", "parameters"],
        [
            ["rope", "*4.00", "1.2e4", "inf", "61", "812,345"],
            ["alibi", "4.20", "*4.10", "inf", "61", "812,345"],
            ["fire", "*4.00", "\N{EN DASH}", "\N{EN DASH}", "61", "812,345"],
        ],
    )


def test_one_method_at_one_length_is_no_contest(tmp_path: Path) -> None:
    report = make_report(make_method("rope", 4.3))
    assert comparison_rows(report)[1] == [["rope", "4.30", "61", "812,345"]]
    write_html(report, tmp_path / "report.html")
    assert Page(tmp_path / "report.html").best == []


@given(values=st.lists(st.tuples(st.floats(1, 1e6), st.floats(1, 1e6)), min_size=2, max_size=6))
def test_every_length_has_a_best_and_it_is_the_lowest(values: list[tuple[float, float]]) -> None:
    _, rows = comparison_rows(make_report(*(make_method(f"m{index}", *pair) for index, pair in enumerate(values))))
    for column in (0, 1):
        marked = [index for index, row in enumerate(rows) if row[1 + column].startswith("*")]
        lowest = min(pair[column] for pair in values)
        assert marked == [index for index, pair in enumerate(values) if pair[column] == lowest]


def test_the_page_stands_alone(tmp_path: Path) -> None:
    for name in ("curves.png", "curves.svg"):
        draw_extrapolation(make_report().perplexity, 128, tmp_path / name)
    figures = [("A caption.", tmp_path / "curves.png"), ("Another.", tmp_path / "curves.svg")]
    path = tmp_path / "report.html"
    write_html(replace(make_report(), figures=figures), path)
    for picture in tmp_path.glob("curves.*"):
        picture.unlink()
    page = Page(path)
    assert [reference.split(",")[0] for reference in page.references] == [
        "data:image/png;base64",
        "data:image/svg+xml;base64",
    ]
    assert not {"script", "link", "iframe", "object"} & set(page.tags)
    assert "http" not in page.source.replace("http-equiv", "")
    assert "url(" not in page.source
    assert "@import" not in page.source
    for shown in ("A title", "A sentence.", "A caption.", "dape-kerple", "27.4", "fixed_target", "same target tokens"):
        assert shown in page.text
    assert page.best == ["4.15", "4.05", "1.383", "1.350"]


def test_everything_is_escaped(tmp_path: Path) -> None:
    draw_extrapolation(make_report().perplexity, 128, tmp_path / "curves.png")
    path = tmp_path / "report.html"
    method = make_method(NASTY, 4.0)
    write_html(DemoReport(NASTY, (NASTY,), (method,), 128, [(NASTY, tmp_path / "curves.png")], {NASTY: NASTY}), path)
    page = Page(path)
    assert "script" not in page.tags
    assert page.text.count(NASTY) == 3 + 3 + 1 + 2  # title twice, summary; three tables; caption; label and value


def test_markdown(tmp_path: Path) -> None:
    figure = tmp_path / "figures" / "the curves.png"
    report = replace(make_report(make_method(NASTY, 4.0), make_method("alibi", 3.5)), figures=[("A [caption]", figure)])
    write_markdown(report, tmp_path / "report.md")
    lines = (tmp_path / "report.md").read_text().splitlines()
    assert lines[0] == "# A title"
    assert "| alibi | **3.50** | 61 | 812,345 |" in lines
    assert "![A \\[caption\\]](<figures/the%20curves.png>)" in lines
    nasty = next(line for line in lines if "script" in line)
    assert nasty.replace("\\|", "").count("|") == 5
    assert "\\<script\\>" in nasty


@pytest.mark.parametrize("write", [write_html, write_markdown])
def test_what_is_no_number_is_refused_before_anything_is_written(tmp_path: Path, write: object) -> None:
    assert callable(write)
    with pytest.raises(EvaluationError, match="rope at length 128 is not a number"):
        write(make_report(make_method("rope", nan)), tmp_path / "report")
    with pytest.raises(EvaluationError, match="training loss of rope"):
        write(make_report(replace(make_method("rope", 4.0), final_loss=nan)), tmp_path / "report")
    with pytest.raises(EvaluationError, match="no results"):
        write(replace(make_report(), methods=()), tmp_path / "report")
    assert list(tmp_path.iterdir()) == []


def test_pictures_that_a_page_cannot_hold(tmp_path: Path) -> None:
    with pytest.raises(EvaluationError, match=r"missing\.png cannot be read"):
        write_html(replace(make_report(), figures=[("x", tmp_path / "missing.png")]), tmp_path / "report.html")
    with pytest.raises(EvaluationError, match=r"curves\.pdf cannot stand"):
        write_html(replace(make_report(), figures=[("x", tmp_path / "curves.pdf")]), tmp_path / "report.html")
    assert list(tmp_path.iterdir()) == []
