"""Preprocessing: the same bytes for any number of workers, a true manifest, nothing left after an error or a kill."""

import gzip
import hashlib
import json
import os
import re
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from preprocess_examples import make_slow_squares

from megadape.data import IndexedDataset, Progress, load_manifest, load_tokenizer, preprocess_files
from megadape.data.preprocessing.workers import OrderedWorkers
from megadape.data.tokenizers.train import TrainTokenizerSettings, train_tokenizer
from megadape.errors import DataError, MegadapeError, TokenizerError

TOOL = Path(__file__).parents[2] / "tools" / "preprocess_data.py"
STDLIB = Path(json.__file__).parents[1]


def corpus(path: Path, documents: int = 3000) -> Path:
    with path.open("w") as file:
        for n in range(documents):
            text = f"document {n}: " + "word " * (n % 300) + "\n\u00fc" if n % 7 else ""
            file.write(json.dumps({"text": text, "title": f"title {n}"}) + "\n")
    return path


def files_of(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.iterdir())}


@given(documents=st.lists(st.text(), min_size=1), append_eod=st.booleans())
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=30)
def test_the_dataset_holds_the_texts(tmp_path: Path, documents: list[str], append_eod: bool) -> None:
    source = tmp_path / "x.jsonl"
    source.write_text("".join(json.dumps({"text": text}) + "\n" for text in documents))
    if not any(documents):
        with pytest.raises(DataError, match="corpus is empty"):
            preprocess_files([source], tmp_path / "out", append_eod=append_eod)
        return
    manifest = preprocess_files([source], tmp_path / "out", append_eod=append_eod)
    dataset, tokenizer = IndexedDataset(tmp_path / "out"), load_tokenizer(tmp_path / "out")
    bounds = dataset.document_index.tolist()
    assert len(bounds) == len(documents) + 1
    end = [tokenizer.eod] if append_eod else []
    for text, first, last in zip(documents, bounds, bounds[1:], strict=False):
        expected = [*text.encode(), *end]
        assert [sequence.tolist() for sequence in dataset[first:last]] == ([expected] if expected else [])
    assert manifest.documents == len(documents)
    assert manifest.empty_documents == documents.count("")
    assert manifest.text_bytes == sum(len(text.encode()) for text in documents)
    assert manifest.tokens == manifest.text_bytes + append_eod * len(documents)


def test_any_number_of_workers_writes_the_same_bytes(tmp_path: Path) -> None:
    source = corpus(tmp_path / "x.jsonl")
    model = tmp_path / "t.model"
    train_tokenizer(TrainTokenizerSettings(inputs=(source,), output=model, vocab_size=320))
    results = []
    for workers in (1, 2, 3):
        preprocess_files(
            [source],
            tmp_path / str(workers) / "out",
            tokenizer="sentencepiece",
            tokenizer_options={"model": model},
            append_eod=True,
            workers=workers,
        )
        results.append(files_of(tmp_path / str(workers)))
    assert results[0] == results[1] == results[2]
    assert list(results[0]) == ["out.bin", "out.idx", "out.json", "out.tokenizer.model"]


