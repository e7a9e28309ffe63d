"""The training loop: build everything, take up the newest checkpoint, update, measure, validate, save.

The position in the data is ``consumed_samples`` and nothing else; the learning rate is a function of the step. So a
run that is stopped and started again goes on as if it had not been stopped: on a CPU, bit for bit.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from megadape.checkpoint import Checkpoint, CheckpointStore
from megadape.data import Splits, TokenSamples, batch_indices, build_splits
from megadape.data.indexed_format import idx_path
from megadape.errors import ConfigurationError, TrainingError
from megadape.machine import peak_resident_bytes, versions
from megadape.model import build_gpt, count_parameters, count_token_flops
from megadape.parallel.mesh import Mesh
from megadape.training.engine import EngineState, Objective, StepResult, build_engine
from megadape.training.identity import check_identity, file_digest, with_vocabulary
from megadape.training.metrics import Tracker, open_trackers
from megadape.training.protocols import Reporter, Run
from megadape.training.random import random_state, restore_random_state, seed_streams
from megadape.training.settings import TrainingSettings

logger = logging.getLogger(__name__)


@dataclass
class Progress:
    """How far a run has come; saved with every checkpoint."""

    step: int = 0
    consumed_samples: int = 0
    wandb_id: str | None = None


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
        self.data = self._open_data()
        self.architecture = with_vocabulary(run.architecture, run.data.prefix)
        seed_streams(run.seed, mesh.rank)
        self.model = build_gpt(
            self.architecture,
            seed=run.seed,
            device=mesh.device,
            activation_checkpointing=run.training.activation_checkpointing,
        )
        self.flops = count_token_flops(self.model, run.training.sequence_length)
        self.engine = build_engine(self.model, run.training, run.parallel.zero, mesh)
        self.store = CheckpointStore(run.run_dir / "checkpoints", run.checkpoint.keep)
        self.progress = Progress()
        checkpoint = self.store.newest()
        if checkpoint is not None:
            self._resume(checkpoint)

    def fit(self, stop_after_steps: int | None = None) -> None:
        """Update until the last step, or until so many steps have been done now; save on the way and at the end."""
        training, first = self.run.training, self.progress.step
        last = training.steps if stop_after_steps is None else min(training.steps, first + stop_after_steps)
        self._introduce(first)
        if first >= last:
            return
        trackers = self._open_trackers()
        try:
            for step in range(first, last):
                row = self._update(step)
                for tracker in trackers:
                    tracker.log(row)
                if self.mesh.is_first:
                    self.reporter.step(row, training.steps)
                if self._is_due(self.run.checkpoint.save_every) and self.progress.step < last:
                    self._save()
        finally:
            for tracker in trackers:
                tracker.close()
        self._save()

    def _open_data(self) -> Splits:
        run = self.run
        wanted = (
            run.training.steps * run.training.global_batch_size,
            run.validation.sequences if run.validation.every else 0,
            0,
        )
        return build_splits(run.data, run.training.sequence_length, wanted, seed=run.seed)

    def _introduce(self, first: int) -> None:
        run, ranks = self.run, self.mesh.data_ranks
        if not self.mesh.is_first:
            return
        self.reporter.message(
            f"{run.run_dir}: {count_parameters(self.model) / 1e6:.1f} M parameters, {run.training.steps} steps of "
            f"{run.training.global_batch_size} x {run.training.sequence_length} tokens on {ranks} "
            f"rank{'s' * (ranks > 1)} ({self.mesh.device.type}, engine {run.training.engine})"
        )
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

    def _update(self, step: int) -> dict[str, Any]:
        training = self.run.training
        rate = training.optimizer.learning_rate * training.schedule.factor(step, training.steps)
        started = time.perf_counter()
        self.model.train()
        result = self.engine.train_step(self._micro_batches(), rate)
        seconds = time.perf_counter() - started
        if not math.isfinite(result.loss):
            raise TrainingError(
                f"the loss of step {step + 1} is {result.loss}; the newest checkpoint is untouched: "
                "lower training.optimizer.learning_rate, or look at the data of this step"
            )
        self.progress.step = step + 1
        self.progress.consumed_samples += training.global_batch_size
        row = self._measure(result, rate, seconds)
        if self._is_due(self.run.validation.every):
            row["validation_loss"] = self._validate()
        return row

    def _micro_batches(self) -> list[Tensor]:
        """This rank's sequences of the next update, [b, s + 1] each."""
        training, mesh = self.run.training, self.mesh
        rows = batch_indices(
            self.progress.consumed_samples,
            training.global_batch_size,
            training.micro_batch_size,
            mesh.data_rank,
            mesh.data_ranks,
        )
        return [self._to_tensor(self.data.train, row) for row in rows]

    def _to_tensor(self, samples: TokenSamples | None, indices: Iterable[int]) -> Tensor:
        assert samples is not None
        return torch.from_numpy(np.stack([samples[index] for index in indices])).to(self.mesh.device)

    def _measure(self, result: StepResult, rate: float, seconds: float) -> dict[str, Any]:
        training, peak = self.run.training, self.run.logging.peak_flops
        tokens_per_second = training.global_batch_size * training.sequence_length / seconds
        flops = tokens_per_second * self.flops.total
        return {
            "step": self.progress.step,
            "loss": result.loss,
            "learning_rate": rate,
            "grad_norm": result.grad_norm,
            "tokens_per_second": tokens_per_second,
            "model_flops_per_second": flops,
            "mixing_flops_share": self.flops.mixing / self.flops.total,
            "mfu": None if peak is None else flops / (peak * self.mesh.place.world),
            "peak_memory_bytes": peak_memory(self.mesh.device),
            "consumed_samples": self.progress.consumed_samples,
            "seconds": seconds,
        }

    @torch.no_grad()
    def _validate(self) -> float:
        """Mean loss over the validation sequences, shared among the ranks; leaves the random state as it was."""
        self.model.eval()
        objective = Objective(self.model, self.run.training.precision, self.mesh.device)
        mine = range(self.mesh.data_rank, self.run.validation.sequences, self.mesh.data_ranks)
        total = torch.zeros((), dtype=torch.float64, device=self.mesh.device)
        for start in range(0, len(mine), self.run.training.micro_batch_size):
            part = mine[start : start + self.run.training.micro_batch_size]
            total += objective(self._to_tensor(self.data.valid, part)).double() * len(part)
        return float(self.mesh.mean_over_data(total)) * self.mesh.data_ranks / self.run.validation.sequences

    def _is_due(self, every: int) -> bool:
        return every > 0 and self.progress.step % every == 0

    def _save(self) -> None:
        state = self.engine.state()
        random = self.mesh.gather(random_state(self.mesh.device))
        if self.mesh.is_first:
            moments = {
                f"{moment}/{name}": tensor
                for moment, tensors in state.moments.items()
                for name, tensor in tensors.items()
            }
            content = {
                "format": 1,
                "updates": state.updates,
                "progress": asdict(self.progress),
                "identity": self._identity(),
                "architecture": self.architecture.model_dump(mode="json"),
                "random": random,
                "versions": versions(),
            }
            path = self.store.save(self.progress.step, {"model": state.parameters, "optimizer": moments}, content)
            self.reporter.message(f"saved {path}")
        self.mesh.barrier()

    def _identity(self) -> dict[str, Any]:
        """What a checkpoint and the settings must agree on for the run to go on."""
        return {
            **self.architecture.model_dump(mode="json", exclude={"model": {"attention_backend"}}),
            "seed": self.run.seed,
            "global_batch_size": self.run.training.global_batch_size,
            "data": {
                "index": file_digest(idx_path(self.run.data.prefix)),
                "split": f"{self.run.data.split} by {self.run.data.split_by}",
                "recipe": self.run.data.recipe,
                "seed": self.run.data.seed,
            },
        }

    def _resume(self, checkpoint: Checkpoint) -> None:
        content = checkpoint.state()
        check_identity(checkpoint.path, content["identity"], self._identity())
        self.progress = Progress(**content["progress"])
        moments: dict[str, dict[str, Tensor]] = {}
        for key, tensor in checkpoint.tensors("optimizer").items():
            moment, _, name = key.partition("/")
            moments.setdefault(moment, {})[name] = tensor
        self.engine.load_state(EngineState(content["updates"], checkpoint.tensors("model"), moments))
        if len(content["random"]) == self.mesh.place.world:
            restore_random_state(content["random"][self.mesh.rank], self.mesh.device)
        else:
            logger.warning("the checkpoint is of %d ranks: random streams start anew", len(content["random"]))


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
