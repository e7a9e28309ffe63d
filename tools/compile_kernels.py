"""Registers, spills and shared memory of the Triton kernels, compiled for a GPU that need not be there.

python tools/compile_kernels.py --heads 12 --hidden 32 --head-dim 64 --capability 90
"""

from __future__ import annotations

import argparse

from rich.console import Console

from megadape.attention.gpu.resources import measure
from megadape.console import make_table


def main() -> None:
    """Compile, read, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--heads", type=int, default=12)
    parser.add_argument("--hidden", type=int, default=32, help="width D of the mixer")
    parser.add_argument("--head-dim", type=int, default=64)
    parser.add_argument("--capability", type=int, default=90, help="compute capability: 80, 90, ...")
    options = parser.parse_args()
    usages = measure(options.heads, options.hidden, options.head_dim, options.capability)
    columns = ["kernel", "tile", "warps", "registers", "spilled bytes", "shared bytes"]
    cells = [
        [usage.kernel, usage.tile, *map(str, (usage.warps, usage.registers, usage.stack, usage.shared))]
        for usage in usages
    ]
    title = f"sm_{options.capability}, bfloat16, {options.heads} heads of {options.head_dim}, {options.hidden} units"
    Console(width=140).print(make_table(title, columns, cells))


if __name__ == "__main__":
    main()
