"""Preprocessing against the plain way of Megatron's tool: bytes and tokens a second, per core, and peak memory.

    python tools/benchmark_preprocess.py --megabytes 30 --rounds 5 --out benchmarks
    python tools/benchmark_preprocess.py --gigabytes 2

The corpora are the standard library's sources and docstrings, cut into documents of very different sizes; tokenizers
are trained on them. "plain" is a pool of processes in which every line goes through json.loads and the tokenizer's own
library, one at a time. Contestants take turns, each in processes of its own; figures are medians over rounds. "per
core" counts the CPU time of all processes of a run, so that a busy machine matters less. Megabytes are 10^6 UTF-8 bytes
of text. With --gigabytes only memory is measured: the proportional set size of all processes together, several times a
second.
"""

from __future__ import annotations

import argparse
import ast
import json
import multiprocessing
import os
import random
import resource
import shutil
import statistics
import struct
import subprocess
import sys
import sysconfig
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import orjson
from rich.console import Console

from megadape.console import make_table, open_console
from megadape.data import Tokenizer, preprocess_files, tokenizer_settings
from megadape.data.tokenizers.train import TrainTokenizerSettings, train_tokenizer
from megadape.evaluation.output import write_table

CORPORA = ("code", "prose")
TOKENIZERS = ("byte", "gpt2", "huggingface", "sentencepiece-bpe", "sentencepiece-unigram")
BYTE_LEVEL = ("gpt2", "huggingface")
COLUMNS = (
    *("corpus", "tokenizer", "way", "workers", "MB/s", "MB/s/core", "tokens/s/core", "x plain/core", "x 1 worker"),
    "MiB",
)
GIGABYTE = 1e9
SAMPLE_SECONDS = 0.2


@dataclass(frozen=True)
class Job:
    """One run of one contestant."""

    way: str
    kind: str
    options: dict[str, str]
    corpus: str
    prefix: str
    workers: int


@dataclass(frozen=True)
class Result:
    """What a run took."""

    wall: float
    cpu: float
    """Seconds of all its processes."""
    tokens: int
    peak: float
    """Bytes of all its processes."""


class Plain:
    """Megatron's way: a tokenizer in each process of a pool, one line at a time, lists of integers back."""

    encode: ClassVar[Callable[[str], list[int]]]
    end: ClassVar[int]

    @classmethod
    def start(cls, kind: str, options: dict[str, str], end: int) -> None:
        """Make the tokenizer of a process."""
        cls.encode, cls.end = staticmethod(LIBRARIES[kind](options)), end

    @classmethod
    def encode_line(cls, line: str) -> list[int]:
        """The ids of a line of JSON."""
        return [*cls.encode(json.loads(line)["text"]), cls.end]


def library_byte(options: dict[str, str]) -> Callable[[str], list[int]]:
    """Bytes."""
    return lambda text: list(text.encode())


def library_gpt2(options: dict[str, str]) -> Callable[[str], list[int]]:
    """The tokenizers library's form of GPT-2's files."""
    from tokenizers import ByteLevelBPETokenizer

    library = ByteLevelBPETokenizer.from_file(options["vocab"], options["merges"])
    return lambda text: library.encode(text).ids


def library_huggingface(options: dict[str, str]) -> Callable[[str], list[int]]:
    """The tokenizers library."""
    from tokenizers import Tokenizer as Library

    library = Library.from_file(options["model"])
    return lambda text: library.encode(text, add_special_tokens=False).ids


def library_sentencepiece(options: dict[str, str]) -> Callable[[str], list[int]]:
    """The SentencePiece library."""
    from sentencepiece import SentencePieceProcessor

    encode: Callable[[str], list[int]] = SentencePieceProcessor(model_file=options["model"]).encode_as_ids
    return encode


LIBRARIES: dict[str, Callable[[dict[str, str]], Callable[[str], list[int]]]] = {
    "byte": library_byte,
    "gpt2": library_gpt2,
    "huggingface": library_huggingface,
    "sentencepiece": library_sentencepiece,
}


