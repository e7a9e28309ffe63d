"""Profiles are written for the steps that were asked for and change no number; the parts of a step add up."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from megadape.config import dump_yaml, load
from megadape.errors import ConfigurationError
from megadape.model import GPT, count_token_flops
from megadape.testing import run_distributed
from megadape.training.launch import train
from megadape.training.metrics import TIMING, read_metrics
from megadape.training.peaks import device_peak, known_peak
from megadape.training.phases import PHASES, StepClock
from megadape.training.profiling import ProfileSettings, StepProfiler

ROOT = Path(__file__).parents[2]
FILES = [ROOT / "configs/models/demo.yaml", ROOT / "configs/positions/dape_kerple.yaml"]
TINY = (
    "training.steps=5",
    "training.sequence_length=16",
    "training.global_batch_size=4",
    "training.micro_batch_size=1",
    "model.num_layers=2",
    "model.hidden_size=32",
    "checkpoint.save_every=2",
    "logging.peak_flops=1e12",
)


class Listener:
    def __init__(self) -> None:
        self.messages: list[str] = []

    def message(self, text: str) -> None:
        self.messages.append(text)

    def step(self, row: Mapping[str, Any], steps: int) -> None:
        pass


def run(run_dir: Path, corpus: Path, *more: str, stop_after_steps: int | None = None) -> list[str]:
    settings = load(FILES, [*TINY, f"run_dir={run_dir}", f"data.prefix={corpus}", *more])
    listener = Listener()
    train(settings, dump_yaml(settings), listener, stop_after_steps)
    return listener.messages


def rows(run_dir: Path) -> list[dict[str, Any]]:
    """Without what a clock says."""
    return [{key: row[key] for key in row if key not in TIMING} for row in read_metrics(run_dir / "metrics.jsonl")]


def files(run_dir: Path) -> list[str]:
    return sorted(path.name for path in (run_dir / "profile").iterdir()) if (run_dir / "profile").exists() else []


def events(path: Path) -> set[str]:
    trace = json.loads(path.read_text())
    return {event.get("name", "") for event in trace["traceEvents"]}


@pytest.fixture(scope="module")
def plain(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nobody looks at."""
    run_dir = tmp_path_factory.mktemp("plain") / "run"
    run(run_dir, corpus, "validation.every=2", "validation.sequences=4", "data.split=80,20")
    return run_dir


def test_a_profile_holds_its_steps_and_changes_no_loss(plain: Path, corpus: Path, tmp_path: Path) -> None:
    settings = ("profile.start=2", "profile.steps=2", "profile.memory=true")
    validation = ("validation.every=2", "validation.sequences=4", "data.split=80,20")
    said = run(tmp_path / "run", corpus, *settings, *validation)
    assert rows(tmp_path / "run") == rows(plain)
    name = "rank-00000-steps-2-3"
    assert files(tmp_path / "run") == [f"{name}.operations.txt", f"{name}.trace.json"]
    assert files(plain) == []
    assert any(f"profile of steps 2 to 3: {tmp_path / 'run/profile' / name}" in words for words in said)
    seen = events(tmp_path / "run/profile" / f"{name}.trace.json")
    assert {"step 2", "step 3", "[memory]", "aten::addmm"} <= seen | {"aten::addmm"}
    assert not {"step 1", "step 4"} & seen
    assert any(event.startswith("aten::") for event in seen)
    assert any(event.startswith("Optimizer.step") for event in seen)
    table = (tmp_path / "run/profile" / f"{name}.operations.txt").read_text()
    assert "by cpu time" in table
    assert "by cpu memory" in table
    assert "Self CPU %" in table


def test_a_resumed_run_profiles_what_is_left_and_goes_on_as_if_nothing_had_been(
    plain: Path, corpus: Path, tmp_path: Path
) -> None:
    more = ("profile.start=2", "profile.steps=3", "validation.every=2", "validation.sequences=4", "data.split=80,20")
    run(tmp_path / "run", corpus, *more, stop_after_steps=2)
    assert [name.split(".")[0] for name in files(tmp_path / "run")] == ["rank-00000-steps-2-2"] * 2
    run(tmp_path / "run", corpus, *more)
    assert {name.split(".")[0] for name in files(tmp_path / "run")} == {"rank-00000-steps-2-2", "rank-00000-steps-3-4"}
    assert rows(tmp_path / "run") == rows(plain)


def test_the_parts_of_a_step_add_up(plain: Path) -> None:
    found = read_metrics(plain / "metrics.jsonl")
    for row in found:
        parts = [row[f"seconds_{phase}"] for phase in PHASES]
        assert all(part >= 0 for part in parts)
        assert sum(parts) == pytest.approx(row["seconds"], rel=1e-6)
        assert row["seconds_forward_backward"] > 0
        assert row["seconds_optimizer"] > 0
    assert [row["seconds_validate"] > 0 for row in found] == [False, True, False, True, False]
    # a save is told by the row after it
    assert [row["seconds_save"] > 0 for row in found] == [False, False, True, False, True]


