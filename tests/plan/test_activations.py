"""Activation bytes of the plan: tensor by tensor what autograd keeps, and at the peak what the process has resident."""

from __future__ import annotations

import ctypes
import gc
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from megadape.model import build_gpt
from megadape.parallel.settings import ParallelSettings
from megadape.plan.activations import kept_by_block, kept_weights, peak_activations
from megadape.plan.run import PlannedRun
from megadape.plan.shape import Shape, keeps_pairs, shape_of
from megadape.testing import run_distributed

VOCABULARY = 512


def planned_run(
    layers: int, batch: int, length: int, width: int, positions: str, mixer: str, **more: Any
) -> PlannedRun:
    words = more.pop("vocabulary", VOCABULARY)
    model = {"num_layers": layers, "hidden_size": width, "num_heads": 4, "vocab_size": words}
    training = {"steps": 1, "sequence_length": length, "global_batch_size": batch, "micro_batch_size": batch}
    for key, value in more.items():
        (model if key in ("dropout", "attention_backend") else training)[key] = value
    tree = {"model": model, "training": training, "positions": {"kind": positions}, "mixer": {"kind": mixer}}
    return PlannedRun.model_validate(tree)


def forward(run: PlannedRun, model: Any, batch: int, length: int) -> Tensor:
    tokens = torch.randint(0, VOCABULARY, (batch, length + 1))
    with torch.autocast("cpu", torch.bfloat16, enabled=run.training.precision == "bf16"):
        return model.loss(tokens)


def saved_bytes(layers: int, *arguments: Any, **more: Any) -> int:
    """Bytes behind all tensors that autograd saves, parameters left out."""
    run = planned_run(layers, *arguments, **more)
    model = build_gpt(run.architecture, seed=0).train()
    own = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    kept: dict[int, Tensor] = {}

    def keep(x: Tensor) -> Tensor:
        kept[x.untyped_storage().data_ptr()] = x
        return x

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
        loss = forward(run, model, run.training.micro_batch_size, run.training.sequence_length)
    assert loss.requires_grad
    return sum(x.untyped_storage().nbytes() for address, x in kept.items() if address not in own)


@pytest.mark.parametrize(
    ("positions", "mixer", "more"),
    [
        ("rope", "none", {}),
        ("rope", "none", {"precision": "bf16"}),
        ("kerple_log", "none", {"attention_backend": "tiled"}),
        ("kerple_log", "dape", {"attention_backend": "tiled"}),
        ("kerple_log", "dape", {"attention_backend": "tiled", "precision": "bf16"}),
        ("fire", "dape", {"attention_backend": "tiled"}),
        ("kerple_log", "dape", {"attention_backend": "reference"}),
        ("kerple_log", "dape", {"attention_backend": "reference", "precision": "bf16"}),
        ("kerple_log", "none", {"attention_backend": "reference"}),
        ("cope", "none", {"attention_backend": "reference"}),
        ("cope", "dape", {"attention_backend": "reference"}),
    ],
)
def test_a_block_keeps_what_autograd_saves(positions: str, mixer: str, more: dict[str, Any]) -> None:
    """What one more block saves, to 4 %: indices and the like are not listed."""
    arguments = (2, 192, 128, positions, mixer)
    block = saved_bytes(2, *arguments, **more) - saved_bytes(1, *arguments, **more)
    run = planned_run(1, *arguments, **more)
    shape, pairs = shape_of(run, run.architecture), more.get("attention_backend") == "reference"
    parts = [*kept_by_block(shape, pairs=pairs), *kept_weights(shape)]
    assert sum(part.bytes for part in parts) == pytest.approx(block, rel=0.04)


def resident(key: str) -> int:
    return int(Path("/proc/self/status").read_text().partition(f"{key}:")[2].split()[0]) * 1024


