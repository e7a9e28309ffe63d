"""What one DAPE attention layer moves and takes under tensor parallelism, in both forms, against sequence length.

    python tools/benchmark_parallel.py --tp 2 --lengths 256 512 1024 2048 --rounds 5

Bytes are those that a rank receives in one forward and backward pass, counted at torch.distributed itself (ring
algorithms: an all-reduce of n bytes over T ranks receives 2 (T-1)/T n), beside the formulas. Times are medians over
rounds in which the forms take turns: the whole pass, and what starting each collective takes and waiting for it, for
the other ranks too. Ranks are processes of this machine joined by gloo, one thread each.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import Tensor
from torch import distributed as dist

from megadape.attention import DapeMixer
from megadape.attention.call import Attention
from megadape.attention.exchange import Exchange, choose_exchange
from megadape.console import make_table
from megadape.evaluation.output import write_table
from megadape.machine import keep_freed_memory
from megadape.parallel.group import Group, Pending
from megadape.parallel.mesh import Place, make_mesh
from megadape.parallel.sharding import Mixing, Sharding
from megadape.parallel.traffic import Traffic
from megadape.positions import Heads, build
from megadape.testing import run_distributed

FORMS: tuple[Mixing, ...] = ("rows", "heads")
COLLECTIVES = ("all_reduce", "all_gather", "reduce_scatter", "all_to_all")


@dataclass(frozen=True)
class Shape:
    """One layer's attention."""

    heads: int
    head_dim: int
    hidden: int
    encoding: str
    dtype: torch.dtype
    batch: int = 1


@dataclass(frozen=True)
class Measurement:
    """One form at one length, as the first rank saw it."""

    form: str
    length: int
    received: dict[str, int]
    """Collective -> bytes of a forward and backward pass."""
    formula: int
    """Bytes of the whole pass by the formulas, without the parameters of encoding and mixer."""
    seconds: float
    inside: dict[str, float]
    """Collective -> seconds."""

    @property
    def total(self) -> int:
        """Bytes of the whole pass."""
        return sum(self.received.values())


def measure(tp: int, shape: Shape, lengths: list[int], rounds: int) -> list[Measurement]:
    """On each rank: every length in both forms, taking turns."""
    keep_freed_memory()
    mesh = make_mesh(Place(dist.get_rank(), tp), torch.device("cpu"), tp=tp)
    measurements = []
    for length in lengths:
        passes = {form: LayerPass(shape, length, form, Sharding(mesh.tp, mixing=form)) for form in FORMS}
        received = {form: passes[form].count() for form in FORMS}
        seconds: dict[str, list[float]] = {form: [] for form in FORMS}
        for _ in range(rounds):
            for form in FORMS:
                mesh.barrier()
                started = time.perf_counter()
                passes[form].run()
                seconds[form].append(time.perf_counter() - started)
        for form in FORMS:
            measurements.append(
                Measurement(
                    form,
                    length,
                    received[form],
                    passes[form].expected(),
                    statistics.median(seconds[form]),
                    passes[form].time_collectives(),
                )
            )
    return measurements


class LayerPass:
    """Forward and backward of one layer's attention on this rank's heads."""

    def __init__(self, shape: Shape, length: int, form: Mixing, sharding: Sharding) -> None:
        own = sharding.own_part(shape.heads, "--heads")
        heads = Heads(shape.heads, own.start, own.stop - own.start)
        self.shape, self.length, self.form, self.tp = shape, length, form, sharding.tp
        self.encoding = build(shape.encoding, shape.heads, head_dim=shape.head_dim, heads=heads)
        self.mixer = DapeMixer(shape.heads, shape.hidden, heads=heads)
        self.exchange: Exchange = choose_exchange(sharding, mixes=True)
        size = (shape.batch, heads.local, length, shape.head_dim)
        self.inputs = [torch.randn(size).to(shape.dtype).requires_grad_() for _ in range(3)]

    def run(self) -> None:
        """Once."""
        q, k, v = self.inputs
        call = Attention(q, k, v, self.encoding, self.mixer, torch.arange(self.length))
        out: Tensor = self.exchange(call)
        out.backward(torch.ones_like(out))

    def count(self) -> dict[str, int]:
        """Bytes received by collective."""
        with Traffic() as traffic:
            self.run()
        received = dict.fromkeys(COLLECTIVES, 0)
        for row in traffic.rows():
            received[row.collective] += row.received
        return received

    def expected(self) -> int:
        """Bytes of ``count`` by the formulas."""
        shape, ranks = self.shape, self.tp.size
        share, tokens = (ranks - 1) / ranks, shape.batch * self.length
        if self.form == "rows":
            forward = share * tokens * shape.heads * shape.head_dim * (2 + 2 / ranks) * shape.dtype.itemsize
        else:
            forward = 2 * share * shape.hidden * tokens * self.length * torch.float32.itemsize
        return round(2 * forward)

    def time_collectives(self) -> dict[str, float]:
        """Seconds inside each collective."""
        spent = dict.fromkeys(COLLECTIVES, 0.0)
        with timed(spent):
            self.run()
        return spent


