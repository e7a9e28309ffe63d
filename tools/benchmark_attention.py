"""Time and memory of every attention backend against length, as ratios to plain fused attention without any bias.

    python tools/benchmark_attention.py --lengths 512 2048 8192 --threads 1 --out benchmarks
    python tools/benchmark_attention.py --device cuda --dtype bfloat16 --batch 4 --lengths 512 2048 8192 32768 131072

Ratios are medians over rounds in which a contestant and plain attention take turns, so that a busy machine slows both
alike. With one thread the time is the process's CPU time, else the wall clock's; a GPU is waited for. Memory is the
peak beyond what the inputs take, each in a process of its own. "published" is the form of the published code: [b, 2h,
s, s] and [b, D, s, s] materialised; "dense" is fused attention with a materialised bias; "flex" is torch's compiled
FlexAttention with the bias read from a table, on a GPU; "apart" is DAPE over documents that are kept apart, 1 to 2n - 1
tokens long for --document-length n.
"""

from __future__ import annotations

import argparse
import multiprocessing
import random
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import pairwise
from multiprocessing.connection import Connection
from pathlib import Path

import torch
from matplotlib.figure import Figure
from rich.console import Console
from torch import Tensor
from torch.nn import functional
from torch.nn.attention.flex_attention import create_block_mask, flex_attention

from megadape.attention import BACKENDS, DapeMixer, Documents, choose, dape_attention, make_request
from megadape.console import make_table
from megadape.errors import AttentionError
from megadape.evaluation.output import write_table
from megadape.machine import keep_freed_memory, peak_resident_bytes
from megadape.positions import DistanceBias, ScoreBias, build

PASSES = ("forward", "forward+backward")


@dataclass(frozen=True)
class Case:
    """One length of one shape."""

    length: int
    heads: int
    head_dim: int
    hidden: int
    encoding: str
    dtype: torch.dtype
    device: str
    document_length: int = 256
    batch: int = 1

    def tensors(self, dtype: torch.dtype, gradient: bool) -> tuple[Tensor, Tensor, Tensor]:
        """q, k, v [b, h, s, d]."""
        shape = (self.batch, self.heads, self.length, self.head_dim)
        generator = torch.Generator().manual_seed(0)
        made = [torch.randn(shape, generator=generator).to(self.device, dtype) for _ in range(3)]
        q, k, v = (tensor.requires_grad_(gradient) for tensor in made)
        return q, k, v

    def documents(self) -> Documents:
        """Of about ``document_length`` tokens, alike in every sequence."""
        draw, ends = random.Random(0), [0]
        while ends[-1] < self.length:
            ends.append(min(self.length, ends[-1] + draw.randint(1, 2 * self.document_length - 1)))
        return Documents((tuple(end - first for first, end in pairwise(ends)),) * self.batch)


Attend = Callable[[Tensor, Tensor, Tensor], Tensor]


def plain(case: Case) -> Attend:
    """Fused attention without any bias: the measure of all others."""
    return lambda q, k, v: functional.scaled_dot_product_attention(q, k, v, is_causal=True)


def dense(case: Case) -> Attend:
    """Fused attention with a materialised bias, no mixing."""
    encoding, _ = modules(case)
    positions = torch.arange(case.length, device=case.device)

    def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        hidden = positions[:, None] < positions
        bias = encoding.bias(positions, positions).masked_fill(hidden, float("-inf")).to(q.dtype)
        return functional.scaled_dot_product_attention(q, k, v, attn_mask=bias[None])

    return attend


