"""What the kernels take of a processor, read from code that is compiled for it; needs no GPU."""

from __future__ import annotations

import re
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from megadape.attention.gpu import mix, mix_backward, products, softmax
from megadape.attention.gpu.scene import block, choose_tiles, mix_constants

POINTERS: dict[str, str] = {
    **dict.fromkeys(("scores", "logits"), "*fp16"),
    **dict.fromkeys(("left", "right", "v", "chunk", "weights", "dscores"), "*bf16"),
    **dict.fromkeys(("u", "c", "w1", "w2", "lse", "log_sums", "means", "shift"), "*fp32"),
    **dict.fromkeys(("numerator", "inverse", "unit_weight", "unit_bias", "to_hidden", "to_logits"), "*fp32"),
    **dict.fromkeys(("du", "dc", "dw1", "dw2", "dnumerator", "dunit", "dto_hidden", "dto_logits", "dinverse"), "*fp32"),
}
STRIDES = re.compile(r"\w+_(sequence|head|split|row)$")


@dataclass(frozen=True)
class Usage:
    """Of one kernel."""

    kernel: str
    tile: str
    warps: int
    registers: int
    """For each thread."""
    stack: int
    """Bytes that each thread keeps in memory, spilled registers among them."""
    shared: int
    """Bytes for each program."""


@dataclass(frozen=True)
class _Source:
    label: str
    kernel: Any
    tile: str
    out: str
    constants: dict[str, Any]
    warps: int
    stages: int = 3


def measure(heads: int = 12, hidden: int = 32, head_dim: int = 64, capability: int = 90) -> Iterator[Usage]:
    """Every kernel in the tile shapes that bfloat16 inputs get."""
    for source in _sources(heads, hidden, head_dim):
        names = source.kernel.arg_names
        types = {name: _type(name, source) for name in names}
        aligned = [name for name in names if types[name].startswith("*") or name == "width" or STRIDES.match(name)]
        compiled = triton.compile(
            ASTSource(
                fn=source.kernel,
                signature=types,
                constexprs=source.constants,
                attrs={(names.index(name),): [["tt.divisibility", 16]] for name in aligned},
            ),
            target=GPUTarget("cuda", capability, 32),
            options={"num_warps": source.warps, "num_stages": source.stages},
        )
        registers, stack = _read(compiled.asm["cubin"])
        yield Usage(source.label, source.tile, source.warps, registers, stack, compiled.metadata.shared)


def _sources(heads: int, hidden: int, head_dim: int) -> Iterator[_Source]:
    tiles = choose_tiles(torch.bfloat16, heads, hidden, 0)
    product = {"DIM": head_dim, "BLOCK_DIM": block(head_dim), "ROWS": tiles.rows, "KEYS": tiles.keys, "CAUSAL": True}
    tile = f"{tiles.rows} x {tiles.keys} pairs"
    swapped = product | {"ROWS": tiles.keys, "KEYS": tiles.rows}
    for label, kernel, out, constants in (
        ("scores", products.score, "*fp16", product | {"SHIFTED": False}),
        ("gradients of weights", products.score, "*bf16", product | {"SHIFTED": True}),
        ("softmax and values", softmax.attend, "*fp32", product | {"SPLIT": True}),
        ("gradients of keys, values", products.keys_backward, "*fp32", swapped),
        ("gradient of queries", products.queries_backward, "*bf16", product),
    ):
        yield _Source(label, kernel, tile, out, constants, tiles.warps)
    combining = {"DIM": head_dim, "BLOCK_DIM": block(head_dim), "ROWS": 32}
    yield _Source("combine", softmax.combine, "32 rows", "*bf16", combining, 4)
    for kind, width, units in (("mix", hidden, 0), ("bias alone", 0, 0), ("mix of FIRE", hidden, 32), ("FIRE", 0, 32)):
        yield from _mixes(kind, heads, width, units)


def _mixes(kind: str, heads: int, hidden: int, units: int) -> Iterator[_Source]:
    tiles = choose_tiles(torch.bfloat16, heads, hidden, units)
    kernels = (("", mix.mix_forward, tiles.forward), (", backward", mix_backward.mix_backward, tiles.backward))
    for label, kernel, walk in kernels:
        constants = mix_constants(heads, hidden, units, walk.offsets, residual=True)
        constants |= {"CAUSAL": True} if label else {}
        tile = f"{walk.offsets} offsets x {block(heads)} heads"
        yield _Source(kind + label, kernel, tile, "", constants, walk.warps, walk.stages)


def _type(name: str, source: _Source) -> str:
    if name in source.constants:
        return "constexpr"
    if name == "out":
        return source.out
    if name in ("scale", "leak"):
        return "fp32"
    return POINTERS.get(name, "i32")


def _read(cubin: bytes) -> tuple[int, int]:
    """Registers and stack of the one kernel in it."""
    reader = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        done = subprocess.run([str(reader), "-res-usage", file.name], check=True, capture_output=True, text=True)
    found = re.search(r"REG:(\d+) STACK:(\d+)", done.stdout)
    assert found, f"cuobjdump says nothing of registers: {done.stdout}"
    return int(found[1]), int(found[2])
