"""A run evaluated as a whole: written, found again, killed and gone on with, on one rank and on several."""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import distributed as dist

from megadape.config.run import RunSettings
from megadape.data import preprocess_files
from megadape.errors import CheckpointError, EvaluationError
from megadape.evaluation.evaluated import Evaluated, read_evaluated
from megadape.evaluation.run import evaluate_all, evaluate_run, open_text
from megadape.evaluation.settings import EvaluationSettings
from megadape.parallel.mesh import Place, make_mesh
from megadape.testing import run_distributed

EVERYTHING: dict[str, Any] = {
    "lengths": (32, 256),
    "sequences": 4,
    "last_k": 20,
    "batch_tokens": 512,
    "positions": {"sequences": 3},
    "passkey": {"lengths": (200,), "depths": (0.0, 1.0), "trials": 2, "candidates": 3},
}
SETTINGS = EvaluationSettings.model_validate(EVERYTHING)


@pytest.fixture
def run(trained: RunSettings, tmp_path: Path) -> RunSettings:
    """A copy of the trained run."""
    shutil.copytree(trained.run_dir, tmp_path / "run")
    return trained.model_copy(update={"run_dir": tmp_path / "run"})


def files(run_dir: Path) -> dict[str, object]:
    """What an evaluation left to be read, without how long it took."""

    def without_seconds(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: without_seconds(each) for key, each in value.items() if key != "seconds"}
        return [without_seconds(each) for each in value] if isinstance(value, list) else value

    def read(path: Path) -> object:
        if path.suffix == ".json":
            return without_seconds(json.loads(path.read_text()))
        lines = path.read_text().splitlines()
        return [line.rpartition(",")[0] for line in lines] if lines[0].endswith(",seconds") else lines

    return {path.name: read(path) for path in sorted((run_dir / "evaluation").glob("[!.]*.*"))}


def contents(run_dir: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (run_dir / "evaluation").iterdir() if path.is_file()}


def pieces(run_dir: Path) -> int:
    """Lines in the store."""
    return sum(path.read_bytes().count(b"\n") for path in (run_dir / "evaluation").glob("store/*/pieces-*.jsonl"))


def without_seconds(evaluated: Evaluated) -> dict[str, Any]:
    content = evaluated.to_json()
    for results in content["extrapolations"].values():
        for row in results["results"]:
            row["seconds"] = 0.0
    return content


def test_results_are_found_again_and_nothing_is_measured_twice(run: RunSettings) -> None:
    assert read_evaluated(run.run_dir, run.data, SETTINGS) is None
    found = evaluate_all(run.run_dir, run.data, SETTINGS)
    assert (found.step, found.path.name, list(found.extrapolations)) == (2, "step-00000002", ["text"])
    assert [row.length for row in found.extrapolations["text"].results] == [32, 256]
    assert found.positions["text"].length == 256
    assert found.passkey is not None
    assert len(found.passkey.places) == 2
    assert read_evaluated(run.run_dir, run.data, SETTINGS) == found
    names = {f"{kind}-step-2{end}" for kind in ("fixed_target", "positions", "passkey") for end in (".json", ".csv")}
    before, measured = contents(run.run_dir), pieces(run.run_dir)
    assert before.keys() == names
    assert evaluate_all(run.run_dir, run.data, SETTINGS) == found
    assert (contents(run.run_dir), pieces(run.run_dir)) == (before, measured)
    text = open_text(run.data, SETTINGS, "valid")
    _, alone = evaluate_run(run.run_dir, text, SETTINGS)
    assert [row.sequence_losses for row in alone.results] == [
        row.sequence_losses for row in found.extrapolations["text"].results
    ]


@pytest.mark.parametrize(
    ("changes", "measured"),
    [
        ({"batch_tokens": 999}, 0),  # decides nothing: the results are found
        ({"passkey": None}, 0),
        ({"mode": "last_k", "lengths": (256,), "passkey": None, "positions": None}, 0),
        ({"last_k": 21}, 3),
        ({"lengths": (32, 256, 128)}, 1),
        ({"passkey": EVERYTHING["passkey"] | {"seed": 1}}, 2),
        ({"positions": {"sequences": 3, "stretches_per_doubling": 3}}, 2),
    ],
    ids=str,
)
def test_another_plan_measures_what_is_new_in_it(run: RunSettings, changes: dict[str, Any], measured: int) -> None:
    evaluate_all(run.run_dir, run.data, SETTINGS)
    before = pieces(run.run_dir)
    changed = EvaluationSettings.model_validate(EVERYTHING | changes)
    known = read_evaluated(run.run_dir, run.data, changed)
    assert (known is None) == ("batch_tokens" not in changes)
    found = evaluate_all(run.run_dir, run.data, changed)
    assert pieces(run.run_dir) - before == measured
    shutil.rmtree(run.run_dir / "evaluation")
    assert without_seconds(evaluate_all(run.run_dir, run.data, changed)) == without_seconds(found)


