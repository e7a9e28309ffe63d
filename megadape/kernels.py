"""Which kernels normalise and update: torch's, or those of apex or DeepSpeed where they are asked for.

A candidate is there if its very symbol can be imported and its compiled part with it: a package of the right name
proves nothing (``apex`` on PyPI is a web framework's login form). What is asked for and not there is an error that says
what was looked for; nothing else takes its place. ``auto`` takes the first that is there: apex, which nobody builds by
chance, then torch; DeepSpeed's optimizers are compiled at their first use, which takes a minute, and only on request.
"""

from __future__ import annotations

import importlib
import importlib.util
import logging
import shutil
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, Literal, NamedTuple, TypeVar

import torch
from torch import Tensor
from torch.nn import functional

from megadape.adamw import build_adamw
from megadape.errors import ConfigurationError
from megadape.settings import Settings

Choice = Literal["torch", "apex", "deepspeed", "auto"]
LayerNorm = Callable[[Tensor, Sequence[int], Tensor, Tensor, float], Tensor]
"""(x, normalised shape, weight, bias, eps) -> normalised."""
BuildOptimizer = Callable[[Iterable[dict[str, Any]], float, tuple[float, float], float], torch.optim.Optimizer]
"""(parameter groups with their weight decay, learning rate, betas, eps) -> AdamW."""
T = TypeVar("T")

STALE_SECONDS = 600.0
"""A compile that has written nothing for so long is not going on."""

logger = logging.getLogger(__name__)


class KernelSettings(Settings):
    """Implementations of what torch has, too."""

    layer_norm: Choice = "torch"
    """torch; apex: FusedLayerNorm (NVIDIA GPUs); auto: apex where it is installed, else torch."""

    optimizer: Choice = "torch"
    """AdamW of torch (fused); of apex: FusedAdam (NVIDIA GPUs); of deepspeed: FusedAdam on GPUs, DeepSpeedCPUAdam on
    CPUs, compiled at first use; auto: apex where it is installed, else torch."""


@dataclass(frozen=True)
class Kernels:
    """What was chosen."""

    layer_norm: LayerNorm
    layer_norm_name: str
    optimizer: BuildOptimizer
    optimizer_name: str

    @property
    def names(self) -> dict[str, str]:
        """Whose they are, for the record."""
        return {"layer_norm": self.layer_norm_name, "optimizer": self.optimizer_name}


@dataclass(frozen=True)
class Candidate(Generic[T]):
    """One implementation: whose it is, why it cannot be used on a device (None: it can), and how to get it."""

    name: str
    problem: Callable[[torch.device], str | None]
    load: Callable[[torch.device], T]


def choose_kernels(
    settings: KernelSettings, device: torch.device, update_device: torch.device | None = None
) -> Kernels:
    """The kernels that the settings name, proved to be there; says which in the log.

    Args:
        settings: what is asked for.
        device: of the model.
        update_device: where the optimizer works, if elsewhere (offloaded to the CPU).

    Raises:
        ConfigurationError: what is asked for is not there; says what was looked for and how to get it.
    """
    norm = _choose("kernels.layer_norm", settings.layer_norm, LAYER_NORMS, device)
    optimizer = _choose("kernels.optimizer", settings.optimizer, OPTIMIZERS, update_device or device)
    logger.info("kernels: layer norm of %s, optimizer of %s", norm.name, optimizer.name)
    return Kernels(norm.load(device), norm.name, optimizer.load(update_device or device), optimizer.name)


def _choose(key: str, choice: Choice, candidates: Sequence[Candidate[T]], device: torch.device) -> Candidate[T]:
    if choice == "auto":
        return next(each for each in candidates if each.problem(device) is None)
    chosen = next(each for each in candidates if each.name == choice)
    if problem := chosen.problem(device):
        raise ConfigurationError(f"{key}: {choice} cannot be used: {problem}; or set it to torch or auto")
    return chosen


def _always(device: torch.device) -> None:
    """Torch is there."""


def _symbol(module: str, name: str) -> Any:  # noqa: ANN401
    return getattr(importlib.import_module(module), name)


APEX_PARTS = (
    ("apex.normalization.fused_layer_norm", "fused_layer_norm_affine", "fused_layer_norm_cuda"),
    ("apex.optimizers", "FusedAdam", "amp_C"),
)
"""What is used of it: module, name, and the compiled extension behind it."""

APEX = "build NVIDIA's apex with its C++ and CUDA extensions from https://github.com/NVIDIA/apex (it is not on PyPI)"


class Lack(NamedTuple):
    """What is not there as it should be."""

    seen: str
    remedy: str


