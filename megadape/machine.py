"""What this machine grants the process, and what is installed."""

from __future__ import annotations

import ctypes
import os
import platform
import resource
import sys
from importlib import metadata
from pathlib import Path

CGROUP_QUOTA = Path("/sys/fs/cgroup/cpu.max")


def available_cpus() -> int:
    """CPUs that this process may use: its affinity, and the quota of its control group where there is one."""
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = CGROUP_QUOTA.read_text().split()
    except (OSError, ValueError):
        return cpus
    return cpus if quota == "max" else max(1, min(cpus, int(quota) // int(period)))


def is_first_rank() -> bool:
    """Whether a launcher started this process as the first of several, or it is alone."""
    return next((os.environ[name] for name in ("RANK", "SLURM_PROCID") if name in os.environ), "0") == "0"


def choose_threads(processes: int = 1) -> int:
    """Threads for each of so many processes on this machine; OMP_NUM_THREADS wins where it is set."""
    asked = os.environ.get("OMP_NUM_THREADS", "")
    return int(asked) if asked.isdigit() and int(asked) > 0 else max(1, available_cpus() // processes)


def keep_freed_memory() -> None:
    """Tell glibc's allocator to keep what is freed instead of giving it back and faulting it in again at each step.

    Large tensors come and go at every step of a CPU run; page faults would otherwise take a good part of its time.
    Other C libraries are left as they are.
    """
    if platform.libc_ver()[0] != "glibc":
        return
    library = ctypes.CDLL(None)
    trim_threshold, mmap_max = -1, -4  # M_TRIM_THRESHOLD, M_MMAP_MAX of malloc.h
    library.mallopt(trim_threshold, 2**31 - 1)
    library.mallopt(mmap_max, 0)


def peak_resident_bytes() -> int:
    """The most memory that this process ever had resident."""
    try:
        # getrusage would count what the parent had resident when it started this process
        status = Path("/proc/self/status").read_text()
        return int(status.partition("VmHWM:")[2].split()[0]) * 1024
    except (OSError, IndexError):
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024


def versions() -> dict[str, str | None]:
    """Versions that a result may depend on; None: not installed."""
    found: dict[str, str | None] = {"python": platform.python_version()}
    for package in ("megadape", "torch", "deepspeed", "numpy", "sentencepiece", "tokenizers"):
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = None
    return found