def published(case: Case) -> Attend:
    """Heads concatenated and moved last for two linear layers, everything materialised."""
    encoding, mixer = modules(case)
    positions = torch.arange(case.length, device=case.device)

    def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        scores = q @ k.transpose(-1, -2) / case.head_dim**0.5
        bias = encoding.bias(positions, positions)[None].to(q.dtype)
        both = torch.cat([scores, bias.expand_as(scores)], dim=1).permute(0, 2, 3, 1)
        hidden = functional.leaky_relu(functional.linear(both, mixer.w1.to(q.dtype), mixer.b1.to(q.dtype)))
        correction = functional.linear(hidden, mixer.w2.to(q.dtype), mixer.b2.to(q.dtype)).permute(0, 3, 1, 2)
        logits = (scores + bias + correction).masked_fill(positions[:, None] < positions, float("-inf"))
        return logits.softmax(-1) @ v

    return attend


def flex(case: Case) -> Attend:
    """FlexAttention with a static bias that depends on the distance."""
    encoding, _ = modules(case)
    compiled = torch.compile(flex_attention, dynamic=False)
    mask = create_block_mask(lambda b, h, i, j: i >= j, None, None, case.length, case.length, device=case.device)

    def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        assert isinstance(encoding, DistanceBias), "asked before"
        table = encoding.by_distance(case.length)

        def add(score: Tensor, b: Tensor, h: Tensor, i: Tensor, j: Tensor) -> Tensor:
            return score + table[h, (i - j).clamp(min=0)]

        out: Tensor = compiled(q, k, v, score_mod=add, block_mask=mask)
        return out

    return attend


def backend(name: str, kind: str) -> Callable[[Case], Attend]:
    """One of megadape's own: with DAPE, with the static bias alone, or with DAPE and documents kept apart."""

    def make(case: Case) -> Attend:
        encoding, mixer = modules(case)
        mixing, documents = None if kind == "static" else mixer, case.documents() if kind == "apart" else None
        return lambda q, k, v: dape_attention(q, k, v, bias=encoding, mixer=mixing, documents=documents, backend=name)

    return make


def modules(case: Case) -> tuple[ScoreBias, DapeMixer]:
    """The encoding and the mixer, with the same values for every contestant."""
    torch.manual_seed(0)
    encoding = build(case.encoding, case.heads, head_dim=case.head_dim)
    if not isinstance(encoding, ScoreBias):
        raise AttentionError(f"--encoding {case.encoding} adds nothing to scores: choose alibi, kerple_log, fire or t5")
    return encoding.to(case.device), DapeMixer(case.heads, case.hidden).to(case.device)


CONTESTANTS: dict[str, Callable[[Case], Attend]] = {
    "sdpa": plain,
    "dense": dense,
    "published": published,
    "flex": flex,
    **{f"{kind} {name}": backend(name, kind) for kind in ("dape", "static", "apart") for name in BACKENDS},
}


def refusal(name: str, case: Case, gradient: bool, limit: float) -> str | None:
    """Why a contestant does not take part, if it does not."""
    kind, _, chosen = name.partition(" ")
    pairs = case.batch * case.heads * case.length**2 * torch.finfo(case.dtype).bits / 8
    arrays = {"dense": 3, "published": 6 + 2 * case.hidden / case.heads}
    if kind in arrays or chosen == "reference":
        wanted = pairs * arrays.get(kind, arrays["published"]) * (2 if gradient else 1)
        return f"needs {wanted / 2**30:.0f} GiB" if wanted > limit else None
    encoding, mixer = modules(case)
    if kind == "flex" and (case.device == "cpu" or not isinstance(encoding, DistanceBias)):
        return "runs on a GPU, over biases of the distance alone"
    if not chosen:
        return None
    request = make_request(
        *case.tensors(case.dtype, gradient),
        bias=encoding,
        mixer=None if kind == "static" else mixer,
        documents=case.documents() if kind == "apart" else None,
    )
    try:
        choose(request, chosen)
    except AttentionError as error:
        return str(error).partition(": it ")[2].partition(";")[0]
    return None


