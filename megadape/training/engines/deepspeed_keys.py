"""The keys of DeepSpeed's configuration (0.19.8): which pass, which another setting decides, which are refused.

They stand in a table of our own, so that a mistake is found when settings are read, without importing DeepSpeed, which
itself takes an unknown key at the top level without a word. A test compares the table with what DeepSpeed reads.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from typing import Any

PASSED_IN: dict[str, tuple[str, ...]] = {
    "": (
        "steps_per_print",
        "log_level",
        "dump_state",
        "disable_python_gc",
        "wall_clock_breakdown",
        "memory_breakdown",
        "communication_data_type",
        "prescale_gradients",
        "gradient_predivide_factor",
    ),
    "comms_logger": (
        "enabled",
        "verbose",
        "prof_all",
        "prof_ops",
        "debug",
    ),
    "flops_profiler": (
        "enabled",
        "profile_step",
        "module_depth",
        "top_modules",
        "detailed",
        "output_file",
        "recompute_fwd_factor",
    ),
    "timers.throughput": (
        "enabled",
        "synchronized",
    ),
    "tensorboard": (
        "enabled",
        "output_path",
        "job_name",
    ),
    "wandb": (
        "enabled",
        "group",
        "team",
        "project",
    ),
    "csv_monitor": (
        "enabled",
        "output_path",
        "job_name",
    ),
    "comet": (
        "enabled",
        "samples_log_interval",
        "project",
        "workspace",
        "experiment_name",
        "experiment_key",
        "online",
        "mode",
    ),
    "zero_optimization": (
        "contiguous_gradients",
        "reduce_scatter",
        "reduce_bucket_size",
        "use_multi_rank_bucket_allreduce",
        "allgather_partitions",
        "allgather_bucket_size",
        "overlap_comm",
        "sub_group_size",
        "ignore_unused_parameters",
        "round_robin_gradients",
        "parameter_alignment",
        "log_trace_cache_warnings",
        "enable_sanity_checks",
        "stage3_prefetch_bucket_size",
        "stage3_param_persistence_threshold",
        "stage3_model_persistence_threshold",
        "stage3_max_live_parameters",
        "stage3_max_reuse_distance",
        "stage3_use_all_reduce_for_fetch_params",
        "stage3_allgather_sequential",
        "prefetch_bucket_size",
        "param_persistence_threshold",
        "model_persistence_threshold",
        "max_live_parameters",
        "max_reuse_distance",
        "use_all_reduce_for_fetch_params",
        "allgather_sequential",
    ),
}
"""Section -> its keys that go to DeepSpeed as they are; the section without a name is the top."""

PASSED = frozenset(f"{section}.{key}" if section else key for section, keys in PASSED_IN.items() for key in keys)

SECTIONS = PASSED_IN.keys() - {""} | {"timers"}
"""What is a mapping, not a value."""

_CHECKPOINT = "checkpoint, which holds whole tensors that any layout can load,"
_DATA = "data"
_PRECISION = "training.precision"

OWNED: dict[str, str] = {
    "train_batch_size": "training.global_batch_size",
    "train_micro_batch_size_per_gpu": "training.micro_batch_size",
    "gradient_accumulation_steps": "training.global_batch_size with training.micro_batch_size",
    "managed_gradient_accumulation": "training.global_batch_size with training.micro_batch_size",
    "gradient_allreduce_op": "the loss, a mean over training.global_batch_size,",
    "gradient_clipping": "training.optimizer.clip",
    "optimizer": "training.optimizer",
    "scheduler": "training.schedule",
    "zero_allow_untested_optimizer": "training.optimizer",
    "zero_force_ds_cpu_optimizer": "parallel.offload_optimizer",
    "fp16": _PRECISION,
    "bf16": _PRECISION,
    "bfloat16": _PRECISION,
    "torch_autocast": _PRECISION,
    "data_types": _PRECISION,
    "vocabulary_size": "model.vocab_size",
    "tensor_parallel": "parallel.tp",
    "sequence_parallel_size": "parallel.sequence_parallel",
    "seq_parallel_communication_data_type": "parallel.sequence_parallel",
    "pipeline": "parallel.pp with parallel.partition and parallel.schedule",
    "activation_checkpointing": "training.activation_checkpointing",
    "checkpoint": _CHECKPOINT,
    "datastates_ckpt": _CHECKPOINT,
    "dataloader_drop_last": _DATA,
    "data_efficiency": _DATA,
    "zero_optimization.stage": "parallel.zero",
    "zero_optimization.offload_optimizer": "parallel.offload_optimizer",
    "zero_optimization.cpu_offload": "parallel.offload_optimizer",
    "zero_optimization.cpu_offload_use_pin_memory": "parallel.offload_optimizer",
    "zero_optimization.compute_grad_norm": "training.optimizer.clip, which needs the norm,",
    "zero_optimization.load_from_fp32_weights": _CHECKPOINT,
    "zero_optimization.elastic_checkpoint": _CHECKPOINT,
    "zero_optimization.pipeline_loading_checkpoint": _CHECKPOINT,
    "zero_optimization.stage3_gather_16bit_weights_on_model_save": _CHECKPOINT,
    "zero_optimization.gather_16bit_weights_on_model_save": _CHECKPOINT,
    "zero_optimization.stage3_gather_fp16_weights_on_model_save": _CHECKPOINT,
    "zero_optimization.leaf_module": "parallel.zero: 3, which gathers whole blocks,",
    "zero_optimization.stage3_module_granularity_threshold": "parallel.zero: 3, which gathers whole blocks,",
    "zero_optimization.module_granularity_threshold": "parallel.zero: 3, which gathers whole blocks,",
}
"""Key -> the setting that decides it."""

_NO_EXPERTS = "the models have no experts"
_NOT_EXACT = "it rounds what ranks exchange, so that layouts would no longer agree"
_NOT_HERE = "training does not use it"
_NOWHERE = "DeepSpeed 0.19.8 reads it and does nothing with it"
_REMOVED = "DeepSpeed 0.19.8 has removed it"
_PARAMETERS_STAY = "parameters stay on their device; use parallel.zero: 3, parallel.tp or parallel.pp to spread them"

REFUSED: dict[str, str] = {
    "disable_allgather": _NOWHERE,
    "expert_parallel": _NO_EXPERTS,
    "use_data_before_expert_parallelism": _NO_EXPERTS,
    "weight_quantization": _NOT_EXACT,
    "hybrid_engine": _NOT_HERE,
    "autotuning": _NOT_HERE,
    "compile": _NOT_HERE,
    "aio": _PARAMETERS_STAY,
    "comet.api_key": "a secret does not belong into settings; set COMET_API_KEY in the environment",
    "zero_optimization.offload_param": _PARAMETERS_STAY,
    "zero_optimization.cpu_offload_param": _PARAMETERS_STAY,
    "zero_optimization.zenflow": "its updates come late, so that it trains another way than every other engine",
    "zero_optimization.zero_hpz_partition_size": "checkpoints do not know its second partition",
    "zero_optimization.zero_quantized_weights": _NOT_EXACT,
    "zero_optimization.zero_quantized_nontrainable_weights": _NOT_EXACT,
    "zero_optimization.zero_quantized_gradients": _NOT_EXACT,
    "zero_optimization.memory_efficient_linear": "it replaces torch's linear function for the whole process",
    "zero_optimization.override_module_apply": _NOT_HERE,
    "zero_optimization.legacy_stage1": _REMOVED,
    "zero_optimization.save_muon_momentum_buffer_in_memory": "the optimizer is AdamW",
    "nebula": _REMOVED,
    "compression_training": _REMOVED,
    "amp": _REMOVED,
    "quantize_training": _REMOVED,
    "sparse_gradients": _REMOVED,
    "eigenvalue": _REMOVED,
    "sparse_attention": _REMOVED,
    "elasticity": _REMOVED,
    "graph_harvesting": _REMOVED,
    "curriculum_learning": _REMOVED,
    "progressive_layer_drop": _REMOVED,
    "zero_optimization.mics_shard_size": _REMOVED,
    "zero_optimization.mics_hierarchical_params_gather": _REMOVED,
    "zero_optimization.zeropp_loco_param": _REMOVED,
}
"""Key -> why not."""


def check_user_config(config: Mapping[str, Any], where: str) -> None:
    """Raise ``ValueError`` at the first key that is unknown, that another setting decides, or that does not work here.

    Args:
        config: DeepSpeed's configuration, or a part of it.
        where: put before the message.
    """
    for key in _keys(config, ""):
        if key in OWNED:
            raise ValueError(f"{where}{key} is decided by {OWNED[key]} of the settings: leave it out here")
        if key in REFUSED:
            raise ValueError(f"{where}{key} is refused: {REFUSED[key]}")
        if key in SECTIONS:
            raise ValueError(f"{where}{key} must be a mapping")
        if key not in PASSED:
            raise ValueError(f"{where}unknown key {key}; {_hint(key)}")


def _keys(config: Mapping[str, Any], prefix: str) -> Iterator[str]:
    """Dotted keys of everything that is no known section with content."""
    for name, value in config.items():
        key = f"{prefix}{name}"
        if key in SECTIONS and isinstance(value, Mapping):
            yield from _keys(value, f"{key}.")
        else:
            yield key


def _hint(key: str) -> str:
    """The key that may have been meant: like it beside it, of the same name elsewhere, or like it elsewhere."""
    section, _, name = key.rpartition(".")
    sections: dict[str, list[str]] = {}
    for known in sorted(PASSED | OWNED.keys() | SECTIONS):
        where, _, leaf = known.rpartition(".")
        sections.setdefault(leaf, []).append(where)
    beside = [leaf for leaf, places in sections.items() if section in places]
    near = difflib.get_close_matches(name, beside, n=1)
    if near:
        return f"did you mean {f'{section}.{near[0]}' if section else near[0]}?"
    near = difflib.get_close_matches(name, sections, n=1, cutoff=0.75)
    meant = [f"{where}.{leaf}" if where else leaf for leaf in near for where in sections[leaf]]
    return f"did you mean {' or '.join(meant)}?" if meant else "see https://www.deepspeed.ai/docs/config-json/"
