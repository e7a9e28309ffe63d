"""The report of a study: honest, whole whatever is missing, and the same each time."""

from __future__ import annotations

import csv
import random
import re
from dataclasses import replace
from html.parser import HTMLParser
from math import inf, nan
from pathlib import Path

import pytest
from example_studies import GROWTH, LENGTHS, make_cell, make_profiles, make_study, usual_loss, whole_study

from megadape.errors import EvaluationError
from megadape.evaluation.figures.curves import Curves
from megadape.evaluation.results import Extrapolation, PositionLosses
from megadape.studies.report.blocks import Facts, Folded, Heading, Listing, Prose, Table
from megadape.studies.report.elements import Cell, html_table
from megadape.studies.report.files import HEAD, LIST, keep_only
from megadape.studies.report.study import write_study_report
from megadape.studies.report.study.numbers import decimal, format_mean, format_p, listed, signed
from megadape.studies.report.study.panels import group_cells, make_panels
from megadape.studies.report.study.pictures import mean_passkey, mean_positions
from megadape.studies.report.study.tables import length_table
from megadape.studies.results import CellResult, Missing, StudyResults

NASTY = "<script>alert('$x & \"y\"')</script> | `a` *b*"


class Page(HTMLParser):
    """What a page shows and what it refers to."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.references: list[str] = []
        self.text = ""
        self.source = path.read_text(encoding="utf-8")
        self.feed(self.source[self.source.index("<body>") :])
        self.close()

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.references += [value or "" for name, value in attributes if name in ("src", "href", "srcset", "action")]

    def handle_data(self, data: str) -> None:
        self.text += data


def read(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[Path], StudyResults]:
    """The files of a whole study's report, and what it is about."""
    results = replace(whole_study(), missing=(Missing("small-128/fire-3", "failed", "the loss is not finite"),))
    folder = tmp_path_factory.mktemp("whole")
    return write_study_report(results, {"dape-kerple": make_profiles()}, folder), results


# --- what stands in it


def test_everything_is_written_and_every_figure_has_its_numbers(whole: tuple[list[Path], StudyResults]) -> None:
    files, _ = whole
    folder = files[0].parent
    assert [path.name for path in files[:2]] == ["report.html", "report.md"]
    assert sorted(folder.iterdir()) == sorted(files)
    figures = [path for path in files if path.suffix == ".png"]
    assert {path.name.split("-")[0] for path in figures} == {"curves", "cost", "positions", "passkey", "heads"}
    for figure in figures:
        assert figure.with_suffix(".csv") in files
    markdown = (folder / "report.md").read_text(encoding="utf-8")
    for target in re.findall(r"\(<([^>]+)>\)", markdown):
        assert (folder / target).is_file()


def test_the_page_stands_alone(whole: tuple[list[Path], StudyResults]) -> None:
    files, _ = whole
    page = Page(files[0])
    assert page.references
    assert all(reference.startswith("data:image/png;base64,") for reference in page.references)
    assert not {"script", "link", "iframe", "object"} & set(page.tags)
    assert "Content-Security-Policy" in page.source
    assert "http" not in page.source.replace("http-equiv", "")
    for shown in ("How to repeat it", "megadape study run", "seeds: [1, 2]", "the loss is not finite", "python 3.11"):
        assert shown in page.text


@pytest.mark.parametrize("name", ["report.html", "report.md"])
def test_the_words_are_honest(whole: tuple[list[Path], StudyResults], name: str) -> None:
    text = (whole[0][0].parent / name).read_text(encoding="utf-8")
    text = re.sub(r'src="[^"]*"', "", text)
    assert "significan" not in text.lower()
    assert "6 seeds" in text
    assert "sign-flip" in text
    assert "Benjamini and Hochberg" in text
    assert "nan" not in re.findall(r"[a-z]+", text.lower())


def test_the_summary_says_what_won_by_how_much_and_how_surely(whole: tuple[list[Path], StudyResults]) -> None:
    text = Page(whole[0][0]).text
    assert "at 1024 tokens dape-kerple has the lowest perplexity, 4.8" in text
    assert "lower with 6 of 6 seeds, exact p 0.031, adjusted 0.031" in text
    assert "dape-kerple is better than rope, alibi and kerple" in text
    assert "4 methods, 1 size, trained at 128, 6 seeds: 24 runs trained and evaluated; 1 run of the grid still" in text


def test_the_table_has_the_papers_shape() -> None:
    panel = only_panel(whole_study(more=False))
    table = length_table(panel)
    assert table.head[:3] == ["method", "n", Cell("128", note="trained")]
    assert [row[0] for row in table.rows] == list(GROWTH)
    last = {row[0]: row[-1] for row in table.rows}
    assert isinstance(last["dape-kerple"], Cell)
    assert last["dape-kerple"].best
    assert last["dape-kerple"].mark == ""
    assert isinstance(last["kerple"], Cell)
    assert (last["kerple"].best, last["kerple"].mark) == (False, "\N{DAGGER}")
    assert re.fullmatch(r"5\.\d{3} ± 0\.\d{3}", last["kerple"].text)


