"""GPUs: whether they are seen, and by whom not."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from megadape.doctor.base import Finding, Subject, bad, fine, first_line, warn

DRIVER = Path("/proc/driver/nvidia/version")


@dataclass(frozen=True)
class Seen:
    """What driver and torch say."""

    driver: str | None
    """Version of NVIDIA's driver; None where none is loaded."""
    listed: tuple[str, ...]
    """GPUs that nvidia-smi lists."""
    complaint: str
    """Of nvidia-smi, where it fails."""
    built_for: str | None
    """CUDA for which torch is built; None: for CPUs."""
    usable: int
    """GPUs that torch can use."""
    refusal: str
    """Of torch, where it can use none."""
    visible: str | None
    """CUDA_VISIBLE_DEVICES."""


def look_at_gpus(subject: Subject) -> Iterator[Finding]:
    """Whether the GPUs that are there can be used, and compute."""
    finding = judge(ask())
    yield finding
    if finding.state == "ok" and finding.seen != NONE:
        yield from _try_each()


NONE = "none here: training on the CPU"


def judge(seen: Seen) -> Finding:
    """What is to be said of it."""
    there = len(seen.listed) or int(seen.driver is not None)
    if not there and seen.built_for is None:
        return fine("gpus", NONE)
    if seen.built_for is None:
        words = f"{', '.join(seen.listed) or 'a driver is loaded'}, but this torch is built for CPUs"
        return bad(
            "gpus", words, "pip install --force-reinstall torch --index-url https://download.pytorch.org/whl/cu130"
        )
    if not there:
        said = f"torch is built for CUDA {seen.built_for}, but no NVIDIA driver is loaded"
        return warn(
            "gpus", said, "on a machine with GPUs: install the driver, docker run --gpus all, srun --gres=gpu:1"
        )
    if seen.usable:
        return fine(
            "gpus",
            f"{seen.usable} of {there} usable (driver {seen.driver}, CUDA {seen.built_for}): {'; '.join(seen.listed)}",
        )
    if seen.visible is not None and seen.visible.strip() in ("", "-1", "NoDevFiles"):
        return warn("gpus", f"{there} are there, but CUDA_VISIBLE_DEVICES hides them", "unset CUDA_VISIBLE_DEVICES")
    if "mismatch" in seen.complaint.lower():
        return bad(
            "gpus",
            f"driver and its library differ: {seen.complaint}",
            "load the new driver: reboot, or rmmod nvidia and modprobe nvidia",
        )
    why = seen.refusal or seen.complaint
    said = f"driver {seen.driver} is loaded, but torch for CUDA {seen.built_for} uses no GPU: {why}"
    return bad(
        "gpus",
        said,
        "install a driver for this CUDA, or a torch for this driver (nvidia-smi names its CUDA): https://pytorch.org/get-started",
    )


def ask() -> Seen:
    """Ask driver, nvidia-smi and torch."""
    import torch

    match = re.search(r"Kernel Module\D*?([\d.]+)", DRIVER.read_text()) if DRIVER.exists() else None
    listed, complaint = _nvidia_smi()
    built_for, refusal = torch.version.cuda, ""
    usable = torch.cuda.device_count() if built_for else 0
    if built_for and not usable:
        try:
            torch.cuda.init()
        except Exception as error:
            refusal = first_line(error)
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    return Seen(match[1] if match else None, listed, complaint, built_for, usable, refusal, visible)


def _nvidia_smi() -> tuple[tuple[str, ...], str]:
    if shutil.which("nvidia-smi") is None:
        return (), ""
    query = ["nvidia-smi", "--query-gpu=name,memory.total,memory.used", "--format=csv,noheader"]
    done = subprocess.run(query, capture_output=True, text=True, check=False)
    lines = done.stdout.strip().splitlines()
    return (tuple(lines), "") if done.returncode == 0 else ((), first_line(done.stdout or done.stderr or "it fails"))


def _try_each() -> Iterator[Finding]:
    import torch

    for index in range(torch.cuda.device_count()):
        name, device = f"gpu {index}", torch.device("cuda", index)
        try:
            free, total = torch.cuda.mem_get_info(device)
            square = torch.eye(256, device=device)
            right = bool((square @ square == square).all())
        except Exception as error:
            yield bad(
                name, f"does not compute: {first_line(error)}", "nvidia-smi says who uses it and which errors it has"
            )
            continue
        words = f"{torch.cuda.get_device_name(device)}, {free / 2**30:.1f} GiB free of {total / 2**30:.1f}"
        yield (
            fine(name, words)
            if right
            else bad(name, f"{words}: computes wrongly", "leave it out: CUDA_VISIBLE_DEVICES")
        )
