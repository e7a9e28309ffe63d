"""What the system grants a process: memory, shared memory, disk, open files."""

from __future__ import annotations

import os
import resource
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from megadape.doctor.base import Finding, Subject, bad, fine, first_line, warn

GIB = 2**30

LITTLE_MEMORY, LOW_MEMORY = 1 * GIB, 4 * GIB
LITTLE_DISK, LOW_DISK = 1 * GIB, 10 * GIB
LOW_SHARED = 256 * 2**20
"""Bytes: less than little is a problem, less than low a warning."""

FEW_FILES, ENOUGH_FILES = 1024, 65536
"""Fewer is a problem; what the remedy asks for."""

CGROUPS = Path("/sys/fs/cgroup")


def look_at_memory(subject: Subject) -> Iterator[Finding]:
    """What is free, and what the control group leaves of it."""
    facts = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
    total, free = (int(facts[key].split()[0]) * 1024 for key in ("MemTotal", "MemAvailable"))
    words, left = f"{free / GIB:.1f} GiB free of {total / GIB:.1f}", free
    limit = cgroup_limit()
    if limit is not None and limit[0] < total:
        left = min(free, limit[0] - limit[1])
        words += f"; the control group grants {limit[0] / GIB:.1f} GiB, of which {limit[1] / GIB:.1f} are taken"
    remedy = "end other programs, or ask for more memory (srun --mem=..., docker run --memory=...)"
    yield _judge("memory", words, left, LITTLE_MEMORY, LOW_MEMORY, remedy)


def look_at_shared_memory(subject: Subject) -> Iterator[Finding]:
    """/dev/shm, through which processes of one machine (NCCL's, loaders') pass tensors."""
    shared = Path("/dev/shm")
    if not shared.is_dir():
        yield warn("shared memory", f"there is no {shared}", f"mount -t tmpfs tmpfs {shared}")
        return
    free = shutil.disk_usage(shared).free
    remedy = f"docker run --shm-size=8g, or mount -o remount,size=8G {shared}"
    yield _judge("shared memory", f"{free / GIB:.2f} GiB free in {shared}", free, 0, LOW_SHARED, remedy)


def look_at_disk(subject: Subject) -> Iterator[Finding]:
    """Room for runs, and for temporary files."""
    places = {"disk": existing(subject.run_dir)}
    try:
        places["disk of temporary files"] = Path(tempfile.gettempdir())
    except OSError as error:
        yield bad("disk of temporary files", first_line(error), "export TMPDIR=... to a folder that can be written")
    for what, folder in places.items():
        usage, status = shutil.disk_usage(folder), os.statvfs(folder)
        words = f"{usage.free / GIB:.1f} GiB free of {usage.total / GIB:.1f} at {folder}"
        if status.f_files and not status.f_favail:
            yield bad(what, f"{words}, but no inode is left", f"delete files: df -i {folder}")
            continue
        other = "choose another run_dir" if what == "disk" else "export TMPDIR=... to another disk"
        yield _judge(what, words, usage.free, LITTLE_DISK, LOW_DISK, f"free some, or {other}")


def look_at_open_files(subject: Subject) -> Iterator[Finding]:
    """How many a process may have open: connections to other ranks, shards, checkpoints."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    unlimited = resource.RLIM_INFINITY
    words = f"{_number(soft)} at once, {_number(hard)} on request"
    if soft == unlimited or soft >= FEW_FILES:
        yield fine("open files", words)
        return
    wanted = ENOUGH_FILES if hard == unlimited else min(hard, ENOUGH_FILES)
    remedy = f"ulimit -n {wanted}"
    if wanted < FEW_FILES:
        remedy = (
            f"as root, raise the hard limit: prlimit --pid $$ --nofile={ENOUGH_FILES}, for good * - nofile "
            f"{ENOUGH_FILES} in /etc/security/limits.conf (docker run --ulimit nofile={ENOUGH_FILES}), then ulimit -n "
            f"{ENOUGH_FILES}"
        )
    yield bad("open files", f"{words}: fewer than the {FEW_FILES} that ranks and shards may need", remedy)


def cgroup_limit() -> tuple[int, int] | None:
    """Bytes that the narrowest control group of this process grants, and that it has taken; None without a limit."""
    try:
        lines = Path("/proc/self/cgroup").read_text().splitlines()
    except OSError:
        return None
    # version 2 has one line, 0::/path; a container sees its own group as the root
    inside = next((line[3:] for line in lines if line.startswith("0::")), "/").strip("/")
    own = CGROUPS / inside
    nested = [own, *(each for each in own.parents if each.is_relative_to(CGROUPS))]
    places = [(folder / "memory.max", folder / "memory.current") for folder in nested]
    places.append((CGROUPS / "memory/memory.limit_in_bytes", CGROUPS / "memory/memory.usage_in_bytes"))  # version 1
    found = []
    for limit, taken in places:
        with suppress(OSError, ValueError):  # no such file; "max"
            found.append((int(limit.read_text()), int(taken.read_text())))
    return min(found, key=lambda pair: pair[0] - pair[1]) if found else None


def existing(path: Path) -> Path:
    """The path, or the nearest folder above it that is there."""
    path = path.absolute()
    return next(folder for folder in (path, *path.parents) if folder.is_dir())


def _judge(name: str, words: str, free: int, little: int, low: int, remedy: str) -> Finding:
    if free < little:
        return bad(name, f"{words}: too little to train", remedy)
    return warn(name, f"{words}: little", remedy) if free < low else fine(name, words)


def _number(limit: int) -> str:
    return "any number" if limit == resource.RLIM_INFINITY else str(limit)
