"""The reference engine: plain torch over any mesh. Optimizer and parameters are replicated over data-parallel ranks."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch import distributed as dist

from megadape.model import GPT
from megadape.parallel.mesh import Mesh
from megadape.parallel.settings import ParallelSettings
from megadape.training.engines.admission import Admit, admit_all
from megadape.training.engines.base import EngineState, StepResult
from megadape.training.engines.gradients import Gradients
from megadape.training.engines.loss_scale import build_loss_scale
from megadape.training.engines.objective import build_worker
from megadape.training.optimizer import (
    OptimizerBuilder,
    build_optimizer,
    read_moments,
    set_learning_rate,
    write_moments,
)
from megadape.training.settings import TrainingSettings


class TorchEngine:
    """See ``megadape.training.engines.base.Engine``."""

    def __init__(
        self,
        model: GPT,
        settings: TrainingSettings,
        parallel: ParallelSettings,
        mesh: Mesh,
        optimizer: OptimizerBuilder = build_optimizer,
    ) -> None:
        assert parallel.zero == 0, "the torch engine replicates its optimizer"
        self.worker = build_worker(model, settings, parallel, mesh)
        self.gradients = Gradients(model, mesh)
        self.parameters = self.gradients.parameters
        self.optimizer = optimizer(model, settings.optimizer)
        self.loss_scale = build_loss_scale(settings.precision, settings.loss_scale)
        self.clip = settings.optimizer.clip
        self.mesh = mesh
        self.updates = 0

    def train_step(self, micro_batches: Sequence[Tensor], learning_rate: float, admit: Admit = admit_all) -> StepResult:
        """One update."""
        scale = self.loss_scale.value if self.loss_scale else None
        mean = self.mesh.mean_over_data(self.worker.run(micro_batches, scale or 1.0))
        self.gradients.complete(scale or 1.0)
        exact = self.gradients.norm()
        # where a GPU is to be waited for, once: all work of the update but the optimizer's is queued by now
        loss, norm = torch.stack((mean.double(), exact)).tolist()
        overflow = self._overflows(norm)
        skipped = overflow or not admit(loss, norm) or not math.isfinite(norm)
        if not skipped:
            self.gradients.clip(exact, self.clip)
            set_learning_rate(self.optimizer, learning_rate)
            self.optimizer.step()
            self.updates += 1
        self.gradients.clear()
        return StepResult(loss, norm if math.isfinite(norm) else math.inf, skipped, scale)

    def _overflows(self, norm: float) -> bool:
        """Whether fp16's scale was too large for this update, agreed over all ranks."""
        if self.loss_scale is None:
            return False
        flag = torch.tensor(float(not math.isfinite(norm)), device=self.mesh.device)
        overflowed = bool(self.mesh.world.all_reduce(flag, dist.ReduceOp.MAX))
        self.loss_scale.update(overflowed, self.updates + 1)
        return overflowed

    def evaluate(self, tokens: Tensor) -> Tensor:
        """Mean loss of [b, s + 1]."""
        return self.worker.evaluate(tokens)

    def state(self) -> EngineState:
        """This rank's part."""
        parameters = {name: parameter.detach() for name, parameter in self.parameters.items()}
        moments = read_moments(self.optimizer, self.parameters) if self.updates else {}
        scale = self.loss_scale.state() if self.loss_scale else None
        return EngineState(self.updates, parameters, moments, scale)

    @torch.no_grad()
    def load_state(self, state: EngineState) -> None:
        """Take up a state in place."""
        self.updates = state.updates
        for name, parameter in self.parameters.items():
            parameter.copy_(state.parameters[name])
        if state.moments:
            write_moments(self.optimizer, self.parameters, state.updates, state.moments)
        if self.loss_scale and state.loss_scale:
            self.loss_scale.load_state(state.loss_scale)
