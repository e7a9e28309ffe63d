"""What a run asks of a GPU's libraries: said once, written into provenance.json, left to nobody's defaults."""

from __future__ import annotations

import importlib.util
import logging
import os
import shutil

import torch

from megadape.errors import ConfigurationError

logger = logging.getLogger(__name__)

ALLOCATOR_VARIABLES = ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF")
"""Where torch's allocator looks for its settings, by the new name and the old one."""

ALLOCATOR = "expandable_segments:True"
"""Segments that grow in place: other shapes (a validation, a last micro-batch) leave no holes that nothing fits."""


def prepare_allocator() -> None:
    """Choose the GPU allocator's settings, unless the environment has; before anything is allocated there."""
    if not any(name in os.environ for name in ALLOCATOR_VARIABLES):
        os.environ[ALLOCATOR_VARIABLES[0]] = ALLOCATOR


def prepare_products(device: torch.device) -> dict[str, str]:
    """Make float32 mean float32 in matrix products, and say how a GPU is used; nothing on a CPU.

    Half precision comes from ``training.precision`` alone. What is float32 beside it (the mixer's scores where a
    backend wants them, norms, the loss) must not turn into TF32 by somebody's default.
    """
    if device.type != "cuda":
        return {}
    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.allow_tf32 = False
    allocator = next((os.environ[name] for name in ALLOCATOR_VARIABLES if name in os.environ), "torch's default")
    facts = {"gpu": torch.cuda.get_device_name(device), "float32_products": "float32", "allocator": allocator}
    logger.info("GPU: %s", ", ".join(f"{key} {value}" for key, value in facts.items()))
    return facts


def check_compiler(device: torch.device) -> None:
    """Raise ``ConfigurationError`` unless what torch.compile needs for a device is there."""
    compiler = os.environ.get("CXX", "g++") if device.type == "cpu" else os.environ.get("CC", "gcc")
    missing = [] if shutil.which(compiler) else [f"the compiler {compiler}"]
    if device.type == "cuda" and importlib.util.find_spec("triton") is None:
        missing.append("the package triton")
    if missing:
        raise ConfigurationError(
            f"training.compile is true, but torch.compile needs {' and '.join(missing)} for {device.type}, which is "
            "not there: install it, or set training.compile: false"
        )
