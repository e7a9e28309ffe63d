"""Training on one device: step time, tokens/s, model FLOP/s, MFU and memory, of encodings against the first one named.

    python tools/benchmark_training.py --models 125M 350M --lengths 512 1024 2048 4096 8192 \\
        --positions rope dape_kerple --device cuda --out benchmarks

Settings are those of configs/models and configs/positions (or of files whose paths are given), with the plain engine
and synthetic tokens; --set changes any of them. A micro-batch has the same number of tokens at every length.
Contestants take turns, each in a process of its own, so that memory is its own too; between its turns it gives back all
but parameters and optimizer. Times are medians over rounds, ratios medians of the ratios within a round. What does not
fit or is refused is named in the table, and the rest goes on. MFU counts the operations of the model alone: with DAPE's
mixer, and without it; nothing is counted for what is computed twice.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import statistics
import sys
import time
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

import torch
from rich.console import Console
from torch import Tensor

from megadape import config
from megadape.config.run import RunSettings
from megadape.console import make_table, number
from megadape.errors import MegadapeError
from megadape.evaluation.output import write_table, write_whole
from megadape.kernels import choose_kernels
from megadape.machine import choose_threads, keep_freed_memory, versions
from megadape.model import GPT, build_gpt, count_token_flops
from megadape.model.compiling import compile_model
from megadape.parallel.mesh import Mesh, Place, open_mesh
from megadape.training.accelerator import check_compiler, prepare_allocator, prepare_products
from megadape.training.engines.base import build_engine
from megadape.training.loop import peak_memory
from megadape.training.optimizer import build_optimizer
from megadape.training.peaks import device_peak

CONFIGS = Path(__file__).resolve().parent.parent / "configs"
COLUMNS = (
    "model",
    "length",
    "positions",
    "micro-batch",
    "ms a step",
    "x first",
    "tokens/s",
    "TFLOP/s",
    "MFU %",
    "MFU % without DAPE's term",
    "peak GiB",
    "why not",
)


@dataclass(frozen=True)
class Case:
    """One contestant at one length; settings files, and what is laid over them."""

    model: str
    length: int
    positions: str
    overrides: tuple[str, ...]
    device: str
    warmup: int
    peak_flops: float | None

    def load(self) -> RunSettings:
        """Its settings."""
        return config.load([find("models", self.model), find("positions", self.positions)], self.overrides)


@dataclass(frozen=True)
class Facts:
    """What a contestant is, as soon as it is warm."""

    micro_batch: int
    tokens: int
    """A step."""
    flops: float
    """A token."""
    plain_flops: float
    """A token, without the mixer's."""
    peak_flops: float | None
    accelerator: dict[str, str]


@dataclass(frozen=True)
class Turn:
    """Some steps of a contestant."""

    seconds: float
    """A step."""
    peak_bytes: int
    """So far."""


@dataclass(frozen=True)
class Failure:
    """It cannot go on."""

    reason: str


def find(folder: str, name: str) -> Path:
    """A settings file by its name in a folder of configs, or by its path."""
    return Path(name) if name.endswith(".yaml") else CONFIGS / folder / f"{name}.yaml"


