"""Preprocess text into indexed datasets, with the flag names of Megatron-LM and GPT-NeoX.

Writes PREFIX_{key}_document.bin, .idx and .json for every JSON key, in one pass. See also `megadape preprocess`.
"""

from __future__ import annotations

import argparse
import logging
import signal
import sys
from collections.abc import Sequence

from megadape.data import Interrupted, Progress
from megadape.data.preprocess import run_command
from megadape.data.preprocessing.arguments import parse_conditions, preprocess_settings
from megadape.errors import MegadapeError

TOKENIZERS = {
    "GPT2BPETokenizer": "gpt2",
    "SentencePieceTokenizer": "sentencepiece",
    "HuggingFaceTokenizer": "huggingface",
    "ByteTokenizer": "byte",
    "gpt2": "gpt2",
    "sentencepiece": "sentencepiece",
    "huggingface": "huggingface",
    "byte": "byte",
}


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_inputs(parser)
    add_tokenizer(parser)
    add = parser.add_argument
    add("--output-prefix", required=True, help="path of the outputs without endings")
    add("--append-eod", action="store_true", help="end every document with the end-of-document token")
    add("--workers", type=int, default=1, help="processes; the output is the same for any number")
    add("--log-interval", type=int, default=1000, help="documents between two lines of progress")
    add(
        "--resume",
        action=argparse.BooleanOptionalAction,
        help="go on with a killed run, or (--no-resume, --overwrite) start again; without either a killed run is kept",
    )
    add("--overwrite", dest="resume", action="store_false", default=None, help="as --no-resume")
    add("--on-bad-line", choices=["error", "skip", "quarantine"], default="error")
    add("--max-bad-lines", type=int, help="stop when there are more")
    add("--max-line-bytes", type=int, help="a longer line, or text file, is bad")
    add("--part", metavar="I/N", help="make only the I-th of N parts, on one of many machines")
    add("--merge-parts", type=int, metavar="N", help="make the datasets of all N parts; then remove them")
    return parser.parse_args(arguments)


def add_inputs(parser: argparse.ArgumentParser) -> None:
    """What is read."""
    add = parser.add_argument
    add(
        "--input",
        nargs="+",
        required=True,
        help="files, folders or globs: .txt .json .jsonl, also .gz and .zst, .parquet; - for JSON lines from standard "
        "input; hf:NAME[@SPLIT]",
    )
    add("--json-keys", nargs="+", default=["text"], help="keys of the texts in JSON objects; one dataset each")
    add("--where", nargs="+", default=[], metavar="KEY=VALUE", help="only records with this value under this key")
    add("--document-separator", help="line between the documents of a text file; '' for blank lines")
    add("--text-suffixes", nargs="+", default=[], help="further file endings to read as plain text, such as .py")
    add("--skip-undecodable", action="store_true", help="pass over plain text files that are not UTF-8")


def add_tokenizer(parser: argparse.ArgumentParser) -> None:
    """What makes ids."""
    add = parser.add_argument
    add("--tokenizer-type", required=True, choices=list(TOKENIZERS))
    add("--tokenizer-model", help="sentencepiece .model or tokenizer.json")
    add("--vocab-file", help="vocab.json of a GPT-2 tokenizer")
    add("--merge-file", help="merges.txt of a GPT-2 tokenizer")
    add("--eod-token", help="token that ends a document, when it is not the tokenizer's usual one")
    add(
        "--special-tokens-in-text",
        choices=["text", "special"],
        help="what a literal <|endoftext|> in a text becomes (default: text)",
    )
    add(
        "--fast-tokenizer",
        choices=["auto", "always", "never"],
        help="whether tiktoken runs byte-level vocabularies, with the same ids (default: auto)",
    )


class Reporter:
    """Prints a line of progress at most every ``interval`` documents."""

    def __init__(self, interval: int) -> None:
        self._interval = interval
        self._shown = 0
        self.last: Progress | None = None

    def __call__(self, progress: Progress) -> None:
        """Take note of the progress."""
        self.last = progress
        if progress.documents - self._shown >= self._interval:
            self._shown = progress.documents
            print(
                f"processed {progress.documents} documents ({progress.documents_per_second:.0f} documents/s, "
                f"{progress.megabytes_per_second:.1f} MB/s, {progress.fraction:.0%})",
                file=sys.stderr,
                flush=True,
            )


def run(options: argparse.Namespace) -> None:
    """Preprocess every key."""
    tokenizer_options = {
        "model": options.tokenizer_model,
        "vocab": options.vocab_file,
        "merges": options.merge_file,
        "eod_token": options.eod_token,
        "special_tokens_in_text": options.special_tokens_in_text,
        "fast": options.fast_tokenizer,
    }
    given = {"max_line_bytes": options.max_line_bytes} if options.max_line_bytes is not None else {}
    settings = preprocess_settings(
        options.input,
        options.output_prefix,
        TOKENIZERS[options.tokenizer_type],
        tokenizer_options,
        json_keys=tuple(options.json_keys),
        key_ending="_{key}_document",
        where=parse_conditions(options.where),
        document_separator=options.document_separator,
        append_eod=options.append_eod,
        workers=options.workers,
        text_suffixes=tuple(options.text_suffixes),
        skip_undecodable=options.skip_undecodable,
        on_bad_line=options.on_bad_line,
        max_bad_lines=options.max_bad_lines,
        resume=options.resume,
        **given,
    )
    report = Reporter(options.log_interval)
    for line in run_command(settings, options.part, options.merge_parts, report):
        print(line)
    if report.last is not None:
        print(report.last.summary())


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit code: 0, 2 for a mistake of the user, 130 after Ctrl-C or a termination signal."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # what ends a job politely ends it as Ctrl-C does
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    try:
        run(parse(arguments))
    except MegadapeError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except Interrupted as interruption:
        print(f"interrupted: {interruption}", file=sys.stderr)
        return 130
    except KeyboardInterrupt:
        print("interrupted: nothing was written", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
