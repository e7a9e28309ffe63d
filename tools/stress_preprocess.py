"""Kill a preprocessing at random, again and again, and see whether it comes back.

    python tools/stress_preprocess.py --kills 200 --folder stress
    python tools/stress_preprocess.py --kills 200 --folder stress --parts 3

A corpus in many formats, with bad records in it, is preprocessed with worker processes. The run is killed (kill -9)
after a random time or at a random fault point, or one of its workers is; after each kill no worker may be left, and the
same command is started again with --resume. Whenever a run gets to its end, every file that it made is compared, byte
for byte, with those of a run that was never killed, and everything begins anew. With --parts a run makes so many parts,
one after another, and merges them; what it is compared with was never divided.

Exit code 0: nothing was lost; 1: something was, and a line says what.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import random
import signal
import subprocess
import sys
import sysconfig
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import zstandard

from megadape.data.tokenizers.train import TrainTokenizerSettings, train_tokenizer
from megadape.faults import POINTS, VARIABLE

ROOT = Path(__file__).parents[1]
REACHED = [point for point in POINTS if point.startswith("preprocess.")]
PATIENCE = 300.0
"""Seconds that a run may take."""


@dataclass
class Findings:
    """What the trials came to."""

    kills: Counter[str] = field(default_factory=Counter)
    finished: int = 0
    losses: list[str] = field(default_factory=list)
    """What was lost, in words."""


def make_corpus(folder: Path) -> Path:
    """Real texts in every format, a bad record in each."""
    library = Path(sysconfig.get_paths()["stdlib"])
    texts = [path.read_text() for path in sorted((library / "json").parent.glob("*.py"))[:80]]
    records = [{"text": text[i : i + 3000], "meta": {"n": i}} for text in texts for i in range(0, len(text), 3000)]
    lines = [json.dumps(record).encode() for record in records]
    lines[len(lines) // 2] = b'{"text": "broken'
    content = b"\n".join(lines)
    folder.mkdir()
    (folder / "a.jsonl").write_bytes(content)
    (folder / "b.jsonl.gz").write_bytes(gzip.compress(content))
    (folder / "c.jsonl.zst").write_bytes(zstandard.compress(content))
    (folder / "d.json").write_text(json.dumps([*records, {"no": "text"}]))
    (folder / "e.jsonl.zst").write_bytes(zstandard.compress(content)[:-5000])
    for number, text in enumerate(texts):
        (folder / f"f{number:03d}.txt").write_text(text)
    (folder / "g.txt").write_bytes(b"not \xff UTF-8")
    return folder


def command(corpus: Path, tokenizer: Path, prefix: Path, workers: int, parts: int = 0) -> list[str]:
    """The run, and the same one again."""
    script = (
        "import sys\n"
        "from pathlib import Path\n"
        "from megadape.data.preprocess import run_command\n"
        "from megadape.data.preprocessing.arguments import preprocess_settings\n"
        "if __name__ == '__main__':\n"
        "    corpus, tokenizer, prefix, workers, parts = sys.argv[1:]\n"
        "    settings = preprocess_settings([corpus], prefix, 'huggingface', {'model': tokenizer},\n"
        "        workers=int(workers), resume=True, on_bad_line='quarantine', append_eod=True,\n"
        "        block_bytes=1 << 16, shard_bytes=1 << 18)\n"
        "    for number in range(int(parts)):\n"
        "        run_command(settings, f'{number + 1}/{parts}', None)\n"
        "    run_command(settings, None, int(parts) or None)\n"
    )
    path = prefix.parent.parent / "run.py"
    path.write_text(script)
    return [sys.executable, str(path), str(corpus), str(tokenizer), str(prefix), str(workers), str(parts)]


def start(words: Sequence[str], log: Path, fault: str = "") -> subprocess.Popen[bytes]:
    """Start the run."""
    environment = {**os.environ, VARIABLE: fault, "PYTHONPATH": str(ROOT)}
    with log.open("ab") as file:
        return subprocess.Popen(words, cwd=ROOT, env=environment, stdout=file, stderr=subprocess.STDOUT)


def children(pid: int) -> list[int]:
    """Worker processes of a process."""
    found: list[int] = []
    with suppress(FileNotFoundError, ProcessLookupError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            found += map(int, (task / "children").read_text().split())
    return [child for child in found if b"resource_tracker" not in command_line(child)]


def command_line(pid: int) -> bytes:
    """Of a process that may be gone."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return b""