def run_plain(job: Job) -> int:
    """Write the pair of files as Megatron's tool does; returns the tokens."""
    tokenizer = tokenizer_settings(job.kind, **job.options).build()
    dtype, code = (np.uint16, 8) if tokenizer.vocab_size < 65500 else (np.int32, 4)
    lengths: list[int] = []
    pool = multiprocessing.get_context("fork").Pool(job.workers, Plain.start, (job.kind, job.options, tokenizer.eod))
    with open(job.corpus, encoding="utf-8") as lines, open(f"{job.prefix}.bin", "wb") as content:  # noqa: PTH123
        for ids in pool.imap(Plain.encode_line, lines, 32):
            content.write(np.array(ids, dtype).tobytes())
            lengths.append(len(ids))
    pool.close()
    pool.join()
    sizes = np.array(lengths, np.int32)
    starts = (np.cumsum(sizes, dtype=np.int64) - sizes) * np.dtype(dtype).itemsize
    header = struct.pack("<9sQBQQ", b"MMIDIDX\0\0", 1, code, len(sizes), len(sizes) + 1)
    documents = np.arange(len(sizes) + 1, dtype=np.int64)
    Path(f"{job.prefix}.idx").write_bytes(header + sizes.tobytes() + starts.tobytes() + documents.tobytes())
    return int(sizes.sum())


def run_megadape(job: Job) -> int:
    """The same through ``preprocess_files``; returns the tokens."""
    options: dict[str, object] = {**job.options}
    manifest = preprocess_files(
        [job.corpus],
        job.prefix,
        tokenizer=job.kind,
        tokenizer_options=options,
        append_eod=True,
        workers=job.workers,
    )
    return manifest.tokens


WAYS: dict[str, Callable[[Job], int]] = {"plain": run_plain, "megadape": run_megadape}


def child(description: str) -> None:
    """What a process of its own does: run a job, print what it took."""
    job = Job(**json.loads(description))
    started, used = time.perf_counter(), cpu_seconds()
    tokens = WAYS[job.way](job)
    print(json.dumps([time.perf_counter() - started, cpu_seconds() - used, tokens]))


def cpu_seconds() -> float:
    """Of this process and of those that it has waited for."""
    both = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in both)


def measure(job: Job) -> Result:
    """Run a job in a process of its own, from which its workers come."""
    code = "import sys, benchmark_preprocess; benchmark_preprocess.child(sys.argv[1])"
    paths = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "PYTHONPATH": paths, "TOKENIZERS_PARALLELISM": "false"}
    command = [sys.executable, "-c", code, json.dumps(asdict(job))]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
    peak = 0.0

    def watch() -> None:
        nonlocal peak
        while process.poll() is None:
            peak = max(peak, sum(map(proportional_bytes, family(process.pid))))
            time.sleep(SAMPLE_SECONDS)

    watcher = threading.Thread(target=watch)
    watcher.start()
    output, _ = process.communicate()
    watcher.join()
    if process.returncode:
        raise SystemExit(f"{job.way} with {job.kind} failed")
    wall, cpu, tokens = json.loads(output)
    return Result(wall, cpu, tokens, peak)