def run_once(attend: Attend, tensors: tuple[Tensor, Tensor, Tensor], gradient: bool) -> None:
    """One pass."""
    out = attend(*tensors)
    if gradient:
        out.backward(torch.ones_like(out))
        for tensor in tensors:
            tensor.grad = None
    if out.device.type == "cuda":
        torch.cuda.synchronize()


def fits(case: Case, name: str, gradient: bool) -> bool:
    """Whether a pass ends without running out of the GPU's memory."""
    if case.device == "cpu":
        return True
    try:
        with torch.set_grad_enabled(gradient):
            run_once(CONTESTANTS[name](case), case.tensors(case.dtype, gradient), gradient)
    except torch.OutOfMemoryError:
        return False
    finally:
        torch.cuda.empty_cache()
    return True


def measure_times(
    case: Case, names: list[str], gradient: bool, rounds: int, clock: Callable[[], float]
) -> dict[str, float]:
    """Median seconds of each, in turns."""
    # plain attention is measured in float32 where the others are: stock CPU kernels are slow in bf16
    tensors = case.tensors(case.dtype, gradient)
    reference = case.tensors(torch.float32 if case.device == "cpu" else case.dtype, gradient)
    attends = {name: CONTESTANTS[name](case) for name in names}
    seconds: dict[str, list[float]] = {name: [] for name in names}
    with torch.set_grad_enabled(gradient):
        for turn in range(rounds + 1):
            for name, attend in attends.items():
                started = clock()
                run_once(attend, reference if name == "sdpa" else tensors, gradient)
                if turn:  # the first one warms up
                    seconds[name].append(clock() - started)
    return {name: statistics.median(values) for name, values in seconds.items()}


def measure_memory(case: Case, name: str, gradient: bool, threads: int) -> float:
    """Peak MiB of one pass beyond its inputs, in a process of its own."""
    context = multiprocessing.get_context("spawn")
    reader, writer = context.Pipe(duplex=False)
    process = context.Process(target=_report_memory, args=(case, name, gradient, threads, writer))
    process.start()
    writer.close()
    try:
        value: float = reader.recv()
    except EOFError:
        value = float("nan")
    process.join()
    return value


def _report_memory(case: Case, name: str, gradient: bool, threads: int, writer: Connection) -> None:
    torch.set_num_threads(threads)
    warm = replace(case, length=64)
    with torch.set_grad_enabled(gradient):
        run_once(CONTESTANTS[name](warm), warm.tensors(case.dtype, gradient), gradient)
        tensors, attend = case.tensors(case.dtype, gradient), CONTESTANTS[name](case)
        if case.device == "cuda":
            torch.cuda.reset_peak_memory_stats()
            before = torch.cuda.memory_allocated()
            run_once(attend, tensors, gradient)
            writer.send((torch.cuda.max_memory_allocated() - before) / 2**20)
            return
        before = peak_resident_bytes()
        run_once(attend, tensors, gradient)
        writer.send((peak_resident_bytes() - before) / 2**20)