@contextmanager
def timed(spent: dict[str, float]) -> Iterator[None]:
    """Add what starting each of a group's collectives takes, and waiting for it, for the length of a block."""
    methods = {name: name if name == "all_reduce" else f"start_{name}" for name in spent}
    originals = {method: getattr(Group, method) for method in methods.values()}
    wait, started = Pending.wait, dict[int, str]()

    def clock(name: str, function: Callable[..., Any], *words: object) -> Any:  # noqa: ANN401
        began = time.perf_counter()
        result = function(*words)
        spent[name] += time.perf_counter() - began
        return result

    def clocked(name: str) -> Callable[..., Any]:
        def start(*words: object) -> object:
            result = clock(name, originals[methods[name]], *words)
            started[id(result)] = name
            return result

        return start

    def waited(pending: Pending) -> object:
        return clock(started[id(pending)], wait, pending)

    for name, method in methods.items():
        setattr(Group, method, clocked(name))
    Pending.wait = waited  # type: ignore[method-assign, assignment]
    try:
        yield
    finally:
        Pending.wait = wait  # type: ignore[method-assign]
        for method, original in originals.items():
            setattr(Group, method, original)


def rows_of(measurements: list[Measurement]) -> list[list[str]]:
    """Table rows: what is read, then each collective."""
    rows = []
    by_length = {(each.length, each.form): each for each in measurements}
    for each in measurements:
        other = by_length[each.length, "heads"]
        rows.append(
            [
                f"{each.length} {each.form}",
                f"{each.total / 2**20:,.2f}",
                f"{each.formula / 2**20:,.2f}",
                f"1/{other.total / each.total:,.1f}",
                f"{each.seconds * 1e3:,.1f}",
                *(f"{each.received[c] / 2**20:,.2f} / {each.inside[c] * 1e3:,.1f}" for c in COLLECTIVES),
            ]
        )
    return rows


def main() -> None:
    """Parse, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tp", type=int, default=2, help="ranks")
    parser.add_argument("--lengths", type=int, nargs="+", default=[256, 512, 1024, 2048])
    parser.add_argument("--heads", type=int, default=12)
    parser.add_argument("--head-dim", type=int, default=64)
    parser.add_argument("--hidden", type=int, default=32, help="width D of the mixer")
    parser.add_argument("--encoding", default="kerple_log")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path, help="folder for parallel.csv")
    options = parser.parse_args()
    shape = Shape(options.heads, options.head_dim, options.hidden, options.encoding, getattr(torch, options.dtype))
    results = run_distributed(options.tp, measure, options.tp, shape, options.lengths, options.rounds, timeout=3600)
    columns = ["length, form", "MiB received", "formula", "of heads", "ms", *(f"{c} MiB / ms" for c in COLLECTIVES)]
    rows = rows_of(results[0])
    title = f"DAPE attention, tp {options.tp}, one layer, forward and backward, per rank ({options.dtype})"
    Console(width=None if sys.stdout.isatty() else 180).print(make_table(title, columns, rows))
    if options.out is not None:
        write_table(options.out / "parallel.csv", columns, rows)


if __name__ == "__main__":
    main()
