"""Runs submitted to a real Slurm, disturbed in every way in which a cluster disturbs them (slow: a few minutes).

What takes its time is waiting, so that jobs of one test go on side by side, each on nodes of its own.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from runs import SAVE_EVERY, SITE, STEPS, Submitted, pause, read_rows, submit, train_here, train_tiny_here
from slurm_cluster import ROOT, Cluster, wait_for

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(900),
]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, corpus: Path) -> Path:
    """The folder of the tiny run on two ranks that nobody disturbs."""
    return train_tiny_here(tmp_path_factory.mktemp("undisturbed"), corpus, 2)


def side_by_side(*works: Callable[[], None]) -> None:
    """All at once; the first failure is told, once all have ended."""
    with ThreadPoolExecutor(len(works)) as pool:
        futures = [pool.submit(work) for work in works]
    for future in futures:
        future.result()


def check_whole(run: Submitted, undisturbed: Path, lost_at: int) -> None:
    """It ended as one that was not disturbed; the second start repeated no more than it had to."""
    (job,) = run.finish()
    assert (job["JobState"], job["ExitCode"]) == ("COMPLETED", "0:0"), run.cluster.describe(job)
    assert int(job["Restarts"]) >= 1
    assert run.outcome()["state"] == "done"
    assert run.rows() == read_rows(undisturbed)
    assert 0 <= lost_at - run.starts()[1]["step"] <= SAVE_EVERY, run.starts()
    assert not (run.run_dir / "STOP").exists()


def start(cluster: Cluster, folder: Path, corpus: Path, nodes: str, ranks: int, seconds: int, *site: str) -> Submitted:
    """A tiny run that has made 30 steps and saves now, which takes so long."""
    run = submit(cluster, folder, corpus, nodes=nodes, ranks=ranks, site=site, MEGADAPE_FAULT=pause(seconds))
    run.until_step(30)
    return run


def test_runs_that_are_told_to_stop_end_as_one_that_was_not(
    tracked: Cluster, tmp_path: Path, corpus: Path, undisturbed: Path
) -> None:
    def preempt() -> None:
        run = start(tracked, tmp_path / "preempted", corpus, "12", 1, 8, "partition=preempt")
        urgent = ("--partition=urgent", "--nodes=2", "--nodelist=node1,node2", "--exclusive", "--output=/dev/null")
        tracked.login("sbatch", *urgent, "--wrap", "sleep 2")
        check_whole(run, undisturbed, lost_at=31)

    def signal() -> None:
        run = start(tracked, tmp_path / "signalled", corpus, "39", 1, 8, "launcher=torchrun")
        tracked.login("scancel", "--signal=USR1", "--batch", run.jobs[0])
        check_whole(run, undisturbed, lost_at=31)

    # of two minutes, and told so after 55 seconds, while it saves
    site, settings = ("time=2m", "lead=65s"), ("stop.at_job_end=false",)
    folder, fault = tmp_path / "limited", pause(45)
    limited = submit(tracked, folder, corpus, nodes="4", ranks=2, site=site, settings=settings, MEGADAPE_FAULT=fault)
    limited.until_step(30)  # by then: others that start meanwhile would slow it down

    def time_limit() -> None:
        check_whole(limited, undisturbed, lost_at=31)
        assert "as Slurm asked" in limited.log()
        assert "time budget" not in limited.log()

    side_by_side(time_limit, preempt, signal)


def test_runs_that_lose_a_node_end_as_one_that_did_not(
    tracked: Cluster, tmp_path: Path, corpus: Path, undisturbed: Path
) -> None:
    def lose_a_node() -> None:
        run = start(tracked, tmp_path / "host", corpus, "456", 1, 20, "nodes=2")
        lost = sorted(set(tracked.job(run.jobs[0])["NodeList"]) & set("456"))[-1]
        with tracked.failed(f"node{lost}", "host"):
            check_whole(run, undisturbed, lost_at=30)

    def lose_a_daemon() -> None:
        run = start(tracked, tmp_path / "daemon", corpus, "78", 2, 5, "nodes=1")
        node = tracked.job(run.jobs[0])["BatchHost"]
        beats = [json.loads(file.read_text()) for file in run.run_dir.glob("heartbeats/rank-*.json")]
        old = [str(beat["pid"]) for beat in beats]
        assert len(old) == 2
        tracked.tool("on", node, "--", "kill", "-STOP", *old)
        fence = run.run_dir / "checkpoints/fence.json"
        with tracked.failed(node, "daemon"):
            run.until(lambda: json.loads(fence.read_text())["restart"] == 1)
            assert all(tracked.lives(node, pid) for pid in old)
            tracked.tool("on", node, "--", "kill", "-CONT", *old)
            check_whole(run, undisturbed, lost_at=30)
            run.until(lambda: not any(tracked.lives(node, pid) for pid in old))
        assert run.writers() == {10: 0, 20: 0, 30: 1, 40: 1}
        assert run.outcome()["job"] == f"{run.jobs[0]}.1"

    side_by_side(lose_a_node, lose_a_daemon)


def test_chains_and_restarts_end_where_they_must(tracked: Cluster, tmp_path: Path, corpus: Path) -> None:
    def states(run: Submitted) -> list[tuple[str, str]]:
        return [(job["JobState"], job["ExitCode"]) for job in run.finish()]

    def done() -> None:
        chain = ("--chain", "3")
        run = submit(tracked, tmp_path / "done", corpus, nodes="1", words=chain, MEGADAPE_FAULT=pause(4))
        run.until_step(30)
        tracked.login("scancel", "--signal=USR1", "--batch", run.jobs[0])
        assert states(run) == [("FAILED", "75:0"), ("COMPLETED", "0:0"), ("COMPLETED", "0:0")], run.log()
        assert len(run.rows()) == STEPS
        assert len(run.starts()) == 2
        assert "the next link goes on" in run.log()

    def crash() -> None:
        fault = "checkpoint.after_take_over=raise@1"  # of the first rank, which the other one waits for
        chain = ("--chain", "2")
        run = submit(tracked, tmp_path / "crash", corpus, nodes="2", ranks=2, words=chain, MEGADAPE_FAULT=fault)
        assert states(run) == [("FAILED", "1:0"), ("FAILED", "1:0")], run.log()
        log = Path(run.cluster.job(run.jobs[0])["StdOut"]).read_text()
        assert "Traceback" in log
        assert "InjectedFault: fault injected at checkpoint.after_take_over" in log
        assert "an earlier link ended the chain" in run.log()
        assert len(run.starts()) == 1

    def kill_switch() -> None:
        chain = ("--chain", "2")
        run = submit(tracked, tmp_path / "switch", corpus, nodes="3", words=chain, MEGADAPE_FAULT=pause(4))
        run.until_step(30)
        (run.run_dir / "STOP").touch()
        assert states(run) == [("FAILED", "75:0"), ("FAILED", "75:0")], run.log()
        assert (len(run.starts()), run.outcome()["step"]) == (1, 31)

    def no_progress() -> None:
        stuck, stalls = ("stop.after=0.001",), ("max_stalls=2",)
        run = submit(tracked, tmp_path / "stuck", corpus, nodes="4", settings=stuck, site=stalls)
        assert states(run) == [("FAILED", "1:0")], run.log()
        assert len(run.starts()) == 2
        assert "no further than step 0" in run.log()

    def cancelled() -> None:
        run = submit(tracked, tmp_path / "cancelled", corpus, nodes="5", MEGADAPE_FAULT=pause(3))
        run.until_step(30)
        tracked.login("scancel", run.jobs[0])
        assert [state for state, _ in states(run)] == ["CANCELLED"]
        assert len(run.starts()) == 1

    side_by_side(done, crash, kill_switch, no_progress, cancelled)


STUDY = """
name: tiny
folder: {folder}/study
text: {{source: {source}}}
base:
  set:
    model: {{num_layers: 1, hidden_size: 16, num_heads: 2}}
    training: {{steps: 6, global_batch_size: 2, micro_batch_size: 2}}
    checkpoint: {{save_every: 3}}
    data: {{split: "80,20", split_by: hash}}
    evaluation: {{lengths: [32, 64], sequences: 4, last_k: 16}}