def test_a_newer_checkpoint_and_another_text_have_results_of_their_own(run: RunSettings, tmp_path: Path) -> None:
    few = EvaluationSettings(lengths=(32,), sequences=2)
    found = evaluate_all(run.run_dir, run.data, few)
    elsewhere = run.data.model_copy(update={"split": "50,50"})
    assert read_evaluated(run.run_dir, elsewhere, few) is None
    assert read_evaluated(run.run_dir, run.data, few.model_copy(update={"split": "train"})) is None
    checkpoints = run.run_dir / "checkpoints"
    shutil.copytree(checkpoints / "step-00000002", checkpoints / "step-00000003")
    assert read_evaluated(run.run_dir, run.data, few) is None
    again = evaluate_all(run.run_dir, run.data, few)
    assert again.step == 3
    # one that is cut short is passed over, as it is by who reads models
    model = next((checkpoints / "step-00000003").glob("model*"))
    model.write_bytes(model.read_bytes()[:-1])
    assert read_evaluated(run.run_dir, run.data, few) == again  # it was whole when it was evaluated
    shutil.rmtree(
        run.run_dir / "evaluation/store" / next(iter(run.run_dir.glob("evaluation/store/step-00000003-*"))).name
    )
    assert read_evaluated(run.run_dir, run.data, few) == found


def test_results_are_read_without_torch(run: RunSettings) -> None:
    found = evaluate_all(run.run_dir, run.data, SETTINGS)
    script = f"""
import sys
from pathlib import Path
from megadape.data import DataSettings
from megadape.evaluation.evaluated import read_evaluated
from megadape.evaluation.settings import EvaluationSettings
settings = EvaluationSettings.model_validate({EVERYTHING!r})
data = DataSettings(prefix={str(run.data.prefix)!r}, split="60,40")
found = read_evaluated(Path({str(run.run_dir)!r}), data, settings)
print(found.extrapolations["text"].results[0].loss, "torch" in sys.modules)
"""
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert result.stdout.split() == [repr(found.extrapolations["text"].results[0].loss), "False"]


