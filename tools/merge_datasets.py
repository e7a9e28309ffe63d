"""Merge all indexed datasets of a folder into one, with the flag names of Megatron-LM.

They are merged in the order of their names. See also `megadape data merge`, which takes them in any order.
"""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

from megadape.data.maintenance import merge_datasets
from megadape.errors import DataError, MegadapeError


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--input", required=True, type=Path, help="folder of the .bin and .idx pairs")
    add("--output-prefix", required=True, type=Path, help="path of the output without endings")
    add("--multimodal", action="store_true", help="not supported: refused")
    add("--widen", action="store_true", help="allow different token types; the output holds all ids")
    add("--no-manifests", action="store_true", help="neither read nor write manifests")
    return parser.parse_args(arguments)


def find_prefixes(folder: Path) -> list[Path]:
    """The prefixes of all pairs in a folder, in the order of their names; a half of a pair counts too, and is refused
    when it is opened."""
    if not folder.is_dir():
        raise DataError(f"{folder} is not a folder: --input names one that holds .bin and .idx files")
    halves = (path for path in folder.iterdir() if path.suffix in (".bin", ".idx") and path.is_file())
    prefixes = sorted({path.with_suffix("") for path in halves if not path.name.startswith(".")})
    if not prefixes:
        raise DataError(f"{folder} holds no .bin and .idx files: there is nothing to merge")
    return prefixes


def run(options: argparse.Namespace) -> None:
    """Merge a folder."""
    if options.multimodal:
        raise DataError("multimodal datasets, which have a mode for every sequence, cannot be merged: leave it out")
    merged = merge_datasets(
        find_prefixes(options.input),
        options.output_prefix,
        widen=options.widen,
        manifests=not options.no_manifests,
    )
    print(merged)


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit code: 0, 2 for a mistake of the user, 130 after Ctrl-C or a termination signal."""
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        run(parse(arguments))
    except MegadapeError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted: nothing was written", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
