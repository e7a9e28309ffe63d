"""Parameters and moments out of ZeRO's partitions and back (deepspeed 0.19.8): whole tensors by name, float32.

Stage 0 has none: its optimizer is torch's over the parameters themselves. Stages 1 and 2 share one optimizer class,
which keeps whole parameters beside its partitions; stage 3 keeps partitions alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional

from megadape.training.optimizer import MOMENTS

Moments = Mapping[str, Mapping[str, Tensor]]


class Partitions(Protocol):
    """Access to what one ZeRO optimizer holds. Reading is a collective over the data-parallel ranks."""

    def parameter(self, parameter: nn.Parameter) -> Tensor:
        """The whole parameter."""
        ...

    def link(self) -> None:
        """Make moments readable, after an update."""
        ...

    def moment(self, parameter: nn.Parameter, moment: str) -> Tensor:
        """The whole moment."""
        ...

    def make_room(self, updates: int) -> None:
        """Give the optimizer zero moments, where it has made no update yet."""
        ...

    def load(self, parameter: nn.Parameter, value: Tensor, moment: str | None) -> None:
        """Keep this rank's partition of a whole tensor: of a moment, or of the parameter itself."""
        ...

    def publish(self) -> None:
        """Make the model's parameters those of the partitions."""
        ...


class _Shared:
    """What all stages do alike.

    Args:
        optimizer: DeepSpeed's, around the one that was given to it.
    """

    def __init__(self, optimizer: Any) -> None:  # noqa: ANN401
        self.optimizer = optimizer

    def moment(self, parameter: nn.Parameter, moment: str) -> Tensor:
        """The whole moment."""
        from deepspeed.utils import safe_get_full_optimizer_state

        whole: Tensor = safe_get_full_optimizer_state(parameter, moment)
        return whole

    def _make_room(self, partitions: list[Tensor], updates: int) -> None:
        """ZeRO makes flat moments at its first update: make them now."""
        inner = self.optimizer.optimizer
        in_torch = isinstance(inner, torch.optim.AdamW)
        for flat in partitions:
            room = {moment: torch.zeros_like(flat) for moment in MOMENTS}
            step = torch.tensor(float(updates), device=flat.device) if in_torch else updates
            inner.state[flat] = {"step": step, **room}
        if not in_torch:
            for group in inner.param_groups:
                group["step"] = updates


class OptimizerPartitions(_Shared):
    """Stages 1 and 2."""

    def parameter(self, parameter: nn.Parameter) -> Tensor:
        """The model's own: each rank has gathered it after the update, in float32, without a change."""
        return parameter.detach()

    def link(self) -> None:
        """Make every parameter's moments a part of its group's flat ones.

        DeepSpeed does so once, after the update of the first parameter group, when the others have no moments yet.
        """
        self.optimizer._hp_optimizer_states_linked = False
        self.optimizer._lazy_init_hp_params_optimizer_state()

    def make_room(self, updates: int) -> None:
        """Zero moments."""
        self._make_room(self.optimizer.single_partition_of_fp32_groups, updates)
        self.link()

    def load(self, parameter: nn.Parameter, value: Tensor, moment: str | None) -> None:
        """This rank's part of a whole tensor."""
        from deepspeed.utils import safe_set_full_fp32_param, safe_set_full_optimizer_state

        if moment is None:
            parameter.data.copy_(value)
            safe_set_full_fp32_param(parameter, value)
        else:
            safe_set_full_optimizer_state(parameter, value, moment)

    def publish(self) -> None:
        """Done when loading."""


class ParameterPartitions(_Shared):
    """Stage 3."""

    def parameter(self, parameter: nn.Parameter) -> Tensor:
        """Gathered."""
        from deepspeed.utils import safe_get_full_fp32_param

        whole: Tensor = safe_get_full_fp32_param(parameter)
        return whole

    def link(self) -> None:
        """Moments are looked up by position: nothing to do."""

    def make_room(self, updates: int) -> None:
        """Zero moments."""
        self._make_room(self.optimizer.fp32_partitioned_groups_flat, updates)

    def load(self, parameter: nn.Parameter, value: Tensor, moment: str | None) -> None:
        """This rank's part of a whole tensor, padded to a multiple of the ranks as DeepSpeed pads it.

        DeepSpeed's own setters of whole tensors cut past the end of one that the ranks do not divide.
        """
        from deepspeed.utils import safe_set_local_fp32_param, safe_set_local_optimizer_state

        part = parameter.ds_tensor.numel()  # type: ignore[attr-defined]
        flat = value.flatten()
        start = part * self.optimizer._get_param_partition_rank(parameter)
        own = flat[start : start + part]
        own = functional.pad(own, (0, part - own.numel()))
        if moment is None:
            safe_set_local_fp32_param(parameter, own)
        else:
            safe_set_local_optimizer_state(parameter, own, moment)

    def publish(self) -> None:
        """As after an update: partitions of parameters from those of the optimizer, persistent ones gathered."""
        self.optimizer._partition_all_parameters()
        for group in range(len(self.optimizer.fp16_groups)):
            self.optimizer._reassign_or_swap_out_partitioned_parameters(group)
        persistent = self.optimizer.persistent_parameters
        if persistent:
            persistent[0].all_gather(persistent)


PARTITIONS: dict[int, type[OptimizerPartitions | ParameterPartitions]] = {
    1: OptimizerPartitions,
    2: OptimizerPartitions,
    3: ParameterPartitions,
}
"""By ZeRO stage."""


def read_partitions(
    partitions: Partitions, parameters: Mapping[str, nn.Parameter], updates: int
) -> tuple[dict[str, Tensor], dict[str, dict[str, Tensor]]]:
    """Whole parameters and moments, by name, on the CPU, where there is room for them; no moments before the first
    update."""
    values = {name: partitions.parameter(parameter).cpu() for name, parameter in parameters.items()}
    if not updates:
        return values, {}
    partitions.link()
    moments = {
        moment: {name: partitions.moment(parameter, moment).cpu() for name, parameter in parameters.items()}
        for moment in MOMENTS
    }
    return values, moments


@torch.no_grad()
def write_partitions(
    partitions: Partitions,
    parameters: Mapping[str, nn.Parameter],
    updates: int,
    values: Mapping[str, Tensor],
    moments: Moments,
) -> None:
    """Take up what ``read_partitions`` returned, on any ranks and from any stage."""
    if moments:
        partitions.make_room(updates)
    for name, parameter in parameters.items():
        partitions.load(parameter, values[name].to(parameter.device), None)
        for moment, tensors in moments.items():
            partitions.load(parameter, tensors[name].to(parameter.device), moment)
    partitions.publish()
