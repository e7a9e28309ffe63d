"""DeepSpeed's own configuration: what megadape sets in it, and what a user may add."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from megadape.training.engines.deepspeed_keys import check_user_config

if TYPE_CHECKING:  # training's settings read what the user adds with this module
    from megadape.parallel.settings import ParallelSettings
    from megadape.training.settings import TrainingSettings


def read_user_config(value: object) -> object:
    """What a user adds to DeepSpeed's configuration: checked, and read where it is the path of a JSON file.

    Raises:
        ValueError: naming the file, the key and what to do.
    """
    if isinstance(value, Mapping):
        check_user_config(value, "")
        return value
    if not isinstance(value, str | Path):
        return value
    try:
        content = json.loads(Path(value).read_text(encoding="utf-8"), object_pairs_hook=_without_repeats)
    except OSError as error:
        raise ValueError(f"{value} cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{value} is not JSON: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{value} must hold one JSON object, not {type(content).__name__}")
    check_user_config(content, f"{value}: ")
    return content


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) < len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"key {next(key for key in keys if keys.count(key) > 1)} stands there twice")
    return content


def engine_config(
    training: TrainingSettings, parallel: ParallelSettings, ranks: int, *, pinned: bool
) -> dict[str, Any]:
    """The whole configuration for DeepSpeed's engines.

    Args:
        training: batches, clipping, and what the user adds.
        parallel: ZeRO's stage and offload.
        ranks: data-parallel ones.
        pinned: whether host memory of an offloaded optimizer is page-locked (where there is an accelerator).
    """
    user = dict(training.deepspeed or {})
    # memory_efficient_linear would replace torch.nn.functional.linear for the whole process
    zero = {"stage": parallel.zero, "memory_efficient_linear": False, **user.pop("zero_optimization", {})}
    if parallel.offload_optimizer:
        zero["offload_optimizer"] = {"device": "cpu", "pin_memory": pinned}
    return {
        "train_batch_size": training.global_batch_size,
        "train_micro_batch_size_per_gpu": training.micro_batch_size,
        "gradient_accumulation_steps": training.global_batch_size // (training.micro_batch_size * ranks),
        # at stage 0 DeepSpeed clips by a norm that it keeps to itself: the engine does it instead
        "gradient_clipping": training.optimizer.clip if parallel.zero else 0.0,
        "zero_optimization": zero,
        "zero_allow_untested_optimizer": True,
        # torch's own AdamW on the CPU: DeepSpeed's would be compiled at the start of the run
        "zero_force_ds_cpu_optimizer": False,
        "steps_per_print": 10**9,
        **user,
    }
