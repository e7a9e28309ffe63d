"""The processor, the attention kernels that suit it, and threads."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from megadape.doctor.base import Finding, Subject, bad, fine, first_line, warn
from megadape.doctor.packages import pip
from megadape.machine import available_cpus

if TYPE_CHECKING:
    from megadape.attention.request import Request

FEATURES = ("avx2", "fma", "avx512f", "avx512_bf16", "amx_bf16", "asimd", "sve", "bf16")
"""Of /proc/cpuinfo, that kernels make use of."""

TOLERANCE = 1e-4


def look_at_processor(subject: Subject) -> Iterator[Finding]:
    """Its name and what it can do."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    facts = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in reversed(lines))}
    flags = (facts.get("flags") or facts.get("Features") or "").split()
    able = [name for name in FEATURES if name in flags]
    yield fine(
        "processor", f"{facts.get('model name', 'unknown')}: {', '.join(able) or 'no vector instructions known'}"
    )


def look_at_threads(subject: Subject) -> Iterator[Finding]:
    """Whether threads fit the CPUs that affinity and control group grant."""
    granted, machine = available_cpus(), os.cpu_count() or 1
    words = f"{granted} CPUs granted of {machine}" if granted < machine else f"{granted} CPUs"
    asked = os.environ.get("OMP_NUM_THREADS")
    if asked is None:
        yield fine("threads", f"{words}; OMP_NUM_THREADS is not set, so that a run takes them all")
    elif not asked.isdigit() or int(asked) < 1:
        yield warn("threads", f"{words}; OMP_NUM_THREADS is {asked!r} and counts for nothing", "unset OMP_NUM_THREADS")
    elif int(asked) > granted:
        seen = f"{words}, but OMP_NUM_THREADS is {asked}: threads wait for one another"
        yield warn("threads", seen, f"export OMP_NUM_THREADS={granted}")
    else:
        yield fine("threads", f"{words}, OMP_NUM_THREADS is {asked}")


def look_at_attention(subject: Subject) -> Iterator[Finding]:
    """Which backend a DAPE model takes on this CPU, and that it computes what the reference does."""
    import torch

    from megadape.attention.dispatch import choose
    from megadape.attention.native import Missing, load
    from megadape.attention.native.library import ISA_VARIABLE
    from megadape.errors import AttentionError

    library = load()
    if isinstance(library, Missing):
        backend = choose(_request()).name
        seen = f"backend {backend}, several times slower on a CPU than native could be: {library.reason}"
        yield warn("attention", seen, _rebuild())
        return
    try:
        kernels = library.instruction_set()
    except AttentionError as error:
        yield bad("attention", first_line(str(error)), f"unset {ISA_VARIABLE}")
        return
    request, reference = _request(), choose(_request(), "reference")
    chosen = choose(request)
    off = float((chosen(request) - reference(request)).detach().abs().max())
    words = f"backend {chosen.name}, kernels {kernels.name} (this processor can use {', '.join(library.supported())})"
    if not off < TOLERANCE:
        remedy = f"{_rebuild()}; until then, export {ISA_VARIABLE}=portable"
        yield bad("attention", f"{words}: off the reference by {off:.1e}", remedy)
        return
    yield fine("attention", f"{words}, {off:.0e} off the reference; threads: {torch.get_num_threads()}")


def _request() -> Request:
    """A DAPE call such as a model makes."""
    import torch

    from megadape.attention import DapeMixer
    from megadape.attention.request import make_request
    from megadape.positions import ScoreBias, build

    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(1, 4, 80, 32, generator=generator) for _ in range(3))
    mixer = DapeMixer(4)
    for parameter in mixer.parameters():
        torch.nn.init.normal_(parameter, std=0.2, generator=generator)
    bias = build("kerple_log", num_heads=4)
    assert isinstance(bias, ScoreBias)
    return make_request(q, k, v, bias=bias, mixer=mixer)


def _rebuild() -> str:
    root = Path(__file__).parents[2]
    where = ("-e", str(root)) if (root / "setup.py").exists() else ("--force-reinstall", "--no-deps", "megadape")
    return f"with a C++ compiler: {pip(*where)}"
