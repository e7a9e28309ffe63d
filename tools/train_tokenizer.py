"""Train a tokenizer on text: a SentencePiece model, or a byte-level BPE tokenizer.json."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from megadape.data.tokenizers.train import TrainProgress, TrainTokenizerSettings, train_tokenizer
from megadape.errors import MegadapeError

_LINE_EVERY = 10_000_000


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    add = parser.add_argument
    add("--input", nargs="+", required=True, help="files, folders or globs: .txt .json .jsonl, also .gz and .zst")
    add("--output", type=Path, required=True, help="file to write: .model, or .json for --kind bpe")
    add("--kind", choices=["sentencepiece", "bpe"], default="sentencepiece")
    add("--model-type", choices=["bpe", "unigram"], default="bpe", help="algorithm of a SentencePiece model")
    add("--vocab-size", type=_positive, default=8192)
    add(
        "--max-bytes", type=_positive, default=100_000_000, help="bytes of text to train on; a larger corpus is sampled"
    )
    add("--character-coverage", type=_share, default=0.9995)
    add("--threads", type=_positive, default=1)
    add("--json-key", default="text")
    add("--text-suffixes", nargs="+", default=[], help="further file endings to read as plain text, such as .py")
    add("--skip-undecodable", action="store_true", help="pass over plain text files that are not UTF-8")
    add("--seed", type=int, default=0, help="seed of the sample")
    return parser.parse_args(arguments)


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise ValueError(text)
    return value


def _share(text: str) -> float:
    value = float(text)
    if not 0 < value <= 1:
        raise ValueError(text)
    return value


def reporter() -> Callable[[TrainProgress], None]:
    """Prints a line when a stage begins and every ten megabytes of text."""
    shown = ("", 0)

    def report(progress: TrainProgress) -> None:
        nonlocal shown
        now = (progress.stage, progress.text_bytes // _LINE_EVERY)
        if now != shown:
            shown = now
            sample = f"{progress.documents} documents, {progress.text_bytes / 1e6:.1f} MB of text"
            print(f"{progress.stage}: {sample}", file=sys.stderr, flush=True)

    return report


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit code: 0, 2 for a mistake of the user, 130 after Ctrl-C."""
    options = vars(parse(arguments))
    options["inputs"] = tuple(options.pop("input"))
    options["text_suffixes"] = tuple(options["text_suffixes"])
    try:
        tokenizer = train_tokenizer(TrainTokenizerSettings(**options), reporter()).build()
    except MegadapeError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    print(f"{options['output']}: {tokenizer.vocab_size} tokens, digest {tokenizer.digest[:12]}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