class Training:
    """A model and its engine on this device, fed with random tokens."""

    def __init__(self, case: Case, mesh: Mesh) -> None:
        self.settings, self.mesh = case.load(), mesh
        training, architecture = self.settings.training, self.settings.architecture
        accelerator = prepare_products(mesh.device)
        with torch.device("meta"):
            whole = GPT(architecture)
        flops = count_token_flops(whole, training.sequence_length)
        kernels = choose_kernels(self.settings.kernels, mesh.device)
        model = build_gpt(
            architecture,
            seed=self.settings.seed,
            device=mesh.device,
            activation_checkpointing=training.activation_checkpointing,
            loss_chunk=training.loss_chunk,
            normalise=kernels.layer_norm,
        ).train()
        if training.compile:
            check_compiler(mesh.device)
            compile_model(model)
        self.engine = build_engine(
            model, training, self.settings.parallel, mesh, lambda of, how: build_optimizer(of, how, kernels)
        )
        assert architecture.model.vocab_size is not None
        self.vocabulary = architecture.model.vocab_size
        peak = case.peak_flops or device_peak(mesh.device, training.precision)
        tokens = training.global_batch_size * training.sequence_length
        micro = training.micro_batch_size
        self.facts = Facts(micro, tokens, flops.total, flops.plain, peak, accelerator)
        self.generator = torch.Generator().manual_seed(0)

    def steps(self, count: int) -> Turn:
        """Make some updates; what the allocator holds but nobody uses is given back then."""
        training, device = self.settings.training, self.mesh.device
        batches = [self._batch() for _ in range(count)]
        self._wait()
        started = time.perf_counter()
        for batch in batches:
            micro_batches = batch.to(device, non_blocking=True).split(training.micro_batch_size)
            self.engine.train_step(micro_batches, training.optimizer.learning_rate)
        self._wait()
        seconds = (time.perf_counter() - started) / max(1, count)
        if device.type == "cuda":
            torch.cuda.empty_cache()
        return Turn(seconds, peak_memory(device))

    def _batch(self) -> Tensor:
        training = self.settings.training
        shape = training.global_batch_size, training.sequence_length + 1
        batch = torch.randint(self.vocabulary, shape, generator=self.generator)
        return batch.pin_memory() if self.mesh.device.type == "cuda" else batch

    def _wait(self) -> None:
        if self.mesh.device.type == "cuda":
            torch.cuda.synchronize(self.mesh.device)


def work(parent: Connection, case: Case) -> None:
    """A contestant's process: warm up, then steps whenever they are asked for."""
    keep_freed_memory()
    prepare_allocator()
    torch.set_num_threads(choose_threads())
    try:
        with open_mesh(Place(), process_group="training.engine=deepspeed" in case.overrides) as mesh:
            if mesh.device.type != case.device:
                parent.send(Failure(f"there is no {case.device} here"))
                return
            training = Training(case, mesh)
            training.steps(case.warmup)
            parent.send(training.facts)
            while count := parent.recv():
                parent.send(training.steps(count))
    except (MegadapeError, RuntimeError) as error:  # a GPU's or a CPU's memory that is full is a RuntimeError
        parent.send(Failure(str(error).strip().partition("\n")[0][:160]))


class Contestant:
    """A contestant's process, seen from outside."""

    def __init__(self, case: Case) -> None:
        self.case, self.turns = case, list[Turn]()
        self.facts: Facts | None = None
        self.failure: str | None = None
        context = multiprocessing.get_context("spawn")
        self._link, theirs = context.Pipe()
        self._process = context.Process(target=work, args=(theirs, case), daemon=True)
        self._process.start()
        theirs.close()
        answer = self._hear()
        if isinstance(answer, Facts):
            self.facts = answer

    def turn(self, steps: int) -> None:
        """Some steps, if it still runs."""
        if self.failure is None:
            self._link.send(steps)
            answer = self._hear()
            if isinstance(answer, Turn):
                self.turns.append(answer)

    def close(self) -> None:
        """End it."""
        if self.failure is None:
            self._link.send(0)
        self._process.join()

    def _hear(self) -> Facts | Turn | None:
        try:
            answer: Facts | Turn | Failure = self._link.recv()
        except EOFError:
            self._process.join()
            answer = Failure(f"its process died (exit code {self._process.exitcode})")
        if isinstance(answer, Failure):
            self.failure = answer.reason
            return None
        return answer

    def row(self, first: Contestant) -> list[object]:
        """Of the table; numbers, or None where there are none."""
        case, facts = self.case, self.facts
        head: list[object] = [case.model, case.length, case.positions]
        if self.failure is not None or facts is None:
            return [*head, None if facts is None else facts.micro_batch, *[None] * 7, self.failure]
        seconds = statistics.median(turn.seconds for turn in self.turns)
        ratio = None
        if first.failure is None:
            pairs = zip(self.turns, first.turns, strict=True)
            ratio = statistics.median(own.seconds / other.seconds for own, other in pairs)
        rate = facts.tokens / seconds
        mfu = [None if facts.peak_flops is None else 100 * rate * n / facts.peak_flops for n in flops_of(facts)]
        peak = self.turns[-1].peak_bytes / 2**30
        return [*head, facts.micro_batch, 1e3 * seconds, ratio, rate, rate * facts.flops / 1e12, *mfu, peak, None]


def flops_of(facts: Facts) -> tuple[float, float]:
    """Operations a token: all, and without the mixer's."""
    return facts.flops, facts.plain_flops


