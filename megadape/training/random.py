"""The random streams of a rank: dropout and drawn positions."""

from __future__ import annotations

import base64

import torch
from torch import Tensor

from megadape.model import PositionStreams
from megadape.parallel.mesh import Mesh
from megadape.parameters import seed_of


def seed_streams(seed: int, mesh: Mesh, positions: PositionStreams) -> None:
    """Start torch's stream and the one of positions.

    Ranks that share layers by tensor parallelism draw alike, stages and data-parallel ranks each for themselves; all
    ranks of one model draw the same positions.
    """
    torch.manual_seed(seed_of(seed, f"data rank {mesh.data_rank}, stage {mesh.pp.rank}"))
    positions.seed(seed_of(seed, f"positions of data rank {mesh.data_rank}"))


def random_state(device: torch.device, positions: PositionStreams) -> dict[str, str]:
    """The state of all streams, as text."""
    state = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        state["cuda"] = torch.cuda.get_rng_state(device)
    drawn = positions.state()
    if drawn is not None:
        state["positions"] = drawn
    return {name: base64.b64encode(value.numpy().tobytes()).decode() for name, value in state.items()}


def restore_random_state(state: dict[str, str], device: torch.device, positions: PositionStreams) -> None:
    """Take up what ``random_state`` returned; a stream of a device that is not here is left out."""
    streams = {name: _read(text) for name, text in state.items()}
    torch.set_rng_state(streams["cpu"])
    if device.type == "cuda" and "cuda" in streams:
        torch.cuda.set_rng_state(streams["cuda"], device)
    if "positions" in streams:
        positions.load(streams["positions"])


def _read(text: str) -> Tensor:
    return torch.frombuffer(bytearray(base64.b64decode(text)), dtype=torch.uint8)