def test_the_manifest_says_what_the_dataset_is_made_of(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("hello")
    (tmp_path / "b.jsonl.gz").write_bytes(gzip.compress(b'{"text": ""}\n{"text": "x"}\n'))
    (tmp_path / "c.txt").write_bytes(b"\xff")
    manifest = preprocess_files([tmp_path], tmp_path / "out" / "x", append_eod=True, skip_undecodable=True)
    assert load_manifest(tmp_path / "out" / "x", verify=True) == manifest
    assert (manifest.documents, manifest.empty_documents, manifest.tokens, manifest.text_bytes) == (3, 1, 9, 6)
    assert (manifest.dtype, manifest.append_eod, manifest.json_key) == ("uint16", True, "text")
    assert (manifest.tokenizer.kind, manifest.tokenizer.vocab_size, manifest.tokenizer.eod) == ("byte", 257, 256)
    assert manifest.undecodable == (str(tmp_path / "c.txt"),)
    for source, name in zip(manifest.sources, ("a.txt", "b.jsonl.gz", "c.txt"), strict=True):
        content = (tmp_path / name).read_bytes()
        assert source.path == str(tmp_path / name)
        assert (source.size, source.sha256) == (len(content), hashlib.sha256(content).hexdigest())
    assert hashlib.sha256((tmp_path / "out" / "x.bin").read_bytes()).hexdigest() == manifest.bin_sha256


@pytest.mark.parametrize("kind", ["sentencepiece", "huggingface", "gpt2"])
def test_a_dataset_carries_its_tokenizer(tmp_path: Path, kind: str) -> None:
    source = corpus(tmp_path / "x.jsonl", 300)
    trained = tmp_path / "trained"
    training = TrainTokenizerSettings(
        inputs=(source,), output=trained, vocab_size=300, kind="sentencepiece" if kind == "sentencepiece" else "bpe"
    )
    train_tokenizer(training)
    options = {"model": trained}
    if kind == "gpt2":
        model = json.loads(trained.read_text())["model"]
        options = {"vocab": tmp_path / "v", "merges": tmp_path / "m"}
        options["vocab"].write_text(json.dumps(model["vocab"]))
        options["merges"].write_text("\n".join(p if isinstance(p, str) else " ".join(p) for p in model["merges"]))
    (tmp_path / "out").mkdir()
    prefix = tmp_path / "out" / "my.data"
    manifest = preprocess_files([source], prefix, tokenizer=kind, tokenizer_options=options)
    if kind != "sentencepiece":
        slow = preprocess_files(
            [source], tmp_path / "slow", tokenizer=kind, tokenizer_options=options | {"fast": "never"}
        )
        assert slow.tokenizer.options == manifest.tokenizer.options
        assert (slow.tokenizer.digest, slow.bin_sha256) == (manifest.tokenizer.digest, manifest.bin_sha256)
    for path in (trained, *options.values()):
        path.unlink(missing_ok=True)
    moved = tmp_path / "elsewhere"
    (tmp_path / "out").rename(moved)
    tokenizer, dataset = load_tokenizer(moved / "my.data"), IndexedDataset(moved / "my.data")
    texts = [json.loads(line)["text"] for line in source.read_text().splitlines()]
    full = [tokenizer.decode(sequence) for sequence in dataset[:]]
    assert full == [text for text in texts if text]

    copy = next(path for path in moved.iterdir() if path.suffix in (".model", ".txt") or "tokenizer" in path.name)
    copy.write_bytes(copy.read_bytes() + b"\n")
    with pytest.raises(TokenizerError, match=r"not the one that wrote the dataset|is not a SentencePiece model"):
        load_tokenizer(moved / "my.data")


def test_a_manifest_cannot_name_files_elsewhere(tmp_path: Path) -> None:
    source = corpus(tmp_path / "x.jsonl", 300)
    train_tokenizer(TrainTokenizerSettings(inputs=(source,), output=tmp_path / "t", vocab_size=300))
    preprocess_files([source], tmp_path / "out", tokenizer="sentencepiece", tokenizer_options={"model": tmp_path / "t"})
    manifest = json.loads((tmp_path / "out.json").read_text())
    for name in ("../secret", "/etc/passwd", "..", "", "a/b"):
        manifest["tokenizer"]["files"]["model"] = name
        (tmp_path / "out.json").write_text(json.dumps(manifest))
        with pytest.raises(TokenizerError, match="not a plain name"):
            load_tokenizer(tmp_path / "out")


def test_a_manifest_of_other_files_is_refused(tmp_path: Path) -> None:
    source = tmp_path / "x.txt"
    source.write_text("one")
    preprocess_files([source], tmp_path / "a")
    source.write_text("two!")
    preprocess_files([source], tmp_path / "b")
    (tmp_path / "a.json").write_bytes((tmp_path / "b.json").read_bytes())
    with pytest.raises(DataError, match=r"a.json does not describe a.bin"):
        load_manifest(tmp_path / "a")
    (tmp_path / "b.bin").write_bytes(b"x" * (tmp_path / "b.bin").stat().st_size)
    load_manifest(tmp_path / "b")
    with pytest.raises(DataError, match=r"b.json does not describe b.bin"):
        load_manifest(tmp_path / "b", verify=True)
    (tmp_path / "b.json").write_text("{}")
    with pytest.raises(DataError, match="not the manifest of a dataset"):
        load_manifest(tmp_path / "b")


def test_a_literal_end_of_document_stays_text(tmp_path: Path) -> None:
    source = tmp_path / "x.txt"
    source.write_text("abc </s> <s> <|endoftext|> abc abc " + "some more words, each another: " * 3)
    for kind, literal in (("sentencepiece", "</s>"), ("bpe", "<|endoftext|>")):
        train_tokenizer(TrainTokenizerSettings(inputs=(source,), output=tmp_path / "t", vocab_size=295, kind=kind))  # type: ignore[arg-type]
        name = "sentencepiece" if kind == "sentencepiece" else "huggingface"
        for special, count in (("text", 1), ("special", 2)):
            options = {"model": tmp_path / "t", "special_tokens_in_text": special}
            preprocess_files([source], tmp_path / "out", tokenizer=name, tokenizer_options=options, append_eod=True)
            eod = load_tokenizer(tmp_path / "out").eod
            assert IndexedDataset(tmp_path / "out")[0].tolist().count(eod) == count, literal


def test_progress_counts_bytes_of_text(tmp_path: Path) -> None:
    source = corpus(tmp_path / "x.jsonl")
    seen: list[Progress] = []
    manifest = preprocess_files([source], tmp_path / "out", progress=seen.append, workers=2)
    last = seen[-1]
    assert len(seen) > 1
    assert (last.documents, last.text_bytes, last.tokens) == (3000, manifest.text_bytes, manifest.tokens)
    assert last.read_bytes == last.total_bytes == source.stat().st_size
    assert last.fraction == 1
    assert last.seconds > 0
    assert last.megabytes_per_second * 1e6 * last.seconds == pytest.approx(last.text_bytes)
    assert last.documents_per_second * last.seconds == pytest.approx(3000)
    assert [state.documents for state in seen] == sorted(state.documents for state in seen)


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("old", [False, True])
def test_a_bad_line_late_in_the_corpus_leaves_nothing(tmp_path: Path, workers: int, old: bool) -> None:
    source = corpus(tmp_path / "x.jsonl", 5000)
    (tmp_path / "out").mkdir()
    if old:
        preprocess_files([source], tmp_path / "out" / "x")
    before = files_of(tmp_path / "out")
    with source.open("a") as file:
        file.write('{"text": broken}\n')
    with pytest.raises(DataError, match=r"x.jsonl, line 5001: not valid JSON.*it begins b'\{\"text\": broken"):
        preprocess_files([source], tmp_path / "out" / "x", workers=workers)
    assert files_of(tmp_path / "out") == before


@pytest.mark.parametrize("content", [None, "", "\n\n"])
def test_an_empty_corpus_is_an_error(tmp_path: Path, content: str | None) -> None:
    (tmp_path / "in").mkdir()
    if content is not None:
        (tmp_path / "in" / "x.jsonl").write_text(content)
    with pytest.raises(DataError, match=r"gives no file|corpus is empty"):
        preprocess_files([tmp_path / "in"], tmp_path / "out", append_eod=True)
    assert [path.name for path in tmp_path.iterdir()] == ["in"]


def test_texts_are_never_written_over(tmp_path: Path) -> None:
    source = tmp_path / "corpus.json"
    source.write_text('{"text": "precious"}\n')
    with pytest.raises(DataError, match=r"corpus.json is one of the texts to read"):
        preprocess_files([source], tmp_path / "corpus")
    (tmp_path / "x.txt").write_text("text")
    with pytest.raises(DataError, match=r"corpus.json is there and is not the manifest"):
        preprocess_files([tmp_path / "x.txt"], tmp_path / "corpus")
    assert source.read_text() == '{"text": "precious"}\n'
    assert sorted(path.name for path in tmp_path.iterdir()) == ["corpus.json", "x.txt"]


def test_a_folder_may_hold_its_own_dataset(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("text")
    first = preprocess_files([tmp_path], tmp_path / "out")
    assert preprocess_files([tmp_path], tmp_path / "out") == first


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"workers": 0}, "workers cannot be 0"),
        ({"wrkers": 1}, "wrkers cannot be 1: Extra inputs"),
        ({"prefix": "/"}, "names no dataset"),
        ({"inputs": []}, "inputs cannot be"),
        ({"tokenizer": "none"}, "no tokenizer 'none'"),
    ],
)
def test_wrong_arguments_are_named(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    (tmp_path / "a.txt").write_text("text")
    arguments = {"inputs": [tmp_path], "prefix": tmp_path / "out", **options}
    with pytest.raises(MegadapeError, match=message):
        preprocess_files(arguments.pop("inputs"), arguments.pop("prefix"), **arguments)


def endless(path: Path) -> Path:
    """A corpus that takes far longer than any test to tokenize."""
    line = json.dumps({"text": "some words and more of them " * 2000}) + "\n"
    with path.open("w") as file:
        for _ in range(4000):
            file.write(line)
    return path


def children(pid: int) -> list[int]:
    """Worker processes of a process (not the interpreter's resource tracker)."""
    found = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        found += [int(child) for child in (task / "children").read_text().split()]
    return [child for child in found if b"resource_tracker" not in Path(f"/proc/{child}/cmdline").read_bytes()]


def until(condition: Callable[[], bool], what: str) -> None:
    for _ in range(600):
        if condition():
            return
        time.sleep(0.05)
    pytest.fail(f"waited in vain for {what}")


def gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z"
    except FileNotFoundError:
        return True


@dataclass
class Running:
    process: subprocess.Popen[str]
    workers: list[int]
    out: Path


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Running]:
    """A real run of the tool with two workers, well under way."""
    source = endless(tmp_path / "x.jsonl")
    (tmp_path / "out").mkdir()
    command = [sys.executable, str(TOOL), "--input", str(source), "--output-prefix", str(tmp_path / "out" / "x")]
    options = ["--tokenizer-type", "ByteTokenizer", "--workers", "2", "--log-interval", "1"]
    process = subprocess.Popen(
        [*command, *options], stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    assert process.stderr is not None
    assert process.stderr.readline().startswith("processed")
    workers = children(process.pid)
    assert len(workers) == 2
    yield Running(process, workers, tmp_path / "out")
    process.kill()
    process.communicate()


def nothing_but_what_can_be_resumed(out: Path, errors: str) -> bool:
    """Either nothing is left, or what is left can be gone on with and the message says so."""
    left = [path.name for path in out.iterdir()]
    said = re.search(r"\d+ of \d+ shards done: --resume goes on from there", errors) is not None
    return left == ([".x_text_document.partial"] if said else [])


def test_a_killed_worker_is_an_error_at_once(running: Running) -> None:
    process, workers, out = running.process, running.workers, running.out
    os.kill(workers[1], signal.SIGKILL)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 2
    assert re.search(r"error: worker process \d was killed by signal 9, .*: use fewer workers", errors)
    assert "Traceback" not in errors
    assert nothing_but_what_can_be_resumed(out, errors)
    assert all(gone(worker) for worker in workers)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_leaves_what_can_be_resumed(running: Running, number: int) -> None:
    process, workers, out = running.process, running.workers, running.out
    if number == signal.SIGINT:
        os.killpg(process.pid, number)  # as a terminal does
    else:
        process.send_signal(number)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in errors
    assert errors.strip().splitlines()[-1].startswith("interrupted: ")
    assert nothing_but_what_can_be_resumed(out, errors)
    assert all(gone(worker) for worker in workers)


def test_workers_leave_when_their_parent_is_killed_and_the_next_run_sweeps(running: Running, tmp_path: Path) -> None:
    process, workers, out = running.process, running.workers, running.out
    process.kill()
    process.communicate()
    until(lambda: all(gone(worker) for worker in workers), "the workers to leave")
    assert all(path.name.startswith(".") for path in out.iterdir())
    (tmp_path / "small.txt").write_text("text")
    preprocess_files([tmp_path / "small.txt"], out / "x_text_document", resume=False)
    assert [path.suffix for path in sorted(out.iterdir())] == [".bin", ".idx", ".json"]


def test_a_full_disk_leaves_nothing(tmp_path: Path) -> None:
    source = corpus(tmp_path / "x.jsonl")
    (tmp_path / "out").mkdir()
    command = [sys.executable, str(TOOL), "--input", str(source), "--output-prefix", str(tmp_path / "out" / "x")]
    for limit in (20_000, 30_000, 10_000):
        done = subprocess.run(
            [*command, "--tokenizer-type", "byte"],
            capture_output=True,
            text=True,
            check=False,
            preexec_fn=lambda limit=limit: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)),
        )
        assert done.returncode == 2
        assert re.search(r"error: cannot write .*x_text_document\.(bin|idx): File too large", done.stderr)
        assert list((tmp_path / "out").iterdir()) == []


