"""The training loop: build everything, take up the newest checkpoint, update, measure, validate, save.

The position in the data is ``consumed_samples`` and nothing else; the learning rate is a function of the step. So a
run that is stopped and started again goes on as if it had not been stopped: on a CPU, bit for bit.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from megadape.data import Samples, open_training_samples
from megadape.data.loader import step_indices
from megadape.errors import ConfigurationError, TrainingError
from megadape.kernels import choose_kernels
from megadape.machine import peak_resident_bytes
from megadape.model import GPT, build_gpt, count_parameters, count_token_flops
from megadape.model.compiling import compile_model
from megadape.model.stages import shared_between_stages
from megadape.parallel.drift import check_drift
from megadape.parallel.mesh import Mesh
from megadape.parallel.sharding import Sharding
from megadape.training.accelerator import check_compiler
from megadape.training.data import open_data
from megadape.training.engines.base import StepResult, build_engine
from megadape.training.engines.memory import LiveMemory
from megadape.training.identity import with_end_of_document, with_vocabulary
from megadape.training.loading import blank_batches, reading_ahead
from megadape.training.metrics import Tracker, open_trackers
from megadape.training.optimizer import build_optimizer
from megadape.training.peaks import device_peak
from megadape.training.phases import StepClock
from megadape.training.pipeline.placement import part_of
from megadape.training.profiling import StepProfiler
from megadape.training.protocols import Reporter, Run
from megadape.training.random import seed_streams
from megadape.training.saving import Saver
from megadape.training.settings import TrainingSettings
from megadape.training.supervision.anomalies import FINE, AnomalyWatch
from megadape.training.supervision.stop import Stop, Stopper, StopReason
from megadape.training.supervision.watchdog import Watchdog


class Trainer:
    """One run on this rank: everything is built and checked here, ``fit`` does the rest.

    Args:
        run: settings.
        mesh: the ranks.
        reporter: hears on the first rank.

    Raises:
        MegadapeError: settings contradict each other, the data or a checkpoint.
    """

    def __init__(self, run: Run, mesh: Mesh, reporter: Reporter) -> None:
        self.run, self.mesh, self.reporter = run, mesh, reporter
        check_batch(run.training, mesh.data_ranks)
        self.data = open_data(run, mesh)
        prefixes = [part.prefix for part in run.data.parts]
        self.architecture = with_end_of_document(with_vocabulary(run.architecture, prefixes, mesh.tp.size), prefixes)
        with torch.device("meta"):
            whole = GPT(self.architecture)
        self.parameters = count_parameters(whole)
        self.flops = count_token_flops(whole, run.training.sequence_length)
        kernels = choose_kernels(
            run.kernels, mesh.device, torch.device("cpu") if run.parallel.offload_optimizer else None
        )
        self.model = build_gpt(
            self.architecture,
            seed=run.seed,
            device=mesh.device,
            activation_checkpointing=run.training.activation_checkpointing,
            loss_chunk=run.training.loss_chunk,
            sharding=Sharding(mesh.tp, run.parallel.sequence_parallel, run.parallel.mixing),
            part=part_of(self.architecture, run.parallel, mesh.pp.rank),
            normalise=kernels.layer_norm,
        )
        if run.training.compile:
            check_compiler(mesh.device)
            compile_model(self.model)
        self.kernels = kernels.names
        seed_streams(run.seed, mesh, self.model.position_streams)
        builder = partial(build_optimizer, kernels=kernels)
        self.engine = build_engine(self.model, run.training, run.parallel, mesh, builder)
        self.memory = LiveMemory(self.model, self.engine.optimizer)
        self.saver = Saver(run, self.architecture, mesh, self.model, self.engine, self.kernels)
        self.progress = self.saver.resume()
        self.anomalies = AnomalyWatch(run.anomalies)
        if self.progress.anomalies is not None:
            self.anomalies.load_state(self.progress.anomalies)
        self.verdict, self.asked = FINE, False
        self.clock, self.saving_seconds = StepClock(), 0.0
        self.peak_flops = run.logging.peak_flops or device_peak(mesh.device, run.training.precision)

    def fit(self, stopper: Stopper, watchdog: Watchdog, stop_after_steps: int | None = None) -> str | None:
        """Update until the last step, until so many steps have been done now, or until all ranks agree to stop; save on
        the way and at the end.

        Returns:
            Why it stopped before the last step, the same on all ranks; None: all steps are made.
        """
        self.watchdog, self.stopper = watchdog, stopper
        training, first = self.run.training, self.progress.step
        last = training.steps if stop_after_steps is None else min(training.steps, first + stop_after_steps)
        self._introduce(first)
        reason = stopper.agreed() if first < last else None
        if reason is not None and reason.reason is StopReason.SAVE:
            reason = None  # nothing has changed yet
        if reason is None and first < last:
            trackers, profiler = self._open_trackers(), self._profiler()
            try:
                with self._reading_ahead() as self.batches, closing(profiler):
                    reason = self._make_steps(first, last, trackers, profiler)
                self._save(trackers)
                self._finish_saving()
            finally:
                for tracker in trackers:
                    tracker.close()
        if self.progress.step >= training.steps:
            return None
        return str(reason) if reason is not None else f"--stop-after-steps {stop_after_steps}"

    def _make_steps(self, first: int, last: int, trackers: Sequence[Tracker], profiler: StepProfiler) -> Stop | None:
        """Steps first + 1 .. last, or until all ranks agree to stop; the last state is left to be saved."""
        for step in range(first, last):
            started = time.perf_counter()
            with profiler.step(step + 1):
                row = self._update(step)
            for tracker in trackers:
                tracker.log(row)
            if self.mesh.is_first:
                self.reporter.step(row, self.run.training.steps)
            self.stopper.note_step(time.perf_counter() - started)
            reason = self.stopper.agreed(lost_save=self.saver.failed)
            if reason is not None and reason.reason is StopReason.LOST_SAVE:
                self.saver.finish()  # raises on all ranks
            asked = reason is not None and reason.reason is StopReason.SAVE
            if reason is not None and not asked:
                return reason
            if (asked or self._is_due(self.run.checkpoint.save_every)) and self.progress.step < last:
                self._save(trackers)
        return None

    @contextmanager
    def _reading_ahead(self) -> Iterator[Iterator[Tensor]]:
        """This rank's batches from the present position on, one step after the other."""
        run, mesh, training = self.run, self.mesh, self.run.training
        samples = self.data.train
        steps = step_indices(
            len(samples),
            self.progress.consumed_samples,
            training.global_batch_size,
            training.micro_batch_size,
            mesh.data_rank,
            mesh.data_ranks,
        )
        part, documents = self.model.part, self.architecture.model.documents
        if not (part.embedding or part.head or documents == "separate"):
            yield blank_batches(steps, training.sequence_length)
            return
        reopen = partial(open_training_samples, run.data, training.sequence_length, len(samples), run.seed)
        with reading_ahead(run.data.loader, samples, reopen, steps, mesh.device) as batches:
            yield batches

    def _introduce(self, first: int) -> None:
        run = self.run
        if not self.mesh.is_first:
            return
        self.reporter.message(
            f"{run.run_dir}: {self.parameters / 1e6:.1f} M parameters, {run.training.steps} steps of "
            f"{run.training.global_batch_size} x {run.training.sequence_length} tokens on {describe(self.mesh)} "
            f"({self.mesh.device.type}, engine {run.training.engine})"
        )
        for sentence in self.data.describe():
            self.reporter.message(sentence)
        if first >= run.training.steps:
            self.reporter.message(f"{run.run_dir} is done: all {run.training.steps} steps are in its newest checkpoint")
        elif first:
            self.reporter.message(f"resuming after step {first}")

    def _open_trackers(self) -> Sequence[Tracker]:
        if not self.mesh.is_first:
            return ()
        trackers, self.progress.wandb_id = open_trackers(
            self.run.run_dir,
            self.run.logging,
            self.progress.step,
            self.progress.wandb_id,
            self.architecture.model_dump(mode="json") | self.run.training.model_dump(mode="json"),
        )
        return trackers

    def _profiler(self) -> StepProfiler:
        def told(words: str) -> None:
            if self.mesh.is_first:
                self.reporter.message(words)

        return StepProfiler(self.run.profile, self.run.run_dir, self.mesh.rank, self.mesh.device, told)

    def _update(self, step: int) -> dict[str, Any]:
        training = self.run.training
        rate = training.optimizer.learning_rate * training.schedule.factor(step, training.steps)
        self.clock = StepClock()
        self.model.train()
        self.watchdog.enter("data", step + 1)
        batches = self._micro_batches()
        self.clock.end("data")
        self.watchdog.enter("update", step + 1)
        self.verdict, self.asked = FINE, False
        result = self.engine.train_step(batches, rate, self._admit)
        # an overflow in fp16 is not asked about: there was no update
        self.clock.end("optimizer" if self.asked else "forward_backward")
        if self.verdict.stop:
            raise TrainingError(
                f"step {step + 1}: {self.verdict.reason}; its update was not made, and the newest checkpoint is "
                "untouched: lower training.optimizer.learning_rate, look at the data of this step, or see anomalies in "
                "the settings"
            )
        self.progress.step = step + 1
        self.progress.consumed_samples += training.global_batch_size
        row = self._measure(result, rate)
        if self._is_due(self.run.parallel.drift_every):
            self._check_drift()
        if self._is_due(self.run.validation.every):
            started = time.perf_counter()
            row |= self._validate()
            row["seconds_validate"] = time.perf_counter() - started
        return row

    def _admit(self, loss: float, grad_norm: float) -> bool:
        """Whether to make an update; asked by the engine."""
        self.clock.end("forward_backward")
        self.asked = True
        self.verdict = self.anomalies.judge(loss, grad_norm)
        return not self.verdict.skip

    def _micro_batches(self) -> list[Tensor]:
        """This rank's sequences of the next update, [b, s + 1] each."""
        return list(next(self.batches).to(self.mesh.device, non_blocking=True))

    def _to_tensor(self, samples: Samples | None, indices: Iterable[int]) -> Tensor:
        assert samples is not None
        return torch.from_numpy(np.stack([samples[index] for index in indices])).to(self.mesh.device)

    def _measure(self, result: StepResult, rate: float) -> dict[str, Any]:
        training, peak = self.run.training, self.peak_flops
        tokens_per_second = training.global_batch_size * training.sequence_length / self.clock.total
        flops = tokens_per_second * self.flops.total
        held = self.memory.read()
        return {
            "step": self.progress.step,
            "loss": result.loss if math.isfinite(result.loss) else None,
            "learning_rate": rate,
            "grad_norm": result.grad_norm if math.isfinite(result.grad_norm) else None,
            "loss_scale": result.loss_scale,
            "skipped": result.skipped,
            "anomaly": self.verdict.reason,
            "tokens_per_second": tokens_per_second,
            "model_flops_per_second": flops,
            "mixing_flops_share": self.flops.mixing / self.flops.total,
            "mfu": None if peak is None else flops / (peak * self.mesh.place.world),
            "parameter_bytes": held.parameters,
            "optimizer_bytes": held.optimizer,
            "peak_memory_bytes": peak_memory(self.mesh.device),
            "consumed_samples": self.progress.consumed_samples,
            **self.clock.row(),
            "seconds_validate": 0.0,
            "seconds_save": self._taken_for_saves(),
        }

    @torch.no_grad()
    def _validate(self) -> dict[str, float]:
        """Mean loss over the validation sequences, for a blend also of each dataset; leaves the random state as it was.

        A blend's is the mean of its datasets' by their weights: what a mix like the training samples would give.
        """
        self.watchdog.enter("validate", self.progress.step)
        self.model.eval()
        parts = self.data.parts
        losses = [self._validate_on(part.valid) for part in parts]
        mean = sum(part.part.weight * loss for part, loss in zip(parts, losses, strict=True))
        each = {f"validation_loss/{part.part.name}": loss for part, loss in zip(parts, losses, strict=True)}
        return {"validation_loss": mean} | (each if len(parts) > 1 else {})

    def _validate_on(self, samples: Samples | None) -> float:
        """Mean loss of one dataset, shared among the ranks."""
        sequences, micro_batch, mesh = self.run.validation.sequences, self.run.training.micro_batch_size, self.mesh
        mine = range(mesh.data_rank, sequences, mesh.data_ranks)
        total = torch.zeros((), dtype=torch.float64, device=mesh.device)
        # a rank whose share is smaller goes along to the end: with ZeRO 3 a forward pass is a collective of all
        for start in range(0, -(-sequences // mesh.data_ranks), micro_batch):
            part = mine[start : start + micro_batch]
            total += self.engine.evaluate(self._to_tensor(samples, part or range(1))).double() * len(part)
        return float(mesh.mean_over_data(total)) * mesh.data_ranks / sequences

    def _is_due(self, every: int) -> bool:
        return every > 0 and self.progress.step % every == 0

    def _save(self, trackers: Sequence[Tracker]) -> None:
        started = time.perf_counter()
        self.watchdog.enter("save", self.progress.step)
        self._check_drift()
        for tracker in trackers:
            tracker.sync()  # a checkpoint must not know steps that a power cut takes from metrics.jsonl
        self.progress.anomalies = self.anomalies.state()
        saved = self.saver.save(self.progress)
        if saved is not None and self.mesh.is_first:
            self.reporter.message(f"saved {saved}")
        taken = time.perf_counter() - started
        self.saving_seconds += taken
        self.stopper.note_save(taken)

    def _taken_for_saves(self) -> float:
        """Seconds since this was last asked."""
        taken, self.saving_seconds = self.saving_seconds, 0.0
        return taken

    def _finish_saving(self) -> None:
        """Wait for what is written in the background, whose end the writer tells itself."""
        self.watchdog.enter("save", self.progress.step)
        self.saver.finish()

    def _check_drift(self) -> None:
        shared, partitioned = shared_between_stages(self.model), self.run.parallel.zero == 3
        check_drift(self.model, self.mesh, self.progress.step, shared=shared, partitioned=partitioned)


def describe(mesh: Mesh) -> str:
    """The ranks in words."""
    if mesh.place.world == 1:
        return "1 rank"
    sizes = {"tensor": mesh.tp.size, "pipeline": mesh.pp.size, "data": mesh.dp.size}
    return f"{mesh.place.world} ranks ({' x '.join(f'{size} {name}' for name, size in sizes.items() if size > 1)})"


def check_batch(training: TrainingSettings, ranks: int) -> None:
    """global batch = micro batch x accumulation x ranks, or an error that says so."""
    if training.global_batch_size % (training.micro_batch_size * ranks):
        raise ConfigurationError(
            "training.global_batch_size must be micro_batch_size x accumulation x data-parallel ranks, but "
            f"{training.global_batch_size} is no multiple of {training.micro_batch_size} x {ranks}"
        )


def peak_memory(device: torch.device) -> int:
    """Bytes: allocated at most on an accelerator, resident at most elsewhere."""
    return torch.cuda.max_memory_allocated(device) if device.type == "cuda" else peak_resident_bytes()
