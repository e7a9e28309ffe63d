"""The CHE study: its grid, its runs, its report."""

from __future__ import annotations

import csv
import re
from pathlib import Path

import pytest
import yaml
from rich.console import Console
from typer.testing import CliRunner

from megadape.chomsky import TASKS
from megadape.cli import app
from megadape.console import Bars
from megadape.errors import ConfigurationError, EvaluationError
from megadape.studies.batch import choose_named
from megadape.studies.che.examples import example_table
from megadape.studies.che.grid import CheStudy, read_che
from megadape.studies.che.progress import failures, state_of, status_rows
from megadape.studies.che.report import report_che
from megadape.studies.che.results import Spread, best_of, gather
from megadape.studies.che.running import run_cell, run_che

CONFIGS = Path(__file__).parents[2] / "configs"

STUDY = """
name: tiny
folder: {folder}
tasks: [stack_manipulation, even_pairs]
methods:
  rope: {{files: [{configs}/positions/rope.yaml]}}
  dape-kerple: {{files: [{configs}/positions/dape_kerple.yaml], set: {{mixer: {{hidden: 8}}}}}}
seeds: [1, 2]
encoder: {{num_layers: 1, hidden_size: 16, num_heads: 2}}
training: {{steps: 3, batch_size: 4, lengths: {{first: 1, last: 5}}}}
scoring: {{lengths: {{first: 6, last: 12, stride: 3}}, sequences: 4}}
device: cpu
"""


def quiet(done: float, total: float, note: str) -> None:
    return


def make_study(folder: Path, *overrides: str) -> CheStudy:
    file = folder / "study.yaml"
    file.write_text(STUDY.format(folder=folder / "out", configs=CONFIGS))
    return read_che(file, overrides)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> CheStudy:
    study = make_study(tmp_path_factory.mktemp("che"))
    for cell in study.cells:
        run_cell(cell, quiet)
    return study