def test_csv_files_hold_the_numbers(whole: tuple[list[Path], StudyResults]) -> None:
    files, results = whole
    folder = files[0].parent
    rows = read(folder / "perplexity.csv")
    assert len(rows) == len(GROWTH) * 6 * len(LENGTHS)
    cell = results.cells[-1]
    found = {int(row["length"]): float(row["perplexity"]) for row in rows if own(row, cell)}
    assert found == dict(cell.evaluations["library"].perplexity())
    comparisons = read(folder / "comparisons.csv")
    assert len(comparisons) == 3 * len(LENGTHS)
    assert {row["reference"] for row in comparisons} == {"dape-kerple"}
    panel = only_panel(results)
    for row in comparisons:
        one = panel.comparisons[row["method"]][int(row["length"])]
        assert float(row["difference"]) == one.difference
        assert float(row["adjusted_p"]) == one.adjusted_p
    curves = read(folder / "curves-small-128-library.csv")
    assert {(row["method"], int(row["length"])): float(row["mean"]) for row in curves} == flat(panel.means)
    assert all(float(row["lowest"]) <= float(row["mean"]) <= float(row["highest"]) for row in curves)
    assert read(folder / "missing.csv") == [
        {"run": "small-128/fire-3", "state": "failed", "reason": "the loss is not finite"}
    ]
    assert [row["bias_and_correction"][:1] == "-" for row in read(folder / "trends-dape-kerple.csv")] == [
        *[True, False] * 2
    ]


def own(row: dict[str, str], cell: CellResult) -> bool:
    return (row["method"], row["seed"]) == (cell.method, str(cell.seed))


def flat(curves: Curves) -> dict[tuple[str, int], float]:
    return {(method, length): value for method, curve in curves.items() for length, value in curve.items()}


def only_panel(results: StudyResults):  # type: ignore[no-untyped-def]  # noqa: ANN201
    (group,) = group_cells(results)
    (panel,) = make_panels(group, results.reference)
    return panel


# --- the same each time


def test_the_same_results_give_the_same_bytes_in_whatever_order_they_came(
    whole: tuple[list[Path], StudyResults], tmp_path: Path
) -> None:
    files, results = whole
    cells = list(results.cells)
    random.Random(3).shuffle(cells)
    again = write_study_report(replace(results, cells=tuple(cells)), {"dape-kerple": make_profiles()}, tmp_path)
    assert [path.name for path in again] == [path.name for path in files]
    for first, second in zip(files, again, strict=True):
        assert first.read_bytes() == second.read_bytes(), first.name


def test_a_report_of_half_a_study_is_overwritten_by_that_of_the_whole(tmp_path: Path) -> None:
    results = make_study([make_cell(method, seed) for method in ("alibi", "dape-kerple") for seed in (1, 2)])
    straight = write_study_report(results, {}, tmp_path / "straight")
    half = replace(results, cells=(*results.cells[::2], make_cell("alibi", 1, size="other")))
    write_study_report(half, {}, tmp_path / "resumed")
    assert (tmp_path / "resumed" / "curves-other-128-library.png").is_file()
    resumed = write_study_report(results, {}, tmp_path / "resumed")
    assert [path.read_bytes() for path in resumed] == [path.read_bytes() for path in straight]
    assert sorted((tmp_path / "resumed").iterdir()) == sorted(resumed)


@pytest.mark.parametrize(("head", "left"), [(HEAD, []), ("# my own list", ["old.png"]), (None, ["old.png"])])
def test_files_of_somebody_else_stay(tmp_path: Path, head: str | None, left: list[str]) -> None:
    folder = tmp_path / "report"
    folder.mkdir()
    (tmp_path / "outside.csv").write_text("mine")
    for name in ("mine.csv", "old.png", "report.html"):
        (folder / name).write_text("content")
    names = [head, "old.png", "gone.csv", "../outside.csv", "report.html", LIST] if head else []
    (folder / LIST).write_text("\n".join(names))
    keep_only([folder / "report.html"], folder)
    assert sorted(path.name for path in folder.iterdir()) == sorted(["mine.csv", LIST, "report.html", *left])
    assert (tmp_path / "outside.csv").is_file()
    assert (folder / LIST).read_text() == f"{HEAD}\n{LIST}\nreport.html\n"


# --- few seeds, none, and what is missing