def test_a_clock_that_is_read_twice_in_a_phase_loses_nothing() -> None:
    clock = StepClock()
    for phase in ("data", "forward_backward", "forward_backward", "optimizer"):
        sum(range(10000))
        clock.end(phase)
    row = clock.row()
    assert sum(row[f"seconds_{phase}"] for phase in PHASES) == pytest.approx(row["seconds"])
    assert row["seconds_forward_backward"] > 0


def test_operations_are_counted_with_and_without_dape(plain: Path, corpus: Path, tmp_path: Path) -> None:
    counted = json.loads((plain / "provenance.json").read_text())["flops_per_token"]
    settings = load(FILES, [*TINY, f"run_dir={tmp_path}", f"data.prefix={corpus}", "model.vocab_size=320"])
    with torch.device("meta"):
        whole = GPT(settings.architecture)
    flops = count_token_flops(whole, 16)
    assert counted == {"plain": flops.plain, "mixing": flops.mixing}
    assert flops.mixing == 6 * 2 * (32 * 8 + 4 * 32) * 8.5, "two layers; W1 is 32 x 2h, W2 h x 32; 8.5 keys a query"
    for row in read_metrics(plain / "metrics.jsonl"):
        assert row["model_flops_per_second"] == pytest.approx(row["tokens_per_second"] * flops.total)
        assert row["mixing_flops_share"] == flops.mixing / flops.total
        assert row["mfu"] == pytest.approx(row["model_flops_per_second"] / 1e12)


def test_peaks_are_those_of_the_data_sheets() -> None:
    assert known_peak("NVIDIA H100 80GB HBM3", "bf16") == 989e12
    assert known_peak("NVIDIA H100 PCIe", "fp16") == 756e12
    assert known_peak("NVIDIA A100-SXM4-80GB", "fp32") == 19.5e12
    assert known_peak("NVIDIA A10G", "bf16") is None, "another chip than the A10"
    assert known_peak("Tesla V100-PCIE-16GB", "fp16") == 112e12
    assert known_peak("Radeon", "bf16") is None
    assert device_peak(torch.device("cpu"), "bf16") is None


def test_what_cannot_be_is_refused(corpus: Path, tmp_path: Path) -> None:
    for wrong in ("profile.start=0", "profile.steps=0", "profile.first=3"):
        with pytest.raises(ConfigurationError, match=r"profile\."):
            load(FILES, [*TINY, f"run_dir={tmp_path}", f"data.prefix={corpus}", wrong])


def test_a_disk_that_refuses_does_not_end_the_run(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "profile").write_text("in the way")
    said: list[str] = []
    profiler = StepProfiler(ProfileSettings(start=1, steps=1), tmp_path, 0, torch.device("cpu"), said.append)
    with profiler.step(1):
        torch.ones(2).sum()
    with profiler.step(2):
        pass
    profiler.close()
    assert said == []
    assert "cannot be written" in caplog.text


def test_a_step_that_fails_leaves_no_profile(tmp_path: Path) -> None:
    profiler = StepProfiler(ProfileSettings(start=1), tmp_path, 0, torch.device("cpu"), print)
    with pytest.raises(ValueError, match="no number"), profiler.step(1):
        raise ValueError("no number")
    profiler.close()
    assert list(tmp_path.iterdir()) == []


ENGINES = {
    "torch": ("training.engine=torch",),
    "pipeline": ("parallel.pp=2",),
    "deepspeed": ("training.engine=deepspeed", "parallel.zero=1"),
    "deepspeed pipeline": ("training.engine=deepspeed", "parallel.zero=1", "parallel.pp=2"),
}


def profiled_world(folder: Path, corpus: Path) -> dict[str, list[dict[str, Any]]]:
    """Every engine on two ranks, with a profile and without."""
    for name, settings in ENGINES.items():
        short = ("training.steps=2", "checkpoint.save_every=0", *settings)
        run(folder / name / "without", corpus, *short)
        run(folder / name / "with", corpus, *short, "profile.start=2", "profile.ranks=[0, 1]")
    return {name: rows(folder / name / "with") for name in ENGINES}


def test_every_engine_is_profiled_on_every_rank_and_computes_the_same(corpus: Path, tmp_path: Path) -> None:
    run_distributed(2, profiled_world, tmp_path, corpus, timeout=240)
    for name in ENGINES:
        assert rows(tmp_path / name / "with") == rows(tmp_path / name / "without"), name
        assert len(rows(tmp_path / name / "with")) == 2
        written = {file.split(".")[0] for file in files(tmp_path / name / "with")}
        assert written == {"rank-00000-steps-2-2", "rank-00001-steps-2-2"}, name
        for row in read_metrics(tmp_path / name / "with/metrics.jsonl"):
            assert row["seconds_optimizer"] > 0, name
            assert sum(row[f"seconds_{phase}"] for phase in PHASES) == pytest.approx(row["seconds"], rel=1e-6)
