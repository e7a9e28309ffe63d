"""Studies in local processes: nothing twice, failures told, the same results however often it was killed."""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import sysconfig
import time
from dataclasses import replace
from pathlib import Path

import pytest

from megadape.console import open_console, progress_bars
from megadape.errors import ConfigurationError
from megadape.studies.cell import FAILURE_FILE, holding, is_held
from megadape.studies.gather import gather
from megadape.studies.grid import read_study
from megadape.studies.progress import look_at
from megadape.studies.results import StudyResults
from megadape.studies.running import prepare_study, run_study

STUDY = """
name: tiny
folder: {folder}
text: {{source: {source}}}
base:
  set:
    model: {{num_layers: 1, hidden_size: 16, num_heads: 2}}
    training: {{steps: 40, global_batch_size: 2, micro_batch_size: 2}}
    checkpoint: {{save_every: 8}}
    data: {{split: "80,20", split_by: hash}}
    evaluation: {{lengths: [32, 64], sequences: 4, last_k: 16}}
methods:
  rope: {{set: {{positions: {{kind: rope}}}}}}
  dape-kerple: {{set: {{positions: {{kind: kerple_log}}, mixer: {{kind: dape, hidden: 4}}}}}}
training_lengths: [32]
seeds: [1, 2]
"""


def write(folder: Path, name: str = "out", study: str = STUDY) -> Path:
    source = folder / "book.txt"
    if not source.exists():
        shutil.copy(Path(sysconfig.get_paths()["stdlib"]) / "argparse.py", source)
    file = folder / f"{name}.yaml"
    file.write_text(study.format(folder=folder / name, source=source))
    return file


def command(*words: object) -> list[str]:
    return [sys.executable, "-m", "megadape", "study", *map(str, words)]


def call(*words: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command(*words), capture_output=True, text=True, timeout=240, check=False)


def without_times(results: StudyResults) -> StudyResults:
    """Results but for what a clock said, and for the folder."""
    cells = []
    for cell in results.cells:
        evaluations = {
            name: replace(found, results=tuple(replace(row, seconds=0.0) for row in found.results))
            for name, found in cell.evaluations.items()
        }
        cells.append(
            replace(
                cell,
                train_seconds=0.0,
                tokens_per_second=0.0,
                flops_per_token=0.0,
                run_dir=Path(),
                evaluations=evaluations,
            )
        )
    return replace(results, cells=tuple(cells), folder=Path(), commands=(), settings="")


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_study_killed_at_random_moments_ends_as_one_that_never_was(tmp_path: Path) -> None:
    """A minute on two idle cores."""
    whole, broken = write(tmp_path, "whole"), write(tmp_path, "broken")
    done = call("run", whole)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "all 4 runs are done" in done.stdout
    draws = random.Random(5)
    for number in range(4):
        process = subprocess.Popen(
            command("run", broken), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, start_new_session=True
        )
        time.sleep(draws.uniform(3, 14))
        # the parent alone, whose runs must notice; or all of it, as by a lost node
        if number % 2:
            os.kill(process.pid, signal.SIGKILL)
        else:
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
    done = call("run", broken)
    assert done.returncode == 0, done.stdout + done.stderr
    expected, found = gather(read_study(whole)), gather(read_study(broken))
    assert without_times(found) == without_times(expected)
    assert len(found.cells) == 4
    again = call("run", broken)
    assert "4 of 4 runs are done already" in again.stdout
    for cell in read_study(broken).cells:
        steps = [json.loads(line)["step"] for line in (cell.run_dir / "metrics.jsonl").read_text().splitlines()]
        assert steps == list(range(1, 41))


@pytest.mark.slow
def test_interrupted_failed_and_finished_runs_are_told_apart(tmp_path: Path) -> None:
    """25 s on two idle cores."""
    # a learning rate that makes the loss infinite fails the runs of one method, and only them
    bad = STUDY.replace("kind: rope}}", "kind: rope}}, training: {{optimizer: {{learning_rate: 1.0e+30}}}}")
    file = write(tmp_path, study=bad.replace("seeds: [1, 2]", "seeds: [1]"))
    found = call("run", file)
    assert found.returncode == 1
    assert re.search(r"base-32/rope/seed-1: failed: step \d+", found.stdout), found.stdout + found.stderr
    assert "base-32/dape-kerple/seed-1: done" in found.stdout
    progress = {one.cell.method: one for one in map(look_at, read_study(file).cells)}
    assert progress["rope"].state == "failed"
    assert progress["dape-kerple"].state == "done"
    assert progress["dape-kerple"].step == 40
    status = call("status", file).stdout
    assert "base-32/rope/seed-1 failed: step" in status
    assert "1 of 2 runs are done" in status
    results = gather(read_study(file))
    assert [missing.name for missing in results.missing] == ["base-32/rope/seed-1"]
    # mended, the failed run is refused: its folder was begun with other settings
    mended = write(tmp_path, study=STUDY.replace("seeds: [1, 2]", "seeds: [1]"))
    assert "training.optimizer.learning_rate is 1e+30 there and" in call("run", mended).stdout
    shutil.rmtree(progress["rope"].cell.run_dir)
    done = call("run", mended)
    assert done.returncode == 0, done.stdout
    assert "1 of 2 runs are done already" in done.stdout


def test_a_cell_is_held_by_one_process(tmp_path: Path) -> None:
    assert not is_held(tmp_path)
    with holding(tmp_path):
        assert is_held(tmp_path)
        lines = ["import sys, pathlib", "from megadape.studies.cell import holding"]
        code = "\n".join([*lines, "with holding(pathlib.Path(sys.argv[1])): pass"])
        held = subprocess.run([sys.executable, "-c", code, tmp_path], capture_output=True, text=True, check=False)
        assert "another process works on" in held.stderr
    assert not is_held(tmp_path)


def test_a_folder_keeps_to_its_text(tmp_path: Path) -> None:
    with progress_bars(open_console()) as bars:
        study = read_study(write(tmp_path))
        prepare_study(study, bars)
        dataset = study.data_prefix.with_suffix(".bin").read_bytes()
        prepare_study(study, bars)
        assert study.data_prefix.with_suffix(".bin").read_bytes() == dataset
        other = read_study(write(tmp_path, study=STUDY.replace("text: {{", "text: {{tokenizer: sentencepiece, ")))
        with pytest.raises(ConfigurationError, match="holds a study whose text is"):
            prepare_study(other, bars)


def test_runs_of_several_ranks_are_left_to_a_launcher(tmp_path: Path) -> None:
    study = read_study(
        write(tmp_path, study=STUDY.replace("    checkpoint", "    parallel: {{tp: 2}}\n    checkpoint"))
    )
    with progress_bars(open_console()) as bars, pytest.raises(ConfigurationError, match="torchrun --nproc-per-node 2"):
        run_study(study, study.cells, 1, bars)
    assert not (study.cells[0].run_dir / FAILURE_FILE).exists()
