"""What a start ran with, kept in the run folder; nothing that might be a secret."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from megadape.slurm.site import SECRET
from megadape.slurm.starts import FOLDER, own_job
from megadape.training.supervision.json_files import replace_json

KEPT = re.compile(
    r"(SLURM|SBATCH|NCCL|CUDA|ROCR|OMP|MKL|TORCH|GLOO|UCX|FI|PYTORCH|TRITON|MASTER|MEGADAPE)_.*"
    r"|LOADEDMODULES|VIRTUAL_ENV|CONDA_PREFIX|PYTHONPATH|LD_LIBRARY_PATH|PATH"
)
"""Variables worth keeping: a list of what is kept, since nobody could list all that must not be."""

GIT_SECONDS = 20.0


def record_environment(run_dir: Path, environment: Mapping[str, str] = os.environ) -> Path:
    """Write run_dir/slurm/JOB.RESTARTS/environment.json; its path.

    Raises:
        OSError: the folder cannot be written.
    """
    content = {
        "job": own_job(environment),
        "host": socket.gethostname(),
        "command": sys.argv,
        "python": sys.version,
        "code": describe_code(Path(__file__).parents[2]),
        "packages": dict(sorted(installed_packages().items())),
        "environment": choose_variables(environment),
    }
    path = run_dir / FOLDER / own_job(environment) / "environment.json"
    replace_json(path, content)
    return path


def choose_variables(environment: Mapping[str, str]) -> dict[str, str]:
    """Those that are kept, none whose name looks like a secret's."""
    return {
        name: value
        for name, value in sorted(environment.items())
        if KEPT.fullmatch(name) and not SECRET.search(name.removeprefix("SLURM_"))
    }


def installed_packages() -> dict[str, str]:
    """Name -> version of everything that is installed."""
    return {found.name: found.version for found in metadata.distributions() if found.name}


def describe_code(folder: Path) -> dict[str, Any] | None:
    """Commit, and whether files differ from it; None where the code lies in no repository of its own."""
    if not (folder / ".git").exists():
        return None
    commit, changed = _git(folder, "rev-parse", "HEAD"), _git(folder, "status", "--porcelain", "--untracked-files=no")
    return None if commit is None else {"commit": commit, "changed": None if changed is None else bool(changed)}


def _git(folder: Path, *words: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *words], capture_output=True, text=True, timeout=GIT_SECONDS, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