def test_every_evaluation_set_has_files_of_its_own(run: RunSettings, tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text(
        "".join(json.dumps({"text": f"{n} times {n} is {n * n}"}) + "\n" for n in range(99))
    )
    preprocess_files([tmp_path / "a.jsonl"], tmp_path / "sums", tokenizer="byte", append_eod=True)
    sets = {
        "sums": {"prefix": tmp_path / "sums"},
        "half": {"prefix": tmp_path / "sums", "split": "test", "shares": "50,0,50"},
        "own": {"prefix": run.data.prefix, "split": "valid"},
    }
    asked = {"lengths": (32, 256), "sequences": 4, "last_k": 20, "sets": sets, "positions": {"length": 64}}
    found = evaluate_all(run.run_dir, run.data, EvaluationSettings.model_validate(asked))
    assert list(found.extrapolations) == list(found.positions) == list(sets)
    losses = {name: results.results[0].loss for name, results in found.extrapolations.items()}
    assert len(set(losses.values())) == 3
    assert set(contents(run.run_dir)) == {
        f"{kind}-step-2-{name}{end}"
        for kind in ("fixed_target", "positions")
        for name in sets
        for end in (".json", ".csv")
    }
    own = evaluate_all(run.run_dir, run.data, EvaluationSettings(lengths=(32, 256), sequences=4, last_k=20))
    assert own.extrapolations["text"].results[0].loss == losses["own"]
    asked["sets"] = {"none": sets["half"] | {"shares": "1,1,0"}}
    with pytest.raises(EvaluationError, match=r"the test split of .*sums .* is empty"):
        evaluate_all(run.run_dir, run.data, EvaluationSettings.model_validate(asked))


def test_a_run_without_a_checkpoint_is_named(run: RunSettings, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="does not exist"):
        evaluate_all(tmp_path / "nowhere", run.data, SETTINGS)
    assert not (tmp_path / "nowhere").exists()


def evaluate_in_process(run: RunSettings, settings: EvaluationSettings) -> None:
    torch.set_num_threads(1)
    evaluate_all(run.run_dir, run.data, settings)


def killed_until_done(
    run: RunSettings, settings: EvaluationSettings, moments: random.Random, wanted: dict[str, object]
) -> int:
    """Evaluate, killed at random moments, until it comes to its end; how many kills that took."""
    kills = 0
    while True:
        process = multiprocessing.get_context("fork").Process(target=evaluate_in_process, args=(run, settings))
        process.start()
        # so many pieces further, and then a moment: in a piece, in a line, in a file
        goal, begun = pieces(run.run_dir) + moments.randrange(1, 9), time.monotonic()
        while process.exitcode is None and pieces(run.run_dir) < goal and time.monotonic() < begun + 60:
            time.sleep(0.003)
        process.join(moments.random() * 0.03)
        if process.exitcode == 0:
            return kills
        assert process.exitcode is None
        assert process.pid is not None
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        kills += 1
        # whatever is there is whole
        for name, content in files(run.run_dir).items():
            assert content == wanted[name], name


def test_an_evaluation_that_is_killed_again_and_again_ends_with_the_same_files(run: RunSettings) -> None:
    settings = EvaluationSettings.model_validate(EVERYTHING | {"lengths": (32, 256, 1024), "sequences": 8})
    evaluate_in_process(run, settings)
    wanted, measured = files(run.run_dir), pieces(run.run_dir)
    seed = int.from_bytes(os.urandom(4))
    moments, kills = random.Random(seed), 0
    while kills < 3:  # on a busy machine one may come to its end before it is seen at its goal
        shutil.rmtree(run.run_dir / "evaluation")
        kills += killed_until_done(run, settings, moments, wanted)
        assert pieces(run.run_dir) == measured  # every piece was kept once
        assert files(run.run_dir) == wanted, f"seed {seed}"


def evaluate_on_ranks(run_dir: Path, run: RunSettings, settings: EvaluationSettings) -> dict[str, Any]:
    mesh = make_mesh(Place(dist.get_rank(), dist.get_world_size()), torch.device("cpu"))
    return without_seconds(evaluate_all(run_dir, run.data, settings, mesh=mesh))


def test_ranks_that_take_whole_pieces_give_the_bits_of_one_rank(run: RunSettings, tmp_path: Path) -> None:
    settings = EvaluationSettings.model_validate(EVERYTHING | {"batch_tokens": 1, "lengths": (32, 100)})
    evaluate_in_process(run, settings)
    alone = read_evaluated(run.run_dir, run.data, settings)
    assert alone is not None
    wanted, measured = files(run.run_dir), pieces(run.run_dir)
    shutil.rmtree(run.run_dir / "evaluation")
    for results in run_distributed(2, evaluate_on_ranks, run.run_dir, run, settings):
        assert results == without_seconds(alone)
    assert files(run.run_dir) == wanted
    assert pieces(run.run_dir) == measured
    assert len(list(run.run_dir.glob("evaluation/store/*/pieces-*.jsonl"))) == 2


@pytest.mark.parametrize("longest", [{"lengths": (32, 256)}, {"lengths": (32,), "positions": {"length": 256}}], ids=str)
def test_ranks_that_share_rows_agree_with_one_rank(run: RunSettings, longest: dict[str, Any]) -> None:
    settings = EvaluationSettings.model_validate({"sequences": 1} | longest)
    evaluate_in_process(run, settings)
    alone = read_evaluated(run.run_dir, run.data, settings)
    assert alone is not None
    shutil.rmtree(run.run_dir / "evaluation")
    first, second = run_distributed(2, evaluate_on_ranks, run.run_dir, run, settings)
    assert first == second
    assert pieces(run.run_dir) == 2
    rows = first["extrapolations"]["text"]["results"]
    for one, other in zip(alone.extrapolations["text"].results, rows, strict=True):
        assert one.sequence_losses == pytest.approx(other["sequence_losses"], rel=1e-6)
    for name, losses in alone.positions.items():
        assert losses.losses == pytest.approx(first["positions"][name]["losses"], rel=1e-6)