def test_the_tool_writes_one_dataset_for_each_key(tmp_path: Path) -> None:
    source = corpus(tmp_path / "x.jsonl", 100)
    command = [sys.executable, str(TOOL), "--input", str(source), "--output-prefix", str(tmp_path / "out" / "x")]
    options = [
        "--tokenizer-type",
        "ByteTokenizer",
        "--json-keys",
        "text",
        "title",
        "--append-eod",
        "--log-interval",
        "10",
    ]
    done = subprocess.run([*command, *options], capture_output=True, text=True, check=True)
    assert "100 documents" in done.stdout
    assert "MB/s" in done.stderr
    title, text = (
        IndexedDataset(tmp_path / "out" / "x_title_document"),
        IndexedDataset(tmp_path / "out" / "x_text_document"),
    )
    assert title[99].tolist() == [*b"title 99", 256]
    assert bytes(text[1].tolist()[:-1]).decode().startswith("document 1: word")
    assert (load_manifest(tmp_path / "out" / "x_title_document").json_key, len(text)) == ("title", 100)


@pytest.mark.parametrize("threads", [False, True])
def test_an_unguarded_script_with_workers(tmp_path: Path, threads: bool) -> None:
    """Where a thread runs, workers are no forks, and run a script without ``if __name__`` again: an error, no hang, no
    chain of processes."""
    (tmp_path / "a.txt").write_text("text")
    script = tmp_path / "script.py"
    script.write_text(
        "import threading\n"
        "from megadape.data import preprocess_files\n"
        + "threading.Thread(target=threading.Event().wait, daemon=True).start()\n" * threads
        + f"preprocess_files([{str(tmp_path / 'a.txt')!r}], {str(tmp_path / 'out')!r}, workers=2)\n"
    )
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, check=False, timeout=120)
    if threads:
        assert done.returncode == 1
        assert "DataError: worker process" in done.stderr
        assert sorted(path.name for path in tmp_path.iterdir()) == ["a.txt", "script.py"]
    else:
        assert (done.returncode, done.stderr) == (0, "")
        assert IndexedDataset(tmp_path / "out")[0].tolist() == [*b"text"]


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_results_of_workers_however_they_are_started(method: Any) -> None:
    with OrderedWorkers[int, np.ndarray](3, make_slow_squares, method) as workers:
        assert [int(result[0]) for result in workers.map(range(40))] == [n * n for n in range(40)]
    with (
        pytest.raises(DataError, match="negative"),
        OrderedWorkers[int, np.ndarray](2, make_slow_squares, method) as failing,
    ):
        list(failing.map([1, 2, -3, 4]))


@pytest.mark.slow
def test_the_standard_library(tmp_path: Path) -> None:
    """Real files, some of which are not UTF-8."""
    options: dict[str, Any] = {"text_suffixes": (".py",), "skip_undecodable": True, "append_eod": True}
    manifest = preprocess_files([f"{STDLIB}/test/**/*.py"], tmp_path / "out", workers=2, **options)
    assert manifest.documents > 500
    assert manifest.undecodable
    assert manifest.tokens == manifest.text_bytes + manifest.documents
    dataset, tokenizer = IndexedDataset(tmp_path / "out"), load_tokenizer(tmp_path / "out")
    readable = [source.path for source in manifest.sources if source.path not in manifest.undecodable]
    for i in (0, 100, -1):
        assert tokenizer.decode(dataset[i]).encode() == Path(readable[i]).read_bytes()
