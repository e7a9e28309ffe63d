"""DeepSpeed's engine with ZeRO 0 and 1 (deepspeed 0.19.8), behind the same interface as the reference."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils import get_total_norm

from megadape.errors import TrainingError
from megadape.model import GPT
from megadape.parallel.mesh import Mesh
from megadape.training.engine import MOMENTS, EngineState, Objective, StepResult
from megadape.training.optimizer import build_optimizer, set_learning_rate
from megadape.training.settings import TrainingSettings


def import_deepspeed(device: torch.device) -> Any:  # noqa: ANN401
    """Import DeepSpeed, made ready for this device."""
    if device.type == "cpu":
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    try:
        import deepspeed
    except ImportError as error:
        raise TrainingError(
            "training.engine is deepspeed, which is not installed: pip install deepspeed==0.19.8"
        ) from error
    # a shared-memory op that only inference uses; else a minute of compilation at every start, or an error without a
    # compiler
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    return deepspeed


def deepspeed_config(settings: TrainingSettings, zero: int, ranks: int) -> dict[str, object]:
    """DeepSpeed's own configuration for these settings."""
    return {
        "train_batch_size": settings.global_batch_size,
        "train_micro_batch_size_per_gpu": settings.micro_batch_size,
        "gradient_accumulation_steps": settings.global_batch_size // (settings.micro_batch_size * ranks),
        "gradient_clipping": settings.optimizer.clip,
        "zero_optimization": {"stage": zero},
        "zero_allow_untested_optimizer": True,
        "steps_per_print": 10**9,
    }


class DeepSpeedEngine:
    """See ``megadape.training.engine.Engine``."""

    def __init__(self, model: GPT, settings: TrainingSettings, zero: int, mesh: Mesh) -> None:
        deepspeed = import_deepspeed(mesh.device)
        backend = "nccl" if mesh.device.type == "cuda" else "gloo"
        deepspeed.init_distributed(dist_backend=backend, verbose=False)
        self.parameters = dict(model.named_parameters())
        self.zero, self.mesh, self.updates = zero, mesh, 0
        self.optimizer = build_optimizer(model, settings.optimizer)
        self.engine, *_ = deepspeed.initialize(
            model=Objective(model, settings.precision, mesh.device),
            optimizer=self.optimizer,
            config=deepspeed_config(settings, zero, mesh.data_ranks),
        )

    def train_step(self, micro_batches: Sequence[Tensor], learning_rate: float) -> StepResult:
        """One update."""
        assert len(micro_batches) == self.engine.gradient_accumulation_steps()
        set_learning_rate(self.optimizer, learning_rate)
        total = torch.zeros((), device=self.mesh.device)
        norm = None
        for tokens in micro_batches:
            loss = self.engine(tokens)
            self.engine.backward(loss)
            total += loss.detach() / len(micro_batches)
            if self.zero == 0 and self.engine.is_gradient_accumulation_boundary():
                # stage 0 keeps its norm to itself; the gradients are averaged already and not yet clipped
                norm = get_total_norm([p.grad for p in self.parameters.values() if p.grad is not None])
            self.engine.step()
        self.updates += 1
        norm = self.engine.get_global_grad_norm() if norm is None else norm
        return StepResult(float(self.mesh.mean_over_data(total)), float(norm))

    def state(self) -> EngineState:
        """Full state; with ZeRO 1 each tensor is gathered from its partitions."""
        from deepspeed.utils import safe_get_full_optimizer_state

        parameters = {name: parameter.detach() for name, parameter in self.parameters.items()}
        moments: dict[str, dict[str, Tensor]] = {}
        if self.updates:
            if self.zero:
                self._link_moments()
            for moment in MOMENTS:
                moments[moment] = {
                    name: safe_get_full_optimizer_state(parameter, moment)
                    if self.zero
                    else self.optimizer.state[parameter][moment]
                    for name, parameter in self.parameters.items()
                }
        return EngineState(self.updates, parameters, moments)

    @torch.no_grad()
    def load_state(self, state: EngineState) -> None:
        """Take up a state in place."""
        self.updates = state.updates
        for name, parameter in self.parameters.items():
            parameter.copy_(state.parameters[name])
        if self.zero:
            self._load_partitions(state)
        elif state.moments:
            for name, parameter in self.parameters.items():
                taken = {moment: state.moments[moment][name].to(parameter.device, copy=True) for moment in MOMENTS}
                step = torch.tensor(float(state.updates), device=parameter.device)
                self.optimizer.state[parameter] = {"step": step, **taken}

    def _load_partitions(self, state: EngineState) -> None:
        from deepspeed.utils import safe_set_full_fp32_param, safe_set_full_optimizer_state

        partitioned = self.engine.optimizer
        if state.moments:
            # ZeRO makes the flat moments at its first update: make room for them now
            for flat in partitioned.single_partition_of_fp32_groups:
                room = {moment: torch.zeros_like(flat) for moment in MOMENTS}
                step = torch.tensor(float(state.updates), device=flat.device)
                partitioned.optimizer.state[flat] = {"step": step, **room}
            self._link_moments()
        for name, parameter in self.parameters.items():
            safe_set_full_fp32_param(parameter, state.parameters[name].to(parameter.device))
            for moment, tensors in state.moments.items():
                safe_set_full_optimizer_state(parameter, tensors[name].to(parameter.device), moment)

    def _link_moments(self) -> None:
        """Make every parameter's moments a part of its group's flat ones.

        DeepSpeed 0.19.8 does so once, after the update of the first parameter group, when the others have no moments
        yet.
        """
        partitioned = self.engine.optimizer
        partitioned._hp_optimizer_states_linked = False
        partitioned._lazy_init_hp_params_optimizer_state()