def family(pid: int) -> Iterator[int]:
    """A process and all that come from it."""
    yield pid
    with suppress(OSError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            for found in (task / "children").read_text().split():
                yield from family(int(found))


def proportional_bytes(pid: int) -> int:
    """Memory of a process, shared pages divided among those that share them."""
    with suppress(OSError):
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return 1024 * int(line.split()[1])
    return 0


def read_sources() -> dict[str, list[str]]:
    """Paragraphs of the standard library: its sources, and their docstrings."""
    paragraphs: dict[str, list[str]] = {name: [] for name in CORPORA}
    for path in sorted(Path(sysconfig.get_paths()["stdlib"]).rglob("*.py")):
        if {"site-packages", "test", "tests", "idlelib"} & set(path.parts):
            continue
        with suppress(SyntaxError, ValueError):
            text = path.read_text(encoding="utf-8")
            paragraphs["code"] += text.split("\n\n")
            nodes = (ast.Module, ast.ClassDef, ast.FunctionDef)
            found = [ast.get_docstring(node) for node in ast.walk(ast.parse(text)) if isinstance(node, nodes)]
            paragraphs["prose"] += [text for text in found if text]
    return paragraphs


def write_corpus(path: Path, paragraphs: list[str], size: float, seed: int = 0) -> int:
    """JSON lines with so many bytes of text, in documents of 1 to some 100,000 characters; returns the exact number."""
    draws = random.Random(seed)
    draws.shuffle(paragraphs)
    text = "\n\n".join(paragraphs)
    written = number = 0
    with path.open("wb") as lines:
        while written < size:
            length, start = int(draws.lognormvariate(7.5, 1.3)), draws.randrange(len(text))
            document = text[start : start + length]
            lines.write(orjson.dumps({"id": number, "text": document}) + b"\n")
            written += len(document.encode())
            number += 1
    return written


def train(name: str, folder: Path, corpora: list[Path], vocab_size: int) -> tuple[str, dict[str, str]]:
    """Kind and options of a tokenizer, trained if need be."""
    kind, _, algorithm = name.partition("-")
    if algorithm == "unigram":  # its trainer takes long, and needs much text for a large vocabulary
        vocab_size = min(vocab_size, 8000)
    common: dict[str, Any] = {"inputs": tuple(corpora), "vocab_size": vocab_size, "max_bytes": 10_000_000}
    if kind == "byte":
        return kind, {}
    if kind == "sentencepiece":
        output = folder / f"{algorithm}.model"
        train_tokenizer(TrainTokenizerSettings(output=output, model_type=algorithm, **common))
        return kind, {"model": str(output)}
    output = folder / "tokenizer.json"
    if not output.exists():
        train_tokenizer(TrainTokenizerSettings(output=output, kind="bpe", **common))
    if kind == "huggingface":
        return kind, {"model": str(output)}
    model = json.loads(output.read_text())["model"]
    (folder / "vocab.json").write_text(json.dumps(model["vocab"]))
    pairs = [merge if isinstance(merge, str) else " ".join(merge) for merge in model["merges"]]
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *pairs, ""]))
    return kind, {"vocab": str(folder / "vocab.json"), "merges": str(folder / "merges.txt")}


def compare(jobs: list[Job], rounds: int, megabytes: float) -> tuple[list[list[object]], float, float]:
    """Rows of ``COLUMNS`` without the first two; one worker against plain, per core; two workers against one."""
    results: list[list[Result]] = [[] for _ in jobs]
    for _ in range(rounds):
        for job, found in zip(jobs, results, strict=True):
            found.append(measure(job))
    if len({Path(f"{job.prefix}.bin").read_bytes() for job in jobs}) > 1:
        raise SystemExit(f"the ways do not write the same bytes for {jobs[0].kind}")
    by_job = {(job.way, job.workers): found for job, found in zip(jobs, results, strict=True)}

    def ratio(one: tuple[str, int], other: tuple[str, int], quantity: str) -> float:
        pairs = zip(by_job[one], by_job[other], strict=True)
        return statistics.median(getattr(a, quantity) / getattr(b, quantity) for a, b in pairs)

    rows: list[list[object]] = []
    for (way, workers), found in by_job.items():
        cpu, wall = (statistics.median(getattr(one, name) for one in found) for name in ("cpu", "wall"))
        speeds = [f"{megabytes / wall:.2f}", f"{megabytes / cpu:.2f}", f"{found[0].tokens / cpu:.0f}"]
        ratios = [ratio(("plain", 1), (way, workers), "cpu"), ratio((way, 1), (way, workers), "wall")]
        peak = max(one.peak for one in found) / 2**20
        rows.append([way, workers, *speeds, *(f"{one:.2f}" for one in ratios), f"{peak:.0f}"])
    return rows, ratio(("plain", 1), ("megadape", 1), "cpu"), ratio(("megadape", 1), ("megadape", 2), "wall")


def batch_ratio(tokenizer: Tokenizer, corpus: Path, plain: Callable[[str], list[int]], size: int = 500_000) -> float:
    """How many times faster a batch is than the library's form for one text after the other; median over batches."""
    ratios: list[float] = []
    texts: list[str] = []
    with corpus.open("rb") as lines:
        for line in lines:
            texts.append(orjson.loads(line)["text"])
            if sum(map(len, texts)) < size:
                continue
            started = time.process_time()
            one_by_one = [np.array(plain(text), np.int32) for text in texts]
            between = time.process_time()
            batch = tokenizer.encode_batch(texts)
            ratios.append((between - started) / (time.process_time() - between))
            if not all(map(np.array_equal, batch, one_by_one)):
                raise SystemExit(f"{tokenizer.name} gives other ids in a batch")
            texts = []
    return statistics.median(ratios)


