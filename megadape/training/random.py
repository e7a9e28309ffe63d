"""The random streams of a rank: dropout and drawn positions."""

from __future__ import annotations

import base64

import torch

from megadape.parameters import seed_of


def seed_streams(seed: int, rank: int) -> None:
    """Start torch's streams from (seed, rank)."""
    torch.manual_seed(seed_of(seed, f"rank {rank}"))


def random_state(device: torch.device) -> dict[str, str]:
    """The state of torch's streams, as text."""
    state = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        state["cuda"] = torch.cuda.get_rng_state(device)
    return {name: base64.b64encode(value.numpy().tobytes()).decode() for name, value in state.items()}


def restore_random_state(state: dict[str, str], device: torch.device) -> None:
    """Take up what ``random_state`` returned; a stream of a device that is not here is left out."""
    streams = {
        name: torch.frombuffer(bytearray(base64.b64decode(text)), dtype=torch.uint8) for name, text in state.items()
    }
    torch.set_rng_state(streams["cpu"])
    if device.type == "cuda" and "cuda" in streams:
        torch.cuda.set_rng_state(streams["cuda"], device)