def draw(rows: list[list[object]], path: Path, title: str) -> None:
    """Ratio to plain attention against length, one panel a pass."""
    kinds = list(dict.fromkeys(str(row[1]) for row in rows))
    figure = Figure(figsize=(4.2 * len(kinds) + 1.2, 3.4), layout="constrained")
    for panel, kind in zip(figure.subplots(1, len(kinds), squeeze=False)[0], kinds, strict=True):
        measured = [row for row in rows if row[1] == kind and row[4] != ""]
        for name in dict.fromkeys(str(row[2]) for row in measured):
            points = [(int(str(row[0])), float(str(row[4]))) for row in measured if row[2] == name]
            panel.plot(*zip(*points, strict=True), marker="o", markersize=4, label=name)
        lengths = sorted({int(str(row[0])) for row in measured})
        panel.set_xscale("log", base=2)
        panel.set_yscale("log")
        panel.set_xticks(lengths, [str(length) for length in lengths])
        panel.set(title=kind, xlabel="length", ylabel="time, plain attention = 1")
        panel.grid(visible=True, alpha=0.3)
        panel.spines[["top", "right"]].set_visible(False)
    figure.legend(*figure.axes[0].get_legend_handles_labels(), loc="outside right upper", frameon=False, fontsize=8)
    figure.suptitle(title, fontsize=10)
    figure.savefig(path, dpi=200)


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lengths", type=int, nargs="+", default=[512, 2048, 8192])
    parser.add_argument("--contestants", nargs="+", default=list(CONTESTANTS), choices=list(CONTESTANTS))
    parser.add_argument("--passes", nargs="+", default=list(PASSES), choices=PASSES)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--heads", type=int, default=12)
    parser.add_argument("--head-dim", type=int, default=64)
    parser.add_argument("--hidden", type=int, default=32, help="width D of the mixer")
    parser.add_argument("--encoding", default="kerple_log")
    parser.add_argument("--document-length", type=int, default=256, help="mean, of apart")
    parser.add_argument("--dtype", choices=["float32", "bfloat16", "float16"], default="float32")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--memory-limit", type=float, help="GiB that a materialised form may take (8; a GPU's own)")
    parser.add_argument("--no-memory", action="store_true", help="measure time alone")
    parser.add_argument("--keep-freed-memory", action="store_true", help="a kinder allocator, as training uses it")
    parser.add_argument("--out", type=Path, default=Path("benchmarks"))
    return parser.parse_args()


def main() -> None:
    """Measure, print, write."""
    options, console = parse(), Console(width=140)
    torch.set_num_threads(options.threads)
    if options.keep_freed_memory:
        keep_freed_memory()
    clock = time.process_time if options.threads == 1 and options.device == "cpu" else time.perf_counter
    dtype, limit = getattr(torch, options.dtype), options.memory_limit or 8.0
    if options.device == "cuda" and options.memory_limit is None:
        limit = torch.cuda.get_device_properties(0).total_memory / 2**30
    where = f"{options.threads} thread(s)" if options.device == "cpu" else torch.cuda.get_device_name()
    rows: list[list[object]] = []
    for length in options.lengths:
        shape = length, options.heads, options.head_dim, options.hidden
        case = Case(*shape, options.encoding, dtype, options.device, options.document_length, options.batch)
        for kind in options.passes:
            gradient = kind == PASSES[1]
            wanted = list(dict.fromkeys(["sdpa", *options.contestants]))
            reasons = {name: refusal(name, case, gradient, limit * 2**30) for name in wanted}
            rounds = max(2, options.rounds * 4096 // length) if length > 4096 else options.rounds
            for name in wanted:
                if reasons[name] is None and not fits(case, name, gradient):
                    reasons[name] = "runs out of memory"
                if reasons[name] is not None:
                    rows.append([length, kind, name, "", "", "", reasons[name]])
                    continue
                seconds = measure_times(case, list(dict.fromkeys(["sdpa", name])), gradient, rounds, clock)
                memory = "" if options.no_memory else f"{measure_memory(case, name, gradient, options.threads):.0f}"
                ratio = f"{seconds[name] / seconds['sdpa']:.2f}"
                rows.append([length, kind, name, f"{1e3 * seconds[name]:.1f}", ratio, memory, ""])
                sys.stderr.write(f"{length} {kind} {name}: {ratio} x sdpa\n")
    columns = ["length", "pass", "contestant", "ms", "x sdpa", "extra MiB", "why not"]
    cells = [[str(cell) for cell in row] for row in rows]
    console.print(make_table(f"{options.dtype}, batch {options.batch}, {where}", columns, cells))
    name = f"attention-{options.device}-{options.dtype}-{options.encoding}-{options.threads}-{options.batch}"
    write_table(options.out / f"{name}.csv", columns, rows)
    draw(rows, options.out / f"{name}.png", f"{options.encoding}, {options.dtype}, {where}")


if __name__ == "__main__":
    main()