def kill_once(words: Sequence[str], log: Path, order: random.Random, typical: float, findings: Findings) -> bool:
    """One trial; whether the run was killed before its end."""
    point = order.choice([*REACHED, *["at a random time"] * 6, *["a worker"] * 4])
    process = start(words, log, f"{point}=kill@{order.choice([1, 2, 3, 5, 9])}" if point in REACHED else "")
    workers: set[int] = set()
    limit = time.monotonic() + (PATIENCE if point in REACHED else order.random() * typical)
    while process.poll() is None and time.monotonic() < limit:
        workers.update(children(process.pid))
        time.sleep(0.01)
    running = process.poll() is None
    workers.update(children(process.pid))
    if running and point in REACHED:
        findings.losses.append(f"the run hangs; see {log}")
    if running and point == "a worker" and workers:
        with suppress(ProcessLookupError):
            os.kill(order.choice(sorted(workers)), signal.SIGKILL)
    elif running:
        process.kill()
    code = process.wait(PATIENCE)
    if code == 0:
        return False
    findings.kills[point] += 1
    expected = {-signal.SIGKILL} if point == "at a random time" else {-signal.SIGKILL, 1}
    if code not in expected:
        findings.losses.append(f"the run ended with code {code} after a kill ({point}); see {log}")
    require_gone(workers, findings)
    return True


def require_gone(workers: set[int], findings: Findings) -> None:
    """No worker outlives its parent by more than the block that it works at."""
    limit = time.monotonic() + 30
    while any(command_line(worker) for worker in workers):
        if time.monotonic() > limit:
            findings.losses.append("a worker outlived its parent")
            return
        time.sleep(0.01)


def compare(prefix: Path, reference: Path, findings: Findings) -> None:
    """The same files with the same bytes, and no others."""
    made, wanted = (
        {path.name: path.read_bytes() if path.is_file() else None for path in folder.iterdir()}
        for folder in (prefix.parent, reference.parent)
    )
    for name in sorted({*made, *wanted}):
        if name not in made or name not in wanted or made[name] != wanted[name]:
            findings.losses.append(f"{name} differs from that of a run that nobody killed")
    for name in [] if findings.losses else made:
        (prefix.parent / name).unlink()
    findings.finished += 1


def finish(words: Sequence[str], log: Path) -> float:
    """Let a run come to its end; the seconds that it took."""
    begun = time.monotonic()
    code = start(words, log).wait(PATIENCE)
    if code:
        sys.exit(f"a run that nobody killed failed with code {code}; see {log}")
    return time.monotonic() - begun


def main() -> None:
    """Kill, look, compare, tell."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--parts", type=int, default=0, help="make so many parts and merge them; default: one run")
    parser.add_argument("--seed", type=int, default=0, help="of times and places of the kills")
    parser.add_argument("--folder", type=Path, required=True, help="must not exist yet")
    options = parser.parse_args()
    options.folder.mkdir(parents=True)
    folder = options.folder.resolve()
    findings, order = Findings(), random.Random(options.seed)
    corpus, log, tokenizer = make_corpus(folder / "corpus"), folder / "log.txt", folder / "tokenizer.json"
    train_tokenizer(TrainTokenizerSettings(inputs=(corpus / "f000.txt",), output=tokenizer, vocab_size=600, kind="bpe"))
    for name in ("killed", "reference"):
        (folder / name).mkdir()
    prefix, reference = folder / "killed" / "out", folder / "reference" / "out"
    typical = finish(command(corpus, tokenizer, reference, 1), log)
    words = command(corpus, tokenizer, prefix, options.workers, options.parts)
    started = time.monotonic()
    while findings.kills.total() < options.kills and not findings.losses:
        if not kill_once(words, log, order, typical, findings):
            compare(prefix, reference, findings)
        elif findings.kills.total() % 10 == 0:
            print(f"{findings.kills.total()} kills, {findings.finished} runs to their end", flush=True)
    if not findings.losses:
        finish(words, log)
        compare(prefix, reference, findings)
    print(f"{findings.kills.total()} kills in {time.monotonic() - started:.0f} s: {dict(findings.kills)}")
    print(f"{findings.finished} runs came to their end")
    print("\n".join(findings.losses) or "nothing was lost: all files are those of a run never killed")
    sys.exit(bool(findings.losses))


if __name__ == "__main__":
    main()
