"""What a job does next, for every way in which a start can end; no Slurm is needed."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from megadape.config import load
from megadape.errors import SlurmError
from megadape.slurm.batch import begin
from megadape.slurm.record import choose_variables, record_environment
from megadape.slurm.starts import Start, count_stalls, end_chain, look_before, newest_step, note_start, read_starts
from megadape.slurm.verdict import Ending, judge


def environment(restarts: int = 0, job: str = "7") -> dict[str, str]:
    return {"SLURM_JOB_ID": job} | ({"SLURM_RESTART_COUNT": str(restarts)} if restarts else {})


def write_outcome(run_dir: Path, state: str, code: int | None, job: str = "7.0", step: int = 31) -> None:
    content = {"state": state, "exit_code": code, "step": step, "reason": "because", "time": "now", "job": job}
    (run_dir / "outcome.json").write_text(json.dumps(content))


def save(run_dir: Path, step: int) -> None:
    (run_dir / f"checkpoints/step-{step:08d}").mkdir(parents=True)


def ending(run_dir: Path, **changes: Any) -> Ending:
    usual: dict[str, Any] = {"status": 0, "lost_node": False, "chain": "", "max_restarts": 3, "max_stalls": 2}
    return Ending(**{"run_dir": run_dir, "stop_file": run_dir / "STOP", **usual, **changes})


GO, DONE, FAILED, MISTAKE, LATER = (True, 75), (False, 0), (False, 1), (False, 2), (False, 75)


@pytest.mark.parametrize(
    ("outcome", "changes", "restarts", "stop", "expected"),
    [
        pytest.param(("done", 0), {}, 0, None, DONE, id="done"),
        pytest.param(("done", 0), {"status": 143}, 0, None, DONE, id="done, whatever srun says"),
        pytest.param(("done", 0), {"lost_node": True}, 0, "", DONE, id="done, whatever else there is"),
        pytest.param(("resumable", 75), {"status": 75}, 0, "7.0", GO, id="stopped by the scheduler"),
        pytest.param(("resumable", 75), {"status": 143}, 2, "7.0", GO, id="srun lies"),
        pytest.param(("resumable", 75), {"status": 75}, 3, "7.0", LATER, id="often enough"),
        pytest.param(("resumable", 75), {"status": 75, "chain": "c"}, 0, "7.0", LATER, id="the next link"),
        pytest.param(("resumable", 75), {"status": 75}, 0, "", LATER, id="kill switch, empty"),
        pytest.param(("resumable", 75), {"status": 75}, 0, "please", LATER, id="kill switch with words"),
        pytest.param(("failed", 1), {"status": 1}, 0, None, FAILED, id="failed"),
        pytest.param(("failed", 1), {"status": 1, "lost_node": True}, 0, None, GO, id="failed for a lost node"),
        pytest.param(("failed", 1), {"status": 1}, 0, "7.0", FAILED, id="failed while it stopped"),
        pytest.param(("running", None), {"status": 137}, 0, None, FAILED, id="a rank was killed"),
        pytest.param(("running", None), {"status": 0, "lost_node": True}, 0, None, GO, id="killed with its node"),
        pytest.param(("running", None), {"status": 143}, 0, "7.0", GO, id="killed before it had saved"),
        pytest.param(None, {"status": 2}, 0, None, MISTAKE, id="a mistake in the settings"),
        pytest.param(None, {"status": 1}, 0, None, FAILED, id="it never began"),
        pytest.param(None, {"status": 0}, 0, None, FAILED, id="it never began, and srun says 0"),
        pytest.param(None, {"status": 1}, 0, "7.0", GO, id="told to stop before it began"),
        pytest.param(("done", 0), {"done_file": Path("/no/such")}, 0, None, FAILED, id="trained, not evaluated"),
    ],
)
def test_what_comes_next(
    tmp_path: Path, outcome: Any, changes: Any, restarts: int, stop: str | None, expected: tuple[bool, int]
) -> None:
    own = environment(restarts)
    note_start(tmp_path, "job-7", own)
    save(tmp_path, 31)
    if outcome is not None:
        write_outcome(tmp_path, *outcome, job=f"7.{restarts}")
    if stop is not None:
        (tmp_path / "STOP").write_text(stop.replace("7.0", f"7.{restarts}"))
    step = judge(ending(tmp_path, **changes), own)
    assert (step.go, step.exit_code) == expected, step.reason


def test_an_outcome_of_an_earlier_start_says_nothing_of_this_one(tmp_path: Path) -> None:
    write_outcome(tmp_path, "done", 0, job="6.0")
    note_start(tmp_path, "job-7", environment())
    assert judge(ending(tmp_path, status=1), environment()).exit_code == 1


def test_who_was_taken_over_decides_nothing(tmp_path: Path) -> None:
    write_outcome(tmp_path, "resumable", 75)
    note_start(tmp_path, "c", environment())
    note_start(tmp_path, "c", environment(1))
    step = judge(ending(tmp_path, status=75, chain="c"), environment())
    assert (step.go, step.exit_code) == (False, 1)
    assert "taken over by 7.1" in step.reason
    assert look_before(tmp_path, tmp_path / "STOP", False, "c", 9).go


def test_later_links_of_a_chain_that_failed_end_at_once_and_a_new_submission_does_not(tmp_path: Path) -> None:
    note_start(tmp_path, "c", environment())
    write_outcome(tmp_path, "failed", 1)
    end = judge(ending(tmp_path, status=1, chain="c"), environment())
    link = look_before(tmp_path, tmp_path / "STOP", False, "c", 2)
    assert (link.go, link.exit_code) == (False, end.exit_code)
    assert "because" in link.reason
    assert look_before(tmp_path, tmp_path / "STOP", False, "d", 2).go


def test_what_stops_a_start_before_it_begins(tmp_path: Path) -> None:
    stop = tmp_path / "STOP"
    assert look_before(tmp_path, stop, True, "c", 2).exit_code == 0
    stop.write_text("3.0")  # left by a start that is over
    assert look_before(tmp_path, stop, False, "c", 2).go
    stop.write_text("")
    assert look_before(tmp_path, stop, False, "c", 2).exit_code == 75


def test_starts_without_progress_end_a_run_and_a_checkpoint_counts_as_progress(tmp_path: Path) -> None:
    for restart in range(2):
        assert look_before(tmp_path, tmp_path / "STOP", False, "job-7", 2).go
        note_start(tmp_path, "job-7", environment(restart))
        write_outcome(tmp_path, "resumable", 75, job=f"7.{restart}")
        assert judge(ending(tmp_path, status=75), environment(restart)).go is (restart == 0)
    assert look_before(tmp_path, tmp_path / "STOP", False, "job-7", 2).exit_code == 1
    assert look_before(tmp_path, tmp_path / "STOP", False, "job-8", 2).go
    save(tmp_path, 10)
    assert look_before(tmp_path, tmp_path / "STOP", False, "job-7", 2).go


@given(st.lists(st.tuples(st.sampled_from("ab"), st.integers(0, 2)), max_size=12), st.integers(0, 2))
def test_stalls_are_the_last_starts_of_a_chain_that_found_the_same(
    starts: Sequence[tuple[str, int]], step: int
) -> None:
    found = [Start("7.0", chain, reached, "now", "host") for chain, reached in starts]
    own = [reached for chain, reached in starts if chain == "a"]
    count = count_stalls(found, "a", step)
    assert own[len(own) - count :] == [step] * count
    assert count == len(own) or own[-count - 1] != step


def test_half_a_line_and_what_is_no_checkpoint_are_passed_over(tmp_path: Path) -> None:
    note_start(tmp_path, "c", environment())
    with (tmp_path / "slurm/starts.jsonl").open("a") as file:
        file.write('{"job": "7.1", "ch')
    assert [start.job for start in read_starts(tmp_path)] == ["7.0"]
    save(tmp_path, 20)
    for name in ("step-00000040.replaced", ".step-00000030.partial-x", "step-", "step-x"):
        (tmp_path / "checkpoints" / name).mkdir()
    assert newest_step(tmp_path) == 20


def test_a_chain_is_ended_in_one_piece(tmp_path: Path) -> None:
    (tmp_path / "slurm").mkdir()
    end_chain(tmp_path, "c", look_before(tmp_path, tmp_path / "STOP", True, "c", 2))
    assert json.loads((tmp_path / "slurm/ended.json").read_text())["chain"] == "c"


def test_a_beginning_removes_what_a_killed_start_left_and_keeps_a_kill_switch(tmp_path: Path) -> None:
    demo = Path(__file__).parents[2] / "configs/models/demo.yaml"
    run, stop = load([demo], [f"run_dir={tmp_path}", f"data.prefix={tmp_path / 'text'}"]), tmp_path / "STOP"
    stop.write_text("7.0\n")
    begun = begin(run, False, "", 2, environment(1))
    assert (begun.step.go, begun.run_dir, begun.stop_file, stop.exists()) == (True, tmp_path, stop, False)
    assert [start.chain for start in read_starts(tmp_path)] == ["job-7"]
    stop.touch()
    assert (begin(run, False, "", 2, environment(2)).step.go, stop.exists()) == (False, True)
    assert len(read_starts(tmp_path)) == 1


def test_outside_of_a_job_the_commands_say_so(tmp_path: Path) -> None:
    with pytest.raises(SlurmError, match="SLURM_JOB_ID"):
        judge(ending(tmp_path), {})


@given(st.sampled_from(["WANDB_API_KEY", "HF_TOKEN", "AWS_SECRET_ACCESS_KEY", "SLURM_JWT", "NCCL_PASSWORD", "HOME"]))
def test_secrets_are_not_recorded(name: str) -> None:
    assert choose_variables({name: "s3cret", "SLURM_JOB_ID": "7", "NCCL_DEBUG": "WARN"}) == {
        "NCCL_DEBUG": "WARN",
        "SLURM_JOB_ID": "7",
    }


def test_what_a_start_ran_with_is_kept(tmp_path: Path) -> None:
    content = json.loads(record_environment(tmp_path, environment(2)).read_text())
    assert (tmp_path / "slurm/7.2/environment.json").exists()
    assert content["packages"]["torch"]
    assert content["code"] is None or len(content["code"]["commit"]) == 40