def test_too_few_seeds_leave_no_marks_and_say_why(tmp_path: Path) -> None:
    results = whole_study(seeds=3, more=False)
    write_study_report(results, {}, tmp_path)
    page = Page(tmp_path / "report.html")
    assert "No marks: with 3 seeds the exact paired test cannot give a p below 0.25" in page.text
    assert "it takes 6 seeds" in page.text
    assert "\N{DAGGER}" not in page.text
    assert "is better than" not in page.text
    assert "significan" not in page.text.lower()


def test_one_seed_has_no_deviation_and_no_interval(tmp_path: Path) -> None:
    write_study_report(whole_study(seeds=1, more=False), {}, tmp_path)
    text = (tmp_path / "report.md").read_text(encoding="utf-8")
    assert " ± 0" not in text
    assert "one seed shows no spread" in text
    assert "with 1 seed the exact paired test cannot give a p below 1" in text


def test_the_reference_may_lose(tmp_path: Path) -> None:
    def loss(method: str, seed: int, length: int) -> float:
        return usual_loss(method, seed, length) + (1.0 if method == "dape-kerple" else 0.0)

    cells = [make_cell(method, seed, loss=loss) for method in ("alibi", "dape-kerple") for seed in range(6)]
    write_study_report(make_study(cells), {}, tmp_path)
    text = Page(tmp_path / "report.html").text
    assert "alibi has the lowest perplexity" in text
    assert "dape-kerple is worse than alibi" in text
    assert "\N{DOUBLE DAGGER}" in text
    assert "better in 0 of 4 comparisons, worse in 4, undecided in 0" in text


def test_a_study_without_a_finished_run_says_so(tmp_path: Path) -> None:
    missing = [Missing("small-128/rope-1", "waiting", "")]
    files = write_study_report(make_study([], missing), {}, tmp_path)
    page = Page(files[0])
    assert "no run is trained and evaluated yet; 1 run of the grid still without results" in page.text
    assert "small-128/rope-1" in page.text


def test_a_reference_that_is_not_done_yet_compares_nothing(tmp_path: Path) -> None:
    write_study_report(make_study([make_cell("rope", 1), make_cell("alibi", 1)]), {}, tmp_path)
    text = Page(tmp_path / "report.html").text
    assert "dape-kerple, which the others are compared with, has no results here yet" in text
    assert "sign-flip" not in text


def test_seeds_that_only_one_method_has_are_left_out_of_the_pairs() -> None:
    cells = [make_cell("dape-kerple", seed) for seed in range(8)] + [make_cell("alibi", seed) for seed in range(2, 9)]
    panel = only_panel(make_study(cells))
    assert panel.comparisons["alibi"][128].seeds == 6
    assert panel.comparisons["alibi"][128].unpaired == (0, 1, 8)


@pytest.mark.parametrize("value", [inf, nan])
def test_a_method_that_diverged_is_shown_as_such(tmp_path: Path, value: float) -> None:
    def loss(method: str, seed: int, length: int) -> float:
        return value if (method, seed, length) == ("rope", 3, 1024) else usual_loss(method, seed, length)

    cells = [make_cell(method, seed, loss=loss, more=True) for method in ("rope", "dape-kerple") for seed in (3, 4)]
    cells = [diverge(cell, value) if cell.method == "rope" else cell for cell in cells]
    write_study_report(make_study(cells), {}, tmp_path)
    text = (tmp_path / "report.md").read_text(encoding="utf-8")
    assert "a loss is not finite (seed 3)" in text
    assert re.search(r"^\| rope .* inf \|$", text, re.MULTILINE)
    assert "nan" not in re.findall(r"[a-z]+", text.lower())


def diverge(cell: CellResult, value: float) -> CellResult:
    part = cell.positions["library"]
    return replace(cell, positions={"library": replace(part, losses=(*part.losses[:-1], value))})


def test_methods_of_other_lengths_leave_gaps(tmp_path: Path) -> None:
    cells = [make_cell("dape-kerple", seed) for seed in range(6)]
    cells += [make_cell("learned", seed, lengths=(128,)) for seed in range(6)]
    write_study_report(make_study(cells), {}, tmp_path)
    text = (tmp_path / "report.md").read_text(encoding="utf-8")
    assert re.search("^\\| learned \\| 6 \\| 4[^|]* (\\| \N{EN DASH} ){3}\\|$", text, re.MULTILINE)


def test_small_models_and_short_training_come_first() -> None:
    cells = [
        replace(make_cell("alibi", 1, size=size, training_length=length), parameters=parameters)
        for size, parameters in (("big", 9_000_000), ("tiny", 1_000))
        for length in (256, 128)
    ]
    groups = group_cells(make_study(cells))
    assert [group.name for group in groups] == [
        "tiny, trained at 128",
        "tiny, trained at 256",
        "big, trained at 128",
        "big, trained at 256",
    ]


