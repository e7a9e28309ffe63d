"""All checks, in the order in which they are made: what others need comes first.

To add one: write its function beside those of its group, and enter it here.
"""

from __future__ import annotations

from megadape.doctor.base import Check
from megadape.doctor.compilers import look_at_compiler, look_at_extensions, look_at_ninja
from megadape.doctor.folders import look_at_run_folder
from megadape.doctor.gpus import look_at_gpus
from megadape.doctor.limits import look_at_disk, look_at_memory, look_at_open_files, look_at_shared_memory
from megadape.doctor.packages import (
    look_at_apex,
    look_at_deepspeed,
    look_at_optional_packages,
    look_at_packages,
    look_at_python,
    look_at_torch,
)
from megadape.doctor.processor import look_at_attention, look_at_processor, look_at_threads
from megadape.doctor.ranks import look_at_gloo
from megadape.doctor.steps import look_at_deepspeed_training, look_at_training

CHECKS: tuple[Check, ...] = (
    Check("python", look_at_python),
    Check("packages", look_at_packages),
    Check("optional packages", look_at_optional_packages),
    Check("compiler", look_at_compiler, seconds=120),
    Check("ninja", look_at_ninja),
    Check("processor", look_at_processor),
    Check("threads", look_at_threads),
    Check("memory", look_at_memory),
    Check("shared memory", look_at_shared_memory),
    Check("open files", look_at_open_files),
    Check("disk", look_at_disk),
    Check("run folder", look_at_run_folder),
    Check("torch", look_at_torch, seconds=120),
    Check("gpus", look_at_gpus, seconds=120, needs=("torch",)),
    Check("apex", look_at_apex, seconds=60, needs=("torch",)),
    Check("compiled extensions", look_at_extensions, needs=("torch",)),
    Check("attention", look_at_attention, seconds=120, needs=("torch",)),
    Check("gloo", look_at_gloo, seconds=150, needs=("torch",)),
    Check("training", look_at_training, seconds=180, needs=("torch",)),
    Check("deepspeed", look_at_deepspeed, seconds=120, needs=("torch",)),
    Check("deepspeed training", look_at_deepspeed_training, seconds=300, needs=("torch", "deepspeed", "training")),
)
