"""Preprocess text into indexed datasets, with the flag names of Megatron-LM and GPT-NeoX.

Writes PREFIX_{key}_document.bin, .idx and .json for every JSON key. See also `megadape preprocess`.
"""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Callable, Sequence
from types import FrameType

from megadape.data import Progress, preprocess_files
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
    add = parser.add_argument
    add("--input", nargs="+", required=True, help="files, folders or globs: .txt .json .jsonl, also .gz and .zst")
    add("--output-prefix", required=True, help="path of the outputs without endings")
    add("--json-keys", nargs="+", default=["text"], help="keys of the texts in JSON objects; one dataset each")
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
    add("--append-eod", action="store_true", help="end every document with the end-of-document token")
    add("--workers", type=int, default=1, help="processes; the output is the same for any number")
    add("--log-interval", type=int, default=1000, help="documents between two lines of progress")
    add("--text-suffixes", nargs="+", default=[], help="further file endings to read as plain text, such as .py")
    add("--skip-undecodable", action="store_true", help="pass over plain text files that are not UTF-8")
    return parser.parse_args(arguments)


def reporter(interval: int) -> Callable[[Progress], None]:
    """Prints a line of progress at most every ``interval`` documents."""
    shown = 0

    def report(progress: Progress) -> None:
        nonlocal shown
        if progress.documents - shown >= interval:
            shown = progress.documents
            print(
                f"processed {progress.documents} documents ({progress.documents_per_second:.0f} documents/s, "
                f"{progress.megabytes_per_second:.1f} MB/s, {progress.fraction:.0%})",
                file=sys.stderr,
                flush=True,
            )

    return report


def run(options: argparse.Namespace) -> None:
    """Preprocess every key."""
    tokenizer_options = {
        "model": options.tokenizer_model,
        "vocab": options.vocab_file,
        "merges": options.merge_file,
        "eod_token": options.eod_token,
        "special_tokens_in_text": options.special_tokens_in_text,
    }
    for key in options.json_keys:
        prefix = f"{options.output_prefix}_{key}_document"
        manifest = preprocess_files(
            options.input,
            prefix,
            tokenizer=TOKENIZERS[options.tokenizer_type],
            tokenizer_options=tokenizer_options,
            progress=reporter(options.log_interval),
            json_key=key,
            append_eod=options.append_eod,
            workers=options.workers,
            text_suffixes=tuple(options.text_suffixes),
            skip_undecodable=options.skip_undecodable,
        )
        print(
            f"{prefix}: {manifest.documents} documents, {manifest.tokens} tokens, {manifest.text_bytes} bytes of text"
        )


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