def find_apex(module: str, name: str, extension: str) -> Lack | None:
    """Whether a function of NVIDIA's apex and the compiled extension that it needs are there; None: they are."""
    found = importlib.util.find_spec("apex")
    if found is None:
        return Lack(f"looked for {module}.{name} and no package apex is installed", APEX)
    folders = [Path(folder) for folder in found.submodule_search_locations or ()]
    below = module.split(".")[1]
    if not any((folder / below).is_dir() or (folder / f"{below}.py").is_file() for folder in folders):
        where = folders[0] if folders else found.origin
        return Lack(
            f"looked for {module}.{name}, but the package apex in {where} is another one, not NVIDIA's, which is "
            f"unrelated to it and has no apex.{below}",
            f"pip uninstall apex, then {APEX}",
        )
    try:
        _symbol(module, name)
        importlib.import_module(extension)
    except (ImportError, AttributeError) as error:
        return Lack(f"apex is installed, but {module}.{name} with its extension {extension} is not ({error})", APEX)
    return None


def _apex_problem(module: str, name: str, extension: str) -> Callable[[torch.device], str | None]:
    """Why a function of NVIDIA's apex cannot be used on a device."""

    def problem(device: torch.device) -> str | None:
        if device.type != "cuda":
            return f"apex works on NVIDIA GPUs and this is {device.type}"
        lack = find_apex(module, name, extension)
        return None if lack is None else f"{lack.seen}: {lack.remedy}"

    return problem


def _no_deepspeed_norm(device: torch.device) -> str:
    return "DeepSpeed has a layer norm for inference alone, which gives no gradient"


def _deepspeed_problem(device: torch.device) -> str | None:
    """Why DeepSpeed's optimizer for a device cannot be compiled here."""
    if importlib.util.find_spec("deepspeed") is None:
        return "looked for deepspeed.ops.adam and no package deepspeed is installed: pip install deepspeed==0.19.8"
    op = _DEEPSPEED_OPS[device.type == "cuda"]
    missing = [tool for tool in ("g++", "ninja") if shutil.which(tool) is None]
    if device.type == "cuda" and _symbol("torch.utils.cpp_extension", "CUDA_HOME") is None:
        missing.append("nvcc (CUDA_HOME)")
    if missing:
        return f"DeepSpeed compiles its {op} at first use, and {' and '.join(missing)} is not there: install it"
    return _lock_problem(op)


_DEEPSPEED_OPS = ("cpu_adam", "fused_adam")


def _lock_problem(op: str) -> str | None:
    """A compile that was killed leaves its lock, and everybody after it would wait for ever, without a word."""
    folder = Path(_symbol("torch.utils.cpp_extension", "_get_build_directory")(op, False))
    lock = folder / "lock"
    if not lock.exists():
        return None
    idle = time.time() - max(file.stat().st_mtime for file in folder.iterdir())
    if idle > STALE_SECONDS:
        return f"the compile of its {op} was killed and left {lock}, for which every run would wait for ever: delete it"
    logger.warning("another process compiles %s; if none does, this waits for ever: then delete %s", op, lock)
    return None


def _torch_norm(device: torch.device) -> LayerNorm:
    return functional.layer_norm


def _apex_norm(device: torch.device) -> LayerNorm:
    function = _symbol("apex.normalization.fused_layer_norm", "fused_layer_norm_affine")
    return lambda x, shape, weight, bias, eps: function(x, weight, bias, tuple(shape), eps)


def _torch_optimizer(device: torch.device) -> BuildOptimizer:
    return build_adamw


def _apex_optimizer(device: torch.device) -> BuildOptimizer:
    fused = _symbol("apex.optimizers", "FusedAdam")
    return lambda groups, lr, betas, eps: fused(groups, lr=lr, betas=betas, eps=eps, adam_w_mode=True)


def _deepspeed_optimizer(device: torch.device) -> BuildOptimizer:
    if device.type == "cuda":
        fused = _symbol("deepspeed.ops.adam", "FusedAdam")
        return lambda groups, lr, betas, eps: fused(groups, lr=lr, betas=betas, eps=eps, adam_w_mode=True)
    on_cpu = _symbol("deepspeed.ops.adam", "DeepSpeedCPUAdam")
    return lambda groups, lr, betas, eps: on_cpu(groups, lr=lr, betas=betas, eps=eps, adamw_mode=True)


LAYER_NORMS: tuple[Candidate[LayerNorm], ...] = (
    Candidate("apex", _apex_problem(*APEX_PARTS[0]), _apex_norm),
    Candidate("torch", _always, _torch_norm),
    Candidate("deepspeed", _no_deepspeed_norm, _torch_norm),
)
"""In the order in which ``auto`` asks."""

OPTIMIZERS: tuple[Candidate[BuildOptimizer], ...] = (
    Candidate("apex", _apex_problem(*APEX_PARTS[1]), _apex_optimizer),
    Candidate("torch", _always, _torch_optimizer),
    Candidate("deepspeed", _deepspeed_problem, _deepspeed_optimizer),
)
"""In the order in which ``auto`` asks."""