methods:
  rope: {{set: {{positions: {{kind: rope}}}}}}
  alibi: {{set: {{positions: {{kind: alibi}}}}}}
training_lengths: [32]
seeds: [1, 2, 3]
"""


def test_a_study_goes_through_an_array_and_misses_only_what_was_killed(tracked: Cluster, tmp_path: Path) -> None:
    (tmp_path / "book.txt").write_text((ROOT / "README.md").read_text())
    (tmp_path / "study.yaml").write_text(STUDY.format(folder=tmp_path, source=tmp_path / "book.txt"))
    (tmp_path / "site.yaml").write_text(SITE.format(python=sys.executable, folder=tmp_path))
    study, victim = tmp_path / "study", tmp_path / "study/runs/base-32/alibi/seed-2"
    command = ("study", "submit", tmp_path / "study.yaml", "--cluster", tmp_path / "site.yaml", "--at-once", "2")
    said = tracked.megadape(*command, MEGADAPE_FAULT="checkpoint.before_write=delay:2@1").stdout
    array, report = said.split("as job ")[1].split(",")[0], said.split("report as job ")[1].split(";")[0]
    again = tracked.megadape(*command, check=False)
    assert (again.returncode, "in the queue already" in again.stderr) == (2, True), again.stderr
    most = 0

    def begun() -> bool:
        nonlocal most
        running = tracked.login("squeue", "--noheader", "--states=RUNNING", f"--jobs={array}", "--format=%i").stdout
        most = max(most, len(running.split()))
        return (victim / "slurm/starts.jsonl").exists()

    wait_for(begun, pause=0.5)
    tracked.login("scancel", f"{array}_3")
    tracked.wait(report)
    assert most <= 2
    finished = {str(file.parent.relative_to(study / "runs")) for file in study.glob("runs/*/*/*/cell.json")}
    assert finished == {f"base-32/{m}/seed-{s}" for m in ("rope", "alibi") for s in (1, 2, 3)} - {
        "base-32/alibi/seed-2"
    }
    log = Path(tracked.job(report)["StdOut"]).read_text()
    assert "5 of 6 runs are done" in log
    named = "".join(file.read_text() for file in (study / "report").rglob("*.md"))
    assert "base-32/alibi/seed-2" in named
    before = {file: file.stat().st_mtime_ns for file in study.glob("runs/*/*/*/cell.json")}
    said = tracked.megadape(*command).stdout
    assert "submitted: 1 runs" in said
    tracked.wait(said.split("report as job ")[1].split(";")[0])
    assert (victim / "cell.json").exists()
    assert before == {file: file.stat().st_mtime_ns for file in before}
    again = tracked.megadape(*command, check=False)
    assert (again.returncode, "all 6 runs are done" in again.stderr) == (2, True), again.stderr


def test_a_submitted_run_is_the_run_that_it_would_be_here(tracked: Cluster, tmp_path: Path, corpus: Path) -> None:
    demo = (f"data.prefix={corpus}", "training.steps=6", "training.micro_batch_size=4", "checkpoint.save_every=3")
    files = [str(ROOT / "configs/models/demo.yaml"), str(ROOT / "configs/positions/dape_kerple.yaml")]
    (tmp_path / "site.yaml").write_text(SITE.format(python=sys.executable, folder=tmp_path))
    options = [word for each in (*demo, f"run_dir={tmp_path / 'run'}") for word in ("--set", each)]
    command = ("slurm", "submit", *files, *options, "--cluster", tmp_path / "site.yaml")
    site = ("--site", "nodes=2", "--site", "ranks_per_node=2")
    said = tracked.megadape(*command, *site, WANDB_API_KEY="dont-tell").stdout
    assert "follow:" in said
    assert "stop:" in said
    run = Submitted(tracked, tmp_path, [said.split()[2].rstrip(",")])
    (job,) = run.finish()
    assert (job["JobState"], job["NumNodes"]) == ("COMPLETED", "2"), tracked.describe(job)
    train_here(tmp_path / "here", 4, [*files, *(word for each in demo for word in ("--set", each))])
    here = read_rows(tmp_path / "here")
    assert len(here) == 6
    assert run.rows() == here
    kept = run.run_dir / "slurm" / f"{run.jobs[0]}.0"
    environment = json.loads((kept / "environment.json").read_text())
    assert environment["packages"]["torch"]
    assert environment["environment"]["SLURM_JOB_ID"] == run.jobs[0]
    assert "dont-tell" not in (kept / "environment.json").read_text()
    assert f"JobId={run.jobs[0]}" in (kept / "job.txt").read_text()
    assert len(list((run.run_dir / "slurm/logs").glob("node*.log"))) == 2
    again = tracked.megadape(*command, *site, check=False)
    assert (again.returncode, "is done" in again.stderr) == (2, True), again.stderr


def test_text_is_preprocessed_in_parts_and_a_run_evaluated(
    tracked: Cluster, tmp_path: Path, corpus: Path, undisturbed: Path
) -> None:
    (tmp_path / "site.yaml").write_text(SITE.format(python=sys.executable, folder=tmp_path))
    for name in ("a", "b", "c"):
        (tmp_path / f"{name}.txt").write_text(f"{name}: {(ROOT / 'LICENSE').read_text()}")

    def submit_script(name: str, *words: object, options: tuple[str, ...] = ()) -> str:
        site = ("--cluster", tmp_path / "site.yaml", "--site", "ranks_per_node=2")
        (tmp_path / f"{name}.sbatch").write_text(tracked.megadape("slurm", "script", name, *site).stdout)
        command = ("sbatch", "--parsable", *options, tmp_path / f"{name}.sbatch", *words)
        return tracked.login(*map(str, command)).stdout.strip()

    words = ("--input", tmp_path / "*.txt", "--tokenizer-type", "byte", "--output-prefix")
    parts = submit_script("preprocess", *words, tmp_path / "parts", options=("--array=1-2",))
    after = (f"--dependency=afterok:{parts}",)
    merge = submit_script("preprocess", *words, tmp_path / "parts", "--merge-parts", "2", options=after)
    evaluate = submit_script("evaluate", undisturbed, "--lengths", "32,64", "--sequences", "4", "--split", "train")
    tracked.megadape("preprocess", *words, tmp_path / "whole")
    for job in tracked.wait(merge, evaluate):
        assert (job["JobState"], job["ExitCode"]) == ("COMPLETED", "0:0"), tracked.describe(job)
    for ending in (".bin", ".idx"):
        assert (tmp_path / f"parts{ending}").read_bytes() == (tmp_path / f"whole{ending}").read_bytes()
    assert list((undisturbed / "evaluation").rglob("*.json"))


def test_the_check_names_the_node_that_is_not_fit(cluster: Cluster, tmp_path: Path) -> None:
    (tmp_path / "site.yaml").write_text(SITE.format(python=sys.executable, folder=tmp_path))
    shared = tmp_path / "shared"
    shared.mkdir()
    command = ("slurm", "check", "--cluster", tmp_path / "site.yaml", "--folder", shared, "--site", "exclude=node[3-9]")
    command += ("--site", "nodes=2", "--seconds", "60")
    good = cluster.megadape(*command)
    assert "all 2 nodes are fit" in good.stdout
    assert good.stdout.count("GB/s") == 2
    cluster.tool("on", "node2", "--", "mount", "-t", "tmpfs", "-o", "ro", "none", str(shared))
    try:
        bad = cluster.megadape(*command, check=False)
    finally:
        cluster.tool("on", "node2", "--", "umount", str(shared))
    assert bad.returncode == 1
    assert "node2: folder: rank 1: OSError" in bad.stdout
    assert "node1: " not in bad.stdout
    assert "exclude=node[3-9],node2" in bad.stdout
    blind = cluster.megadape(*command, "--site", "gpus_per_node=1", check=False)
    assert "node1: gpus: rank 0: RuntimeError: sees 0 of 1 GPUs" in blind.stdout


def test_what_slurm_would_refuse_or_memory_would_not_hold_is_not_submitted(
    cluster: Cluster, tmp_path: Path, corpus: Path
) -> None:
    (tmp_path / "site.yaml").write_text(SITE.format(python=sys.executable, folder=tmp_path))
    files = (ROOT / "configs/models/125M.yaml", ROOT / "configs/positions/alibi.yaml")
    command = ("slurm", "submit", *files, "--cluster", tmp_path / "site.yaml", "--set", f"run_dir={tmp_path / 'run'}")
    command += ("--set", f"data.prefix={corpus}", "--set", "training.engine=torch", "--set", "parallel.zero=0")
    command += ("--set", "training.micro_batch_size=1")
    for site, said in (
        (("nodes=32",), "sbatch refuses"),
        (("partition=nowhere",), "sbatch refuses"),
        (("gpus_per_node=8", "gpu_memory=2"), "GiB, and a GPU of 2 GiB has 1.8 to give"),
        (("nodes=3", "ranks_per_node=1"), "3 ranks cannot run this"),
    ):
        done = cluster.megadape(*command, *(word for each in site for word in ("--site", each)), check=False)
        assert (done.returncode, said in done.stderr) == (2, True), (site, done.stdout + done.stderr)
    assert not (tmp_path / "run").exists()
