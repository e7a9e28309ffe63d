"""Whether two processes of this machine meet and compute together over gloo, as a launcher would start them."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing

from megadape.doctor.base import Finding, Subject, bad, fine, first_line

RANKS = 2
SECONDS = 60.0
"""That each waits for the other."""


def look_at_gloo(subject: Subject) -> Iterator[Finding]:
    """Two ranks sum a tensor."""
    port = _free_port()
    processes = [_start(rank, port) for rank in range(RANKS)]
    try:
        said = [process.communicate(timeout=2 * SECONDS) for process in processes]
    finally:
        for process in processes:
            process.kill()
            process.wait()
    for rank, (process, (_, error)) in enumerate(zip(processes, said, strict=True)):
        if process.returncode:
            last = error.strip().splitlines()[-1] if error.strip() else f"exit code {process.returncode}"
            yield bad("gloo", f"rank {rank} of {RANKS} fails: {first_line(last)}", _remedy(last))
            return
    yield fine("gloo", f"{RANKS} processes sum {said[0][0].strip()}")


def _start(rank: int, port: int) -> subprocess.Popen[str]:
    place = {"RANK": str(rank), "WORLD_SIZE": str(RANKS), "LOCAL_RANK": str(rank)}
    rendezvous = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    environment = {**os.environ, **place, **rendezvous, "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, "-m", "megadape.doctor.rank"],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def _free_port() -> int:
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _remedy(error: str) -> str:
    if "open files" in error:
        return "raise the number of open files: see there"
    name = socket.gethostname()
    try:
        socket.gethostbyname(name)
    except OSError:
        return f'the name of this machine has no address: echo "127.0.0.1 {name}" >> /etc/hosts'
    return "name the interface by which ranks reach one another: export GLOO_SOCKET_IFNAME=lo (on one machine)"
