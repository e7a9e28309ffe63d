"""A checkpoint as a DeepSpeed universal one, which any of its ZeRO stages loads on any number of ranks.

    OUT/latest_universal                          names the folder below
    OUT/global_step200_universal/
      mp_rank_00_model_states.pt                  counters; once more under the name that ZeRO 3 looks for
      zero/optimizer_state.pt                     what DeepSpeed's optimizer asks for as a whole
      zero/NAME/{fp32,exp_avg,exp_avg_sq,step}.pt one parameter: full tensor and the axis that tensor parallelism cuts

Load it with ``"checkpoint": {"load_universal": true}`` in DeepSpeed's configuration.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from shutil import rmtree
from typing import Any

import torch

from megadape.checkpoint.files import flush, write_text
from megadape.checkpoint.reading import MODEL, Checkpoint
from megadape.checkpoint.tensor_file import Stored
from megadape.errors import CheckpointError

MOMENTS = ("exp_avg", "exp_avg_sq")
GROUPS = 16
"""DeepSpeed pairs these with the parameter groups of its optimizer and stops at the shorter list."""

WRITTEN_BY = "0.19.8"
"""The DeepSpeed whose format this is."""


def write_universal(checkpoint: Checkpoint, out: Path) -> Path:
    """Write a checkpoint in DeepSpeed's universal form.

    Args:
        checkpoint: with Adam's moments.
        out: folder for ``load_checkpoint``; must hold no such checkpoint yet.

    Returns:
        The folder within it.

    Raises:
        CheckpointError: there are no moments, the folder is there already, or the disk refused.
    """
    missing = [moment for moment in MOMENTS if moment not in checkpoint.moments()]
    if missing:
        raise CheckpointError(
            f"{checkpoint.path} has no {' and no '.join(missing)}: DeepSpeed's universal form needs the moments of Adam"
        )
    updates = int(checkpoint.state().get("updates", checkpoint.step))
    final = out / f"global_step{checkpoint.step}_universal"
    partial = out / f".{final.name}.partial"
    if final.exists():
        raise CheckpointError(f"{final} is there already: remove it, or choose another folder")
    try:
        partial.mkdir(parents=True, exist_ok=True)
        _write_parameters(checkpoint, partial / "zero", updates)
        _save(_optimizer_state(updates), partial / "zero" / "optimizer_state.pt")
        for name in ("mp_rank_00_model_states.pt", "zero_pp_rank_0_mp_rank_00_model_states.pt"):
            _save(_model_states(checkpoint, updates), partial / name)
        partial.rename(final)
        flush(out)
        write_text(out / "latest_universal", final.name)
    except (OSError, RuntimeError) as error:  # torch's own writer raises the second kind
        raise CheckpointError(f"{final} could not be written: {error}") from error
    finally:
        rmtree(partial, ignore_errors=True)  # renamed, or of no use
    return final


def _write_parameters(checkpoint: Checkpoint, zero: Path, updates: int) -> None:
    for name, place in checkpoint.index.items():
        if place.kind != MODEL:
            continue
        sources = {"fp32": name, **{moment: f"{moment}/{name}" for moment in MOMENTS}}
        for file, source in sources.items():
            entry = {"param": checkpoint.read(source).float(), **_cut(place.tensor)}
            _save(entry, zero / name / f"{file}.pt")
        _save(torch.tensor(float(updates)), zero / name / "step.pt")


def _cut(stored: Stored) -> dict[str, int]:
    """How tensor parallelism cuts a tensor, in DeepSpeed's words."""
    if stored.shard_axis is None:
        return {}
    blocks = {"param_n_sub_params": stored.blocks} if stored.blocks > 1 else {}
    return {"cat_dim": stored.shard_axis, **blocks}


def _optimizer_state(updates: int) -> dict[str, Any]:
    """What all stages ask for. Learning rate, betas and decay are left out: those of the configuration hold."""
    groups = [{"step": updates} for _ in range(GROUPS)]
    inner = {"state": {0: {"step": torch.tensor(float(updates))}}, "param_groups": [{}]}
    return {"ds_version": WRITTEN_BY, "param_groups": groups, "optimizer_state_dict": inner}


def _model_states(checkpoint: Checkpoint, updates: int) -> Mapping[str, Any]:
    """Counters; parameters are not repeated here, since a universal load does not read them from it."""
    samples = checkpoint.state().get("progress", {}).get("consumed_samples", 0)
    return {
        "module": {},
        "global_steps": updates,
        "global_samples": samples,
        "skipped_steps": 0,
        "dp_world_size": 1,
        "mp_world_size": 1,
        "lr_scheduler": {"last_batch_iteration": updates, "last_epoch": updates},
        "universal_checkpoint_info": {"universal_checkpoint_version": 0.2},
        "ds_version": WRITTEN_BY,
    }


def _save(content: object, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        torch.save(content, path)
    except RuntimeError as error:  # what torch makes of a full disk
        raise OSError(str(error)) from error
    flush(path)
