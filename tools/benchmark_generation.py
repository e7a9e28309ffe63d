"""Tokens a second with keys and values kept, against reading the whole text anew for every token, at growing lengths.

    python tools/benchmark_generation.py --lengths 128 512 2048 4096 --layers 4 --heads 12 --head-dim 64

A text of a length is there already, and some tokens are added to it one by one. Times are medians over tokens, in which
the two ways take turns, so that a busy machine slows both alike. Models have random values: what they say does not
matter. One thread unless --threads says otherwise.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from rich.console import Console
from torch import Tensor

from megadape.console import make_table
from megadape.evaluation.output import write_table
from megadape.generation import Reader
from megadape.machine import keep_freed_memory
from megadape.model import GPT, Architecture, build_gpt

METHODS: dict[str, dict[str, object]] = {
    "rope": {"positions": {"kind": "rope"}, "mixer": {"kind": "none"}},
    "kerple_log": {"positions": {"kind": "kerple_log"}, "mixer": {"kind": "none"}},
    "dape-kerple": {"positions": {"kind": "kerple_log"}, "mixer": {"kind": "dape", "hidden": 32}},
}
VOCABULARY = 512


def build(method: str, layers: int, heads: int, head_dim: int) -> GPT:
    """A model of random values."""
    width = heads * head_dim
    shape = {"num_layers": layers, "hidden_size": width, "num_heads": heads, "vocab_size": VOCABULARY}
    architecture = Architecture.model_validate({"model": shape, "training_length": 128, **METHODS[method]})
    return build_gpt(architecture, seed=0).eval()


def measure(model: GPT, length: int, tokens: int, anew: int) -> tuple[float, float]:
    """Median seconds a token: with a cache, and anew (measured for some of the tokens only)."""
    reader = Reader(model)
    text = torch.randint(VOCABULARY, (1, length + tokens), generator=torch.Generator().manual_seed(0))
    cache, _ = reader.open(text[:, :length])
    every = max(1, tokens // anew)
    cached, whole = [], []
    for step, ids in enumerate(text[:, length:].unbind(1)):
        cached.append(clock(lambda ids=ids: reader.read([(cache, ids)])))  # type: ignore[misc]
        if step % every == 0:
            whole.append(clock(lambda end=length + step + 1: reader.open(text[:, :end])[1]))  # type: ignore[misc]
    return statistics.median(cached), statistics.median(whole)


def clock(work: Callable[[], Tensor]) -> float:
    """Seconds that it takes."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def parse(arguments: list[str]) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lengths", type=int, nargs="+", default=[128, 512, 1024, 2048, 4096])
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--heads", type=int, default=12)
    parser.add_argument("--head-dim", type=int, default=64)
    parser.add_argument("--tokens", type=int, default=24, help="Added to each text.")
    parser.add_argument("--anew", type=int, default=3, help="How many of them are also measured without a cache.")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, help="Folder for generation.csv.")
    return parser.parse_args(arguments)


def as_row(found: Mapping[str, object]) -> list[str]:
    """A line of the table."""
    cached, whole = float(str(found["cached"])), float(str(found["anew"]))
    numbers = (f"{1 / cached:,.1f}", f"{1 / whole:,.2f}", f"{whole / cached:,.1f}", f"{1000 * cached:.2f}")
    return [str(found["method"]), str(found["length"]), *numbers]


def main() -> None:
    """Measure and print."""
    options = parse(sys.argv[1:])
    torch.set_num_threads(options.threads)
    keep_freed_memory()
    found = []
    for method in options.methods:
        model = build(method, options.layers, options.heads, options.head_dim)
        for length in options.lengths:
            cached, whole = measure(model, length, options.tokens, options.anew)
            found.append({"method": method, "length": length, "cached": cached, "anew": whole})
    columns = ("method", "length", "tokens/s, cached", "tokens/s, anew", "ratio", "ms a token, cached")
    title = f"{options.layers} layers of {options.heads} heads of {options.head_dim}, {options.threads} thread(s)"
    Console(width=120).print(make_table(title, columns, [as_row(each) for each in found]))
    if options.out is not None:
        write_table(options.out / "generation.csv", list(found[0]), [list(each.values()) for each in found])


if __name__ == "__main__":
    main()