def test_several_sizes_and_texts_each_have_their_panel(tmp_path: Path) -> None:
    cells = [
        make_cell(method, 1, size=size, datasets=("books", "code"))
        for size in ("big", "tiny")
        for method in ("alibi", "dape-kerple")
    ]
    write_study_report(make_study(cells), {}, tmp_path)
    assert {path.name for path in tmp_path.glob("curves-*.png")} == {
        f"curves-{size}-128-{dataset}.png" for size in ("big", "tiny") for dataset in ("books", "code")
    }
    text = Page(tmp_path / "report.html").text
    assert "Perplexity by length: big, trained at 128, evaluated on code" in text
    assert "2 methods, 2 sizes, trained at 128, 1 seed: 4 runs" in text


# --- what cannot be compared


def test_results_that_do_not_belong_together_are_refused(tmp_path: Path) -> None:
    first, second = make_cell("alibi", 1), make_cell("dape-kerple", 1)
    fewer = [replace(row, sequence_losses=row.sequence_losses[:3]) for row in second.evaluations["library"].results]
    other = replace(second, evaluations={"library": Extrapolation("fixed_target", 128, tuple(fewer))})
    with pytest.raises(EvaluationError, match=r"dape-kerple at length 128 \(seed 1\) .* 3 sequences and alibi .* on 5"):
        write_study_report(make_study([first, other]), {}, tmp_path)
    mode = replace(second, evaluations={"library": replace(second.evaluations["library"], mode="all")})
    with pytest.raises(EvaluationError, match="library was evaluated in the modes all and fixed_target"):
        write_study_report(make_study([first, mode]), {}, tmp_path)
    with pytest.raises(EvaluationError, match="different positions for different seeds"):
        mean_positions([PositionLosses(8, (0, 8), (1.0,), 1), PositionLosses(8, (0, 4, 8), (1.0, 2.0), 1)], "rope")


def test_passkeys_of_several_seeds_are_taken_together() -> None:
    cells = [make_cell("rope", seed, more=True) for seed in (1, 2)]
    found = mean_passkey([cell.passkey for cell in cells if cell.passkey is not None])
    assert [place.trials for place in found.places] == [20] * 6
    assert found.places[0].likelihood == 1.0


# --- pieces


def test_everything_is_escaped(tmp_path: Path) -> None:
    cells = [make_cell("dape-kerple", 1), make_cell(NASTY, 1)]
    results = make_study(cells, [Missing(NASTY, NASTY, NASTY)], facts={NASTY: NASTY}, commands=(NASTY,), settings=NASTY)
    write_study_report(replace(results, name=NASTY), {}, tmp_path)
    page = Page(tmp_path / "report.html")
    assert "script" not in page.tags
    assert page.text.count(NASTY) > 10


def test_blocks_in_both_forms(tmp_path: Path) -> None:
    table = Table(["a", Cell("b", note="trained")], [["x|y", Cell("1", best=True, mark="\N{DAGGER}")]])
    assert table.markdown(tmp_path) == "| a | trained b |\n| --- | ---: |\n| x\\|y | **1**\N{DAGGER} |"
    html = '<tr><th scope="row">x|y</th><td class="best">1<sup>\N{DAGGER}</sup></td></tr>'
    assert html in table.html()
    assert '<th scope="col"><small>trained</small>b</th>' in table.html()
    assert '<td class="words">w</td>' in html_table(["a", "b"], [["n", "w"]], text_columns=2)
    listing = Listing("a\n```\nb\n")
    assert listing.markdown(tmp_path) == "````\na\n```\nb\n````"
    folded = Folded("more <", [Heading("h", 3), Prose(["one", "two"], "note"), Facts({"k": "v"}), listing])
    assert folded.html().startswith('<details><summary>more &lt;</summary>\n<h3>h</h3>\n<p class="note">one</p>')
    assert folded.markdown(tmp_path).startswith("#### more \\<\n\n### h\n\none\n\ntwo\n\n- k: v")


def test_numbers_are_short_and_say_their_sign() -> None:
    assert format_mean(4.0512, 0.0123) == "4.051 ± 0.012"
    assert format_mean(27.44, 1.26) == "27.44 ± 1.26"
    assert format_mean(265.4, None) == "265.4"
    assert format_mean(12_345.0, 400.0) == "1.2e4 ± 400"
    assert format_mean(inf, None) == "inf"
    assert signed(-0.01234) == "\N{MINUS SIGN}0.0123"
    assert signed(0.5, 1) == "+0.5"
    assert signed(-0.00001) == "0.0000"
    assert signed(None) == "\N{EN DASH}"
    assert [format_p(value) for value in (1.0, 0.03125, 0.00001, None)] == ["1", "0.031", "<0.0001", "\N{EN DASH}"]
    assert [decimal(value) for value in (0.9651, 1e-6)] == ["0.965", "1.0e-06"]
    assert [listed(["a"]), listed(["a", "b", "c"])] == ["a", "a, b and c"]
