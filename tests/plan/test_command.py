"""The command on the paper's 350M model: what it shows, what it writes, and what it says of mistakes."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from megadape.errors import ConfigurationError
from megadape.plan.cluster import Cluster
from megadape.plan.command import PlanRequest, plan_and_write
from megadape.plan.run import load_planned

ROOT = Path(__file__).parents[2]
FILES = [ROOT / "configs/models/350M.yaml", ROOT / "configs/positions/dape_kerple.yaml"]


def show(*overrides: str, cluster: Cluster | None = None, **more: Any) -> str:
    request = PlanRequest(FILES, overrides, cluster or Cluster(2, 8, 80), **more)
    console = Console(file=io.StringIO(), width=140, soft_wrap=True)
    for part in plan_and_write(request):
        console.print(part, markup=False) if isinstance(part, str) else console.print(part)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_megadape_plan_on_350m() -> None:
    command = [sys.executable, "-m", "megadape", "plan", *map(str, FILES), "--nodes", "2", "--gpus-per-node", "8"]
    command += ["--gpu-memory", "80", "--build", "--ranks", "0,15"]
    result = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=240, check=False)
    assert result.returncode == 0, result.stderr
    for words in ("405,372,800 parameters", "16 GPUs (2 x 8) of 80 GiB", "cannot be", "best: --set parallel.tp="):
        assert words in result.stdout
    assert "together 405,372,800 parameters, as a single process has (405,372,800)" in result.stdout
    assert max(map(len, result.stdout.partition("cannot be")[0].splitlines()[3:])) <= 140, "the table is cut"
    assert "…" not in result.stdout


def test_the_best_settings_are_settings(tmp_path: Path) -> None:
    text = show(json_file=tmp_path / "plan.json")
    (line,) = [line for line in text.splitlines() if line.startswith("best: ")]
    words = line.removeprefix("best: ").split()
    assert words[::2] == ["--set"] * (len(words) // 2)
    run, _ = load_planned(FILES, words[1::2])
    best = json.loads((tmp_path / "plan.json").read_text())["layouts"][0]
    assert best["fits"]
    assert (run.parallel.tp, run.parallel.pp, run.parallel.zero) == (best["tp"], best["pp"], best["zero"])


def test_json_has_every_layout_once(tmp_path: Path) -> None:
    show(json_file=tmp_path / "plan.json")
    plan = json.loads((tmp_path / "plan.json").read_text())
    names = ("tp", "pp", "dp", "zero", "sequence_parallel", "schedule")
    tried = [tuple(row[name] for name in names) for row in (*plan["layouts"], *plan["refused"])]
    assert len(tried) == len(set(tried))
    assert all(row["tp"] * row["pp"] * row["dp"] == 16 for row in plan["layouts"])
    rates = [row["speed"]["tokens_per_second"] for row in plan["layouts"] if row["fits"]]
    assert rates == sorted(rates, reverse=True)
    stage = plan["layouts"][0]["stages"][0]
    assert stage["peak_bytes"] == sum(
        stage["state_bytes"][k] for k in ("parameters", "optimizer", "gradients", "buffers")
    ) + sum(stage["activation_bytes"].values())
    assert all(row["reason"] for row in plan["refused"])


def test_what_does_not_fit_is_shown_as_such() -> None:
    text = show(cluster=Cluster(1, 2, 1), build=True)
    assert "nothing fits; the nearest:" in text
    assert "best:" not in text


def test_pair_tensors_count_where_the_backend_keeps_them() -> None:
    assert "(" in show().split("cannot be")[0].splitlines()[8]
    row = show("model.attention_backend=reference").split("cannot be")[0].splitlines()[8]
    assert "(" not in row


def test_the_settings_own_layout_is_built_where_they_have_one() -> None:
    text = show("parallel.tp=4", "parallel.pp=2", "training.micro_batch_size=16", build=True)
    assert "all 8 parts of the model are built" in text
    with pytest.raises(ConfigurationError, match=r"parallel\.tp x parallel\.pp must divide the ranks"):
        show("parallel.tp=4", "parallel.pp=3", build=True)
    with pytest.raises(ConfigurationError, match=r"cannot be built on 2 ranks: parallel\.tp: 2 would leave the node"):
        show("parallel.tp=2", cluster=Cluster(2, 1, 80), build=True)


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"ranks": "0,x"}, "--ranks must be numbers with commas between them, not '0,x'"),
        ({"ranks": "16"}, "--ranks: 16 is not one of the 16 ranks"),
        ({"json_file": Path("/nowhere/plan.json")}, "/nowhere/plan.json cannot be written"),
    ],
)
def test_mistakes(more: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        show(**more)


def test_a_vocabulary_is_needed_or_a_dataset() -> None:
    with pytest.raises(ConfigurationError, match=r"model\.vocab_size is not known"):
        plan_and_write(PlanRequest([ROOT / "configs/models/demo.yaml"], [], Cluster(1, 1, 80)))


def test_a_dataset_gives_the_vocabulary(corpus: Path) -> None:
    request = PlanRequest([ROOT / "configs/models/demo.yaml"], [f"data.prefix={corpus}"], Cluster(1, 1, 80))
    assert any("parameters: 4 layers" in part for part in plan_and_write(request) if isinstance(part, str))
