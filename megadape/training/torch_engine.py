"""The reference engine: plain torch, gradients averaged over the data-parallel ranks."""

from __future__ import annotations

from collections.abc import Sequence
from math import inf

import torch
from torch import Tensor
from torch.nn.utils import clip_grad_norm_

from megadape.model import GPT
from megadape.parallel.mesh import Mesh
from megadape.training.engine import MOMENTS, EngineState, Objective, StepResult
from megadape.training.optimizer import build_optimizer, set_learning_rate
from megadape.training.settings import TrainingSettings


class TorchEngine:
    """See ``megadape.training.engine.Engine``."""

    def __init__(self, model: GPT, settings: TrainingSettings, zero: int, mesh: Mesh) -> None:
        assert zero == 0, "the torch engine replicates its optimizer"
        self.objective = Objective(model, settings.precision, mesh.device)
        self.parameters = dict(model.named_parameters())
        self.optimizer = build_optimizer(model, settings.optimizer)
        self.clip = settings.optimizer.clip or inf
        self.mesh = mesh
        self.updates = 0

    def train_step(self, micro_batches: Sequence[Tensor], learning_rate: float) -> StepResult:
        """One update."""
        total = torch.zeros((), device=self.mesh.device)
        for tokens in micro_batches:
            loss = self.objective(tokens) / len(micro_batches)
            loss.backward()
            total += loss.detach()
        for parameter in self.parameters.values():
            if parameter.grad is None:  # one that this loss does not reach, such as a bias that softmax does not see
                parameter.grad = torch.zeros_like(parameter)
            parameter.grad = self.mesh.mean_over_data(parameter.grad)
        norm = clip_grad_norm_(self.parameters.values(), self.clip)
        set_learning_rate(self.optimizer, learning_rate)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.updates += 1
        return StepResult(float(self.mesh.mean_over_data(total)), float(norm))

    def state(self) -> EngineState:
        """Full state."""
        parameters = {name: parameter.detach() for name, parameter in self.parameters.items()}
        moments: dict[str, dict[str, Tensor]] = {}
        if self.updates:
            states = self.optimizer.state
            moments = {
                moment: {name: states[parameter][moment] for name, parameter in self.parameters.items()}
                for moment in MOMENTS
            }
        return EngineState(self.updates, parameters, moments)

    @torch.no_grad()
    def load_state(self, state: EngineState) -> None:
        """Take up a state in place."""
        self.updates = state.updates
        for name, parameter in self.parameters.items():
            parameter.copy_(state.parameters[name])
            if state.moments:
                taken = {moment: state.moments[moment][name].to(parameter.device, copy=True) for moment in MOMENTS}
                step = torch.tensor(float(state.updates), device=parameter.device)
                self.optimizer.state[parameter] = {"step": step, **taken}