def measure_peak(arguments: tuple[Any, ...], more: dict[str, Any]) -> int:
    """Resident bytes that a forward and backward pass adds at its peak, gradients being there already."""
    library = ctypes.CDLL(None)
    for option in (-1, -3):  # M_TRIM_THRESHOLD, M_MMAP_THRESHOLD of malloc.h: what is freed goes back at once
        library.mallopt(option, 1 << 16)
    run = planned_run(*arguments, **more)
    training = run.training
    checkpointing = training.activation_checkpointing
    model = build_gpt(
        run.architecture, seed=0, activation_checkpointing=checkpointing, loss_chunk=training.loss_chunk
    ).train()
    forward(run, model, 1, 32).backward()
    gc.collect()
    library.malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")  # VmHWM starts anew
    before = resident("VmRSS")
    forward(run, model, training.micro_batch_size, training.sequence_length).backward()
    return resident("VmHWM") - before


@pytest.mark.parametrize(
    ("arguments", "more"),
    [
        ((6, 4, 512, 256, "rope", "none"), {}),
        ((6, 4, 512, 256, "kerple_log", "dape"), {}),
        ((12, 4, 512, 256, "kerple_log", "dape"), {"activation_checkpointing": True}),
        ((2, 4, 384, 256, "kerple_log", "dape"), {"attention_backend": "reference"}),
        ((3, 4, 384, 256, "rope", "none"), {"precision": "bf16"}),
        ((1, 4, 512, 256, "rope", "none"), {"vocabulary": 20000, "loss_chunk": 512}),
        ((1, 4, 512, 256, "rope", "none"), {"vocabulary": 20000, "loss_chunk": 512, "precision": "bf16"}),
    ],
    ids=[
        *("rope", "dape", "dape with checkpointing", "dape with pair tensors", "rope in bf16"),
        *("loss in chunks", "loss in chunks in bf16"),
    ],
)
def test_the_peak_is_within_a_fifth_of_what_a_process_has_resident(
    arguments: tuple[Any, ...], more: dict[str, Any]
) -> None:
    """A training pass in a process of its own: about four seconds each."""
    run = planned_run(*arguments, **more)
    pairs = more.get("attention_backend") == "reference"
    estimate = peak_activations(shape_of(run, run.architecture), arguments[0], pairs=pairs).total
    (measured,) = run_distributed(1, measure_peak, arguments, more)
    assert measured > 50e6
    assert estimate == pytest.approx(measured, rel=0.2)


def shape(**more: Any) -> Shape:
    return Shape(4, 1024, 512, 2048, 8, 32000, **more)


def test_linear_attention_grows_with_the_length_and_pairs_with_its_square() -> None:
    def block(length: int, pairs: bool) -> int:
        long = Shape(1, length, 512, 2048, 8, 32000, encoding_bias=True, mixer_hidden=32)
        return sum(part.bytes for part in kept_by_block(long, pairs=pairs))

    assert block(8192, pairs=False) == pytest.approx(4 * block(2048, pairs=False), rel=0.01)
    assert block(65536, pairs=True) > 15 * block(16384, pairs=True)


def test_what_each_choice_saves() -> None:
    whole = peak_activations(shape(), 12).total
    assert peak_activations(shape(tp=4), 12).total < whole
    assert peak_activations(shape(tp=4, split=True), 12).total < peak_activations(shape(tp=4), 12).total
    assert peak_activations(shape(checkpointing=True), 12).blocks < whole / 20
    assert peak_activations(shape(product=2), 12).total < whole
    assert peak_activations(shape(dropout=True), 12).total > whole


def test_micro_batches_in_flight_multiply_what_blocks_keep() -> None:
    one = peak_activations(shape(), 12, last=False)
    four = peak_activations(shape(), 12, last=False, in_flight=4)
    assert four.blocks == 4 * one.blocks
    assert four.passing == one.passing


def test_which_settings_keep_pairs() -> None:
    arguments = (1, 1, 64, 32)

    def keeps(positions: str, mixer: str, **more: Any) -> bool:
        run = planned_run(*arguments, positions, mixer, **more)
        return keeps_pairs(run, run.architecture)

    assert not keeps("rope", "none")
    assert not keeps("fire", "dape")
    assert keeps("cope", "none")
    assert keeps("kerple_log", "dape", attention_backend="reference")
    heads = planned_run(*arguments, "kerple_log", "dape").model_copy(
        update={"parallel": ParallelSettings(tp=2, mixing="heads")}
    )
    assert keeps_pairs(heads, heads.architecture)