def compete(cases: list[Case], rounds: int, steps: int) -> list[Contestant]:
    """All contestants of one model and length, taking turns."""
    contestants = []
    for case in cases:
        sys.stderr.write(f"{case.model} at {case.length}: {case.positions}\n")
        contestants.append(Contestant(case))
    for _ in range(rounds):
        for contestant in contestants:
            contestant.turn(steps)
    for contestant in contestants:
        contestant.close()
    return contestants


def overrides_of(options: argparse.Namespace, length: int) -> tuple[str, ...]:
    """What the command line lays over the settings files."""
    micro = max(1, options.micro_batch_tokens // length)
    return (
        "run_dir=unused",
        "data.prefix=unused",
        f"training.sequence_length={length}",
        f"training.micro_batch_size={micro}",
        f"training.global_batch_size={micro * options.accumulation}",
        f"training.precision={options.precision}",
        f"training.loss_chunk={options.loss_chunk}",
        f"training.compile={str(options.compile).lower()}",
        f"training.engine={options.engine}",
        f"parallel.zero={int(options.engine == 'deepspeed')}",
        *options.set,
    )


def cells(row: list[object]) -> list[str]:
    """A row in words."""
    forms = ("", "d", "", "d", ",.1f", ".3f", ",.0f", ",.1f", ".1f", ".1f", ".2f", "")
    return [
        str(value or "") if form == "" else number(value, form)  # type: ignore[arg-type]
        for value, form in zip(row, forms, strict=True)
    ]


def parse(arguments: list[str]) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--models", nargs="+", default=["125M", "350M"], help="of configs/models, or paths of YAML files"
    )
    parser.add_argument("--lengths", type=int, nargs="+", default=[512, 1024, 2048, 4096, 8192])
    parser.add_argument(
        "--positions", nargs="+", default=["rope", "dape_kerple"], help="of configs/positions, or paths; the first is 1"
    )
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--precision", choices=["bf16", "fp16", "fp32"], default="bf16")
    parser.add_argument("--engine", choices=["torch", "deepspeed"], default="torch", help="deepspeed: with ZeRO 1")
    parser.add_argument("--micro-batch-tokens", type=int, default=16384, help="at every length; at least one sequence")
    parser.add_argument("--accumulation", type=int, default=1, help="micro-batches a step")
    parser.add_argument("--loss-chunk", type=int, default=0, help="training.loss_chunk")
    parser.add_argument("--compile", action="store_true", help="training.compile")
    parser.add_argument("--rounds", type=int, default=7, help="turns of each contestant")
    parser.add_argument("--steps", type=int, default=5, help="in a turn")
    parser.add_argument("--warmup", type=int, default=5, help="steps before the first turn")
    parser.add_argument("--peak-flops", type=float, help="of the device, where its data sheet is not known")
    parser.add_argument("--set", nargs="+", default=[], metavar="KEY=VALUE", help="more settings")
    parser.add_argument("--out", type=Path, default=Path("benchmarks"))
    return parser.parse_args(arguments)


def main() -> int:
    """Measure, print, write."""
    options = parse(sys.argv[1:])
    if options.device == "cpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""  # contestants take a GPU wherever they see one
    rows: list[list[object]] = []
    accelerator: dict[str, str] = {}
    for model in options.models:
        for length in options.lengths:
            given = overrides_of(options, length), options.device, options.warmup, options.peak_flops
            cases = [Case(model, length, positions, *given) for positions in options.positions]
            contestants = compete(cases, options.rounds, options.steps)
            rows += [contestant.row(contestants[0]) for contestant in contestants]
            accelerator |= next((each.facts.accelerator for each in contestants if each.facts), {})
    title = f"training on {accelerator.get('gpu', options.device)}, {options.precision}, engine {options.engine}"
    table = make_table(title, COLUMNS, [cells(row) for row in rows], words=("positions", "why not"))
    Console(width=None if sys.stdout.isatty() else 200).print(table)
    name = f"training-{options.device}-{options.precision}{'-compiled' if options.compile else ''}"
    write_table(options.out / f"{name}.csv", COLUMNS, rows)
    facts = {"command": sys.argv, "versions": versions(), "accelerator": accelerator, "options": vars(options)}
    write_whole(options.out / f"{name}.json", json.dumps(facts, indent=1, default=str))
    return int(not any(row[4] is not None for row in rows))


if __name__ == "__main__":
    sys.exit(main())