def test_the_grid(tmp_path: Path) -> None:
    study = make_study(tmp_path)
    assert len(study.cells) == 8
    assert study.cells[0].name == "stack_manipulation/rope/seed-1"
    assert study.cells[0].folder == tmp_path / "out" / "runs" / "stack_manipulation" / "rope" / "seed-1"
    assert [cell.seed for cell in study.cells] == [1] * 4 + [2] * 4
    mixer = study.methods["dape-kerple"].mixer
    assert (mixer.kind, mixer.hidden) == ("dape", 8)
    assert [cell.name for cell in choose_named(study.cells, ["even_pairs/rope"], study.file)] == [
        f"even_pairs/rope/seed-{seed}" for seed in (1, 2)
    ]
    assert choose_named(study.cells, [], study.file) == study.cells
    with pytest.raises(ConfigurationError, match=r"has no run 'even'; its runs are named as stack"):
        choose_named(study.cells, ["even"], study.file)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("tasks=[parity]", "tasks.*unknown task 'parity'; known: even_pairs"),
        ("seeds=[1, 1]", "seeds names a value twice"),
        ("methods.rope.set={mixer: {kind: dap}}", "method rope: .*mixer"),
        ("training.lengths.last=0", "training.lengths.last"),
        ("scoring.lengths={first: 9, last: 8}", "last must be at least first"),
        ("encoder.num_heads=3", "hidden_size % num_heads must be 0"),
    ],
)
def test_mistakes_in_a_study_file_are_named(tmp_path: Path, override: str, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        make_study(tmp_path, override)


@pytest.mark.parametrize("name", ["che", "che-small"])
def test_the_study_files_that_come_along(name: str) -> None:
    study = read_che(CONFIGS / "studies" / f"{name}.yaml")
    assert set(study.settings.tasks) == set(TASKS)
    assert "dape-kerple" in study.methods
    assert study.settings.training.lengths.last == 40
    longest = study.settings.scoring.lengths.last
    for method in study.methods.values():  # drawn positions reach the longest answer: a string twice, after it
        assert method.position_range is None or method.position_range >= 3 * longest
        factor = getattr(method.positions, "range_factor", None)
        assert factor is None or all(
            factor * TASKS[task]().total_length(40) >= TASKS[task]().total_length(longest) for task in TASKS
        )


@pytest.mark.slow
def test_a_failure_stops_no_other_and_nothing_is_run_twice(tmp_path: Path, finished: CheStudy) -> None:
    study = make_study(tmp_path, "tasks=[even_pairs]", "seeds=[1]")
    foreign = study.cells[1].folder
    foreign.mkdir(parents=True)
    (foreign / "settings.json").write_text('{"seed": 5}')
    lines = Console(record=True, width=200)
    failed = run_che(study.cells, 2, Bars(lines, None))
    assert list(failed) == [study.cells[1].name]
    assert "begun with other settings" in failed[study.cells[1].name]
    assert [state_of(cell) for cell in study.cells] == ["done", "failed"]
    assert status_rows(study.cells) == (["task", "done", "failed"], [["even_pairs", "1", "1"]])
    assert failures(study.cells)[0].startswith("even_pairs/dape-kerple/seed-1 failed: ")
    times = {cell.name: (cell.folder / "results.json").stat().st_mtime_ns for cell in study.cells[:1]}
    (foreign / "settings.json").unlink()
    assert run_che(study.cells, 1, Bars(lines, None)) == {}
    assert "1 of 2 experiments are done already" in lines.export_text()
    assert times == {cell.name: (cell.folder / "results.json").stat().st_mtime_ns for cell in study.cells[:1]}
    # processes of their own found what this one finds
    here, there = gather(finished).found, gather(study).found
    for method in ("rope", "dape-kerple"):
        assert here["even_pairs", method][0].scores == there["even_pairs", method][0].scores


def test_a_failed_experiment_keeps_its_reason_until_it_is_tried_again(tmp_path: Path) -> None:
    study = make_study(tmp_path, "encoder.attention_backend=fast")
    cell = study.cells[0]
    with pytest.raises(Exception, match="unknown attention backend"):
        run_cell(cell, quiet)
    assert state_of(cell) == "failed"
    assert "unknown attention backend 'fast'" in failures([cell])[0]
    assert state_of(study.cells[1]) == "waiting"


def test_the_table(finished: CheStudy) -> None:
    results = gather(finished)
    assert results.missing == []
    assert results.tasks == ("even_pairs", "stack_manipulation")  # as the paper orders them
    accuracies = results.accuracies("even_pairs")
    values = [each.accuracy for each in results.found["even_pairs", "rope"]]
    assert accuracies["rope"] == Spread.of(values)
    assert accuracies["rope"].mean == pytest.approx(sum(values) / 2)
    assert list(results.by_length("even_pairs", "rope")) == [1, 2, 3, 4, 5, 6, 9, 12]


def test_mean_deviation_and_the_best() -> None:
    assert Spread.of([0.5, 0.7]).percent() == "60.0 ± 14.1"
    assert Spread.of([0.5]).percent() == "50.0"
    spreads = {"a": Spread.of([0.9]), "b": Spread.of([0.90004]), "c": Spread.of([0.2])}
    assert best_of(spreads) == {"a", "b"}  # equal as the table shows them
    assert best_of({"a": Spread.of([0.9])}) == set()


def test_the_report(finished: CheStudy, tmp_path: Path) -> None:
    written = report_che(finished, tmp_path)
    assert all(path.stat().st_size for path in written)
    page = (tmp_path / "report.html").read_text()
    assert not re.search(r'(?:src|href)="(?!data:)', page)
    for words in ("0.0015 % of the 200,000", "even_pairs", "dape-kerple", "best", "over 2 seeds"):
        assert words in page
    text = (tmp_path / "report.md").read_text()
    results = gather(finished)
    row = next(line for line in text.splitlines() if line.startswith("| even_pairs | R | 50.0 |"))
    for method, spread in results.accuracies("even_pairs").items():
        shown = spread.percent()
        assert (f"**{shown}**" if method in best_of(results.accuracies("even_pairs")) else shown) in row
    with (tmp_path / "accuracy.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 2 * 2 * 8
    point = next(row for row in rows if (row["task"], row["method"], row["length"]) == ("even_pairs", "rope", "9"))
    assert float(point["accuracy"]) == results.by_length("even_pairs", "rope")[9].mean
    before = {path: path.read_bytes() for path in written}
    assert {path: path.read_bytes() for path in report_che(finished, tmp_path)} == before


def test_a_report_of_a_part_says_what_is_missing(finished: CheStudy, tmp_path: Path) -> None:
    more = read_che(finished.file, ["seeds=[1, 2, 3]"])
    report_che(more, tmp_path)
    assert "4 of 12 experiments are not done and not in the table" in (tmp_path / "report.md").read_text()
    (tmp_path / "empty").mkdir()
    with pytest.raises(EvaluationError, match="has no finished experiment yet: megadape che run"):
        report_che(make_study(tmp_path / "empty"), tmp_path)


def test_the_commands(finished: CheStudy, tmp_path: Path) -> None:
    runner = CliRunner()
    run = runner.invoke(app, ["che", "run", str(finished.file)])
    assert (run.exit_code, "all 8 experiments are done" in run.output) == (0, True)
    status = runner.invoke(app, ["che", "status", str(finished.file)])
    assert re.search(r"even_pairs\s+\S*\s*4", status.output)
    report = runner.invoke(app, ["che", "report", str(finished.file), "--out", str(tmp_path)])
    assert (report.exit_code, (tmp_path / "report.html").exists()) == (0, True)
    wrong = runner.invoke(app, ["che", "run", str(finished.file), "--set", "tasks=[parity]"])
    assert wrong.exit_code == 2
    assert runner.invoke(app, ["che", "tasks", "--length", "5"]).exit_code == 0


def test_examples_name_every_task() -> None:
    console = Console(record=True, width=200)
    console.print(example_table(7, seed=1))
    text = console.export_text()
    assert all(task in text for task in TASKS)


def test_the_settings_in_the_study_files_are_the_papers() -> None:
    settings = yaml.safe_load((CONFIGS / "studies" / "che.yaml").read_text())
    study = read_che(CONFIGS / "studies" / "che.yaml").settings
    assert settings["training"]["steps"] == study.training.steps == 200_000
    assert (study.encoder.num_layers, study.encoder.num_heads, study.encoder.hidden_size) == (5, 8, 256)
    assert (study.scoring.lengths.first, study.scoring.lengths.last, study.scoring.lengths.stride) == (41, 500, 1)
    assert (study.training.batch_size, study.training.clip, study.encoder.dropout) == (128, 1.0, 0.1)
