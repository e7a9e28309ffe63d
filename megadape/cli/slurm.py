"""``megadape slurm``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from megadape.cli.base import Files, Overrides, RunDir

ClusterFile = Annotated[
    Path,
    typer.Option("--cluster", metavar="SITE.yaml", help="The cluster, such as configs/clusters/*.yaml."),
]
SiteOverrides = Annotated[
    list[str] | None,
    typer.Option("--site", metavar="KEY=VALUE", help="Set one key of the cluster's settings, such as nodes=4."),
]
ChainLinks = Annotated[
    int,
    typer.Option(
        "--chain", min=0, metavar="N", help="Submit N jobs, one after another, instead of one that starts itself anew."
    ),
]
Chain = Annotated[str, typer.Option("--chain", help="Of which the job is a link.")]
MaxStalls = Annotated[int, typer.Option("--max-stalls", help="Starts without progress after which a job gives up.")]

app = typer.Typer(no_args_is_help=True, help="Run on a Slurm cluster.")


@app.command("render")
def slurm_render(
    files: Files,
    cluster: ClusterFile,
    overrides: Overrides = None,
    site: SiteOverrides = None,
) -> None:
    """Print the script that submit would submit; nothing is written or asked.

    Example: megadape slurm render configs/models/125M.yaml configs/positions/dape_kerple.yaml --cluster
        configs/clusters/h100.yaml --set run_dir=runs/125M --set data.prefix=data/arxiv
    """
    from megadape.slurm.submission import Submission, render_run

    typer.echo(render_run(Submission(tuple(files), tuple(overrides or ()), cluster, tuple(site or ()))), nl=False)


@app.command("script")
def slurm_script(
    name: Annotated[str, typer.Argument(help="pretrain, evaluate, preprocess or study.")],
    cluster: ClusterFile,
    site: SiteOverrides = None,
) -> None:
    """Print a script of slurm/ for a cluster, to be called with the words of its command.

    Example: megadape slurm script preprocess --cluster configs/clusters/h100.yaml > preprocess.sbatch
    """
    from megadape.slurm.script import choose_job, render
    from megadape.slurm.submission import read_site

    typer.echo(render(choose_job(name), read_site(cluster, site or [])), nl=False)


@app.command("submit")
def slurm_submit(
    files: Files,
    cluster: ClusterFile,
    overrides: Overrides = None,
    site: SiteOverrides = None,
    chain: ChainLinks = 0,
) -> None:
    """Check a run (settings, memory, script, Slurm), then submit it; the same command goes on with it later.

    Stopped by its time limit, a preemption or the loss of a node, the job starts itself anew until all steps are made.

    Example: megadape slurm submit configs/models/125M.yaml configs/positions/dape_kerple.yaml --cluster
        configs/clusters/h100.yaml --site nodes=4 --set run_dir=runs/125M --set data.prefix=data/arxiv
    """
    from megadape.slurm.submission import Submission, submit_run

    submitted = submit_run(Submission(tuple(files), tuple(overrides or ()), cluster, tuple(site or ()), chain))
    typer.echo(f"submitted: job {', '.join(submitted.jobs)} ({submitted.need}); script: {submitted.script}")
    for line in submitted.advice:
        typer.echo(line)


@app.command("check")
def slurm_check(
    cluster: ClusterFile,
    folder: Annotated[Path, typer.Option(help="A folder that all nodes must be able to write, such as runs/.")],
    site: SiteOverrides = None,
    seconds: Annotated[float, typer.Option(min=1, help="How long a node may take for each part.")] = 120.0,
) -> None:
    """Start a rank for each GPU and see that every node is fit: Python, GPUs, rendezvous, all-reduce, folder.

    A node that is not is named, with the reason, and the exit code is 1. Waits until Slurm has the nodes.

    Example: megadape slurm check --cluster configs/clusters/h100.yaml --site nodes=8 --folder runs
    """
    from megadape.console import make_table, open_console
    from megadape.slurm.check import check_rows, check_site
    from megadape.slurm.submission import read_site

    report, console = check_site(read_site(cluster, site or []), folder, seconds), open_console()
    console.print(make_table(report.title, *check_rows(report)))
    for sentence in report.sentences():
        console.print(sentence, markup=False)
    raise typer.Exit(0 if report.sound else 1)


@app.command("hosts")
def slurm_hosts(nodes: Annotated[str, typer.Argument(help="A list of nodes, such as gpu-a[001-003,007].")]) -> None:
    """Print the nodes of a list, one a line, as scontrol show hostnames does; Slurm need not be there.

    Example: megadape slurm hosts "$SLURM_JOB_NODELIST"
    """
    from megadape.slurm.hosts import expand_hosts

    for host in expand_hosts(nodes):
        typer.echo(host)


@app.command("begin", hidden=True)
def slurm_begin(
    files: Files,
    overrides: Overrides = None,
    stop_after_steps: Annotated[int | None, typer.Option("--stop-after-steps", help="As train has it.")] = None,
    stop_after: Annotated[str | None, typer.Option("--stop-after", help="As train has it.")] = None,
    chain: Chain = "",
    max_stalls: MaxStalls = 3,
) -> None:
    """For the scripts: print run folder and stop file; nothing, where there is nothing to do, and say why."""
    from megadape.config import load
    from megadape.slurm.batch import begin
    from megadape.slurm.starts import is_trained

    run = load(files, overrides or [])
    begun = begin(run, is_trained(run.run_dir, run.training.steps), chain, max_stalls)
    if begun.step.go:
        typer.echo(f"{begun.run_dir}\n{begun.stop_file}")
    else:
        typer.echo(begun.step.reason, err=True)
    raise typer.Exit(begun.step.exit_code)


@app.command("verdict", hidden=True)
def slurm_verdict(
    run_dir: RunDir,
    stop_file: Annotated[Path, typer.Option("--stop-file", help="What stops the run when it appears.")],
    status: Annotated[int, typer.Option("--status", help="Exit code of srun.")],
    max_restarts: Annotated[int, typer.Option("--max-restarts", help="Starts after which a job gives up.")],
    max_stalls: MaxStalls,
    chain: Chain = "",
    lost_node: Annotated[bool, typer.Option("--lost-node", help="Slurm said that a node failed.")] = False,
    done_file: Annotated[Path | None, typer.Option("--done-file", help="What is there when all is done.")] = None,
) -> None:
    """For the scripts: print "requeue" where the job is to start itself anew; exits with its code, and says why."""
    import os

    from megadape.slurm.verdict import Ending, judge

    ending = Ending(run_dir, stop_file, status, lost_node, chain, max_restarts, max_stalls, done_file)
    step = judge(ending, os.environ)
    typer.echo(step.reason, err=True)
    if step.go:
        typer.echo("requeue")
    raise typer.Exit(step.exit_code)


@app.command("probe", hidden=True)
def slurm_probe(
    folder: Annotated[Path, typer.Argument(help="To be written to.")],
    gpus: Annotated[int, typer.Option("--gpus", help="That the node must have.")],
    seconds: Annotated[float, typer.Option("--seconds", help="For each part.")],
) -> None:
    """For check: one rank looks around, and says what it finds, a line of JSON each."""
    from megadape.slurm.probe import probe

    for finding in probe(folder, gpus, seconds):
        typer.echo(finding)
