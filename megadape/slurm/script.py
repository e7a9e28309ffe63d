"""From a script of slurm/ and a site's settings to one that can be submitted.

Everything in a script is its own but one part between marks: directives, variables, and the words that it is called
with. Rendering replaces that part; what the scripts of slurm/ have there is what ``render`` makes of the default
settings, so that they can be submitted, and edited, as they are.
"""

from __future__ import annotations

import math
import re
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import resources

from megadape.errors import SlurmError
from megadape.slurm.site import SiteSettings

BEGIN, END = "# >>> site\n", "# <<< site\n"


@dataclass(frozen=True)
class Job:
    """What a script is submitted for."""

    script: str = "pretrain"
    """Which of slurm/*.sbatch."""

    name: str = "megadape"
    """Of the job: letters, digits and ``._-+``."""

    words: tuple[str, ...] = ()
    """What the script is called with; () leaves that to whoever calls it."""

    chain: str = ""
    """The chain that the job is a link of."""

    single: bool = False
    """One process in all, without GPUs, whatever the site's jobs are like."""


SINGLE = {"preprocess": True, "evaluate": False, "pretrain": False, "study": False}
"""The scripts, and whether each is of one process."""


def choose_job(name: str) -> Job:
    """A script as whoever calls it wants it; ``SlurmError`` where there is none of that name."""
    if name not in SINGLE:
        raise SlurmError(f"there is no script {name!r}: it is one of {', '.join(SINGLE)}")
    return Job(name, single=SINGLE[name])


def read_script(name: str) -> str:
    """A script as it stands in slurm/."""
    return (resources.files("megadape.slurm") / "scripts" / f"{name}.sbatch").read_text()


def render(job: Job, site: SiteSettings) -> str:
    """The whole script.

    Raises:
        SlurmError: a word of the command line holds a control character.
    """
    head, begin, rest = read_script(job.script).partition(BEGIN)
    _, end, tail = rest.partition(END)
    assert begin, f"slurm/{job.script}.sbatch has no mark {BEGIN!r}"
    assert end, f"slurm/{job.script}.sbatch has no mark {END!r}"
    lines = [*(f"#SBATCH {directive}" for directive in directives(job, site)), *assignments(job, site)]
    return head + begin + "".join(f"{line}\n" for line in lines) + end + tail


def directives(job: Job, site: SiteSettings) -> Iterator[str]:
    """What sbatch reads; every value is of a kind of ``values``, in which nothing needs a quote."""
    nodes, ranks = (1, 1) if job.single else (site.nodes, site.local_ranks)
    tasks = 1 if site.launcher == "torchrun" else ranks
    gpus = 0 if job.single else site.gpus_per_node
    given = {
        "job-name": job.name,
        "account": site.account,
        "partition": site.partition,
        "qos": site.qos,
        "reservation": site.reservation,
        "constraint": site.constraint,
        "exclude": site.exclude,
        "nodes": nodes,
        "ntasks-per-node": tasks,
        "cpus-per-task": site.cpus_per_rank * ranks // tasks,
        "gpus-per-node": (f"{site.gpu_type}:{gpus}" if site.gpu_type else gpus) if gpus else None,
        "mem": None if job.single else site.memory,
        "time": format_limit(site.time),
        "signal": f"B:USR1@{math.ceil(site.lead)}",
        "open-mode": "append",
        "output": site.log,
    }
    yield from (f"--{option}={value}" for option, value in given.items() if value is not None)
    yield "--requeue"
    if site.exclusive and not job.single:
        yield "--exclusive"


def assignments(job: Job, site: SiteSettings) -> Iterator[str]:
    """What the rest of the script reads, of all that it could."""
    text = read_script(job.script).partition(END)[2]
    variables = {
        "python": (shlex.quote(site.python), "the interpreter that has megadape"),
        "modules": (f"({shlex.join(site.modules)})", "loaded before anything runs"),
        "step_options": (f"({shlex.join(step_options(site))})", "of every srun, such as --container-image=..."),
        "inside": (f"({shlex.join(program_prefix(site))})", "put before every program, such as apptainer exec ..."),
        "launcher": (site.launcher, "srun: a task a rank; torchrun: a task a node, which starts its ranks"),
        "ranks_per_node": (str(site.local_ranks), "with torchrun"),
        "cpus_per_rank": (str(site.cpus_per_rank), "threads of each, unless OMP_NUM_THREADS is set"),
        "max_restarts": (str(site.max_restarts), "how often the job starts itself anew; a link of a chain never does"),
        "max_stalls": (str(site.max_stalls), "so many starts one after another without a new checkpoint end it"),
        "chain": (shlex.quote(job.chain), "which chain the job is a link of"),
    }
    for name, (value, comment) in variables.items():
        if re.search(rf"^[^#]*\b{name}\b", text, re.MULTILINE):
            yield f"{f'{name}={value}':<23} # {comment}"
    yield from (f"export {name}={shlex.quote(value)}" for name, value in site.environment.items())
    if job.words:
        yield f"set -- {quote(job.words)}"


def step_options(site: SiteSettings) -> list[str]:
    """Options of every srun."""
    container = site.container
    if container is None or container.runtime != "pyxis":
        return []
    mounts = [f"--container-mounts={','.join(container.mounts)}"] if container.mounts else []
    return [f"--container-image={container.image}", *mounts]


def program_prefix(site: SiteSettings) -> list[str]:
    """What is put before every program."""
    container = site.container
    if container is None or container.runtime != "apptainer":
        return []
    nvidia = ["--nv"] if site.gpus_per_node else []
    return ["apptainer", "exec", *nvidia, *(f"--bind={mount}" for mount in container.mounts), container.image]


def quote(words: Sequence[str]) -> str:
    """Words of a command line for a script; ``SlurmError`` where one cannot stand on a line."""
    for word in words:
        if any(not character.isprintable() for character in word):
            raise SlurmError(f"{word!r} holds a control character, which no script may: write it into a settings file")
    return shlex.join(words)


def format_limit(seconds: float) -> str:
    """As sbatch --time takes it, whole minutes: DAYS-HH:MM:SS."""
    minutes = max(1, math.ceil(seconds / 60))
    return f"{minutes // 1440}-{minutes // 60 % 24:02}:{minutes % 60:02}:00"