def verdict(name: str, value: float, target: float) -> str:
    """A line on one target."""
    return f"{name}: {value:.2f}x ({'at least' if value >= target else 'LESS than'} {target:g}x)"


def run_table(options: argparse.Namespace, console: Console) -> int:
    """Compare all ways."""
    folder: Path = options.folder
    sources = read_sources()
    corpora = {name: folder / f"{name}.jsonl" for name in CORPORA}
    sizes = {name: write_corpus(path, sources[name], 1e6 * options.megabytes) for name, path in corpora.items()}
    rows: list[list[object]] = []
    lines: list[str] = []

    def conclude(line: str) -> None:
        sys.stderr.write(f"{line}\n")
        lines.append(line)

    for tokenizer in options.tokenizers or TOKENIZERS:
        kind, settings = train(tokenizer, folder, list(corpora.values()), options.vocab_size)
        for name in options.corpora:
            what = f"{name}, {tokenizer}"
            jobs = [
                Job(way, kind, settings, str(corpora[name]), str(folder / f"{way}-{workers}"), workers)
                for workers in (1, 2)
                for way in WAYS
            ]
            found, per_core, two = compare(jobs, options.rounds, sizes[name] / 1e6)
            rows += [[name, tokenizer, *row] for row in found]
            if kind in BYTE_LEVEL:
                conclude(verdict(f"{what}: one worker against the plain way, per core", per_core, 4))
            conclude(verdict(f"{what}: two workers against one", two, 1.8))
            if kind == "sentencepiece":
                built = tokenizer_settings(kind, **settings).build()
                ratio = batch_ratio(built, corpora[name], library_sentencepiece(settings))
                conclude(verdict(f"{what}: a batch against one text at a time", ratio, 1.2))
    console.print(make_table("preprocessing", COLUMNS, [[str(cell) for cell in row] for row in rows]))
    for line in lines:
        console.print(line)
    if options.out is not None:
        write_table(options.out / "preprocess.csv", COLUMNS, rows)
    return 0


def run_memory(options: argparse.Namespace, console: Console) -> int:
    """Preprocess a large file with two workers; 1 when it takes more than a gigabyte of memory."""
    folder: Path = options.folder
    paragraphs = read_sources()
    sample, corpus = folder / "sample.jsonl", folder / "corpus.jsonl"
    write_corpus(sample, paragraphs["code"], 12e6)
    tokenizer = (options.tokenizers or ["huggingface"])[0]
    kind, settings = train(tokenizer, folder, [sample], options.vocab_size)
    size = write_corpus(corpus, paragraphs["code"] + paragraphs["prose"], GIGABYTE * options.gigabytes, seed=1)
    result = measure(Job("megadape", kind, settings, str(corpus), str(folder / "corpus"), 2))
    passed = result.peak <= GIGABYTE
    console.print(
        f"{size / 1e9:.2f} GB of text, {tokenizer}, two workers: {result.tokens:,} tokens in "
        f"{result.wall:.0f} s ({size / 1e6 / result.wall:.1f} MB/s, {size / 1e6 / result.cpu:.1f} per core); "
        f"peak memory of all processes {result.peak / 1e6:.0f} MB: {'PASS' if passed else 'MORE THAN'} 1 GB"
    )
    return 0 if passed else 1


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=float, default=50, help="text of each corpus")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--corpora", nargs="+", default=list(CORPORA), choices=CORPORA)
    parser.add_argument("--tokenizers", nargs="+", choices=TOKENIZERS, help="all when not given")
    parser.add_argument("--vocab-size", type=int, default=32_000)
    parser.add_argument("--gigabytes", type=float, help="measure memory alone, with so much text and one tokenizer")
    parser.add_argument(
        "--folder", type=Path, default=Path("benchmark-preprocess"), help="where to work; removed after"
    )
    parser.add_argument("--out", type=Path, help="folder for the table as CSV")
    options = parser.parse_args()
    options.folder.mkdir(parents=True)
    try:
        return (run_table if options.gigabytes is None else run_memory)(options, open_console())
    finally:
        shutil.rmtree(options.folder, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
