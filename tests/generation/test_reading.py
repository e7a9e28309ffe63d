"""What is read piece by piece, with keys and values kept, is what the whole model reads."""

from __future__ import annotations

from itertools import product
from typing import Any

import pytest
import torch
from torch import Tensor

from megadape.generation import Reader, reading
from megadape.model import GPT, Architecture, build_gpt
from megadape.parallel.mesh import Place, make_mesh
from megadape.parallel.sharding import WHOLE, Sharding
from megadape.parallel.traffic import Traffic
from megadape.positions.registry import ENCODINGS
from megadape.testing import run_distributed

TRAINED, HEADS, VOCABULARY = 16, 4, 24
LONGEST = 4 * TRAINED
MIXERS: tuple[dict[str, Any], ...] = (
    {"kind": "none"},
    *({"kind": "dape", "hidden": 6, "variant": v} for v in ("concat_residual", "concat", "add_residual", "bias_only")),
    {"kind": "dape_v2", "hidden": 5, "kernel": 5},
)
CASES = [
    (kind, mixer)
    for kind, mixer in product(ENCODINGS, MIXERS)
    if mixer.get("variant") != "bias_only" or kind in ("t5", "alibi", "kerple_log", "kerple_power", "fire")
]


def model_of(kind: str, mixer: dict[str, Any], sharding: Sharding = WHOLE, **positions: Any) -> GPT:
    """In float64, its position parameters at values of some size (CoPE's table starts at zero)."""
    architecture = Architecture.model_validate(
        {
            "model": {"num_layers": 2, "hidden_size": 32, "num_heads": HEADS, "vocab_size": VOCABULARY},
            "positions": {"kind": kind, **positions},
            "mixer": mixer,
            "training_length": TRAINED,
        }
    )
    model = build_gpt(architecture, seed=5, sharding=sharding).double()
    for name, parameter in model.named_parameters():
        if name.endswith("positions.embedding"):
            generator = torch.Generator().manual_seed(len(name))
            parameter.data.copy_(torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
    return model.eval()


def tokens(batch: int = 2, length: int = LONGEST) -> Tensor:
    return torch.randint(VOCABULARY, (batch, length), generator=torch.Generator().manual_seed(3))


@torch.no_grad()
def whole(model: GPT, text: Tensor) -> Tensor:
    """Logits after every token, each as the last of the text so far: [b, s, vocabulary]."""
    encoding = model.encoding(0)
    if encoding.stretch(1) == encoding.stretch(text.shape[1]):
        return model(text)
    return torch.stack([model(text[:, : n + 1])[:, -1] for n in range(text.shape[1])], dim=1)


def one_by_one(reader: Reader, text: Tensor, first: int) -> Tensor:
    """Logits after every token from the ``first``-th on."""
    cache, logits = reader.open(text[:, :first])
    logits = [logits]
    for ids in text[:, first:].unbind(1):
        logits.append(reader.read([(cache, ids)]))
    return torch.stack(logits, dim=1)


@pytest.mark.parametrize("kind", ENCODINGS)
def test_cached_reading_is_the_whole_model_at_every_position(kind: str) -> None:
    mixers = [mixer for each, mixer in CASES if each == kind]
    if kind in ("yarn", "randomized_rope"):  # the mixer is not what makes them different, and they take their time
        mixers = mixers[:2]
    for mixer in mixers:
        model = model_of(kind, mixer)
        wanted = whole(model, tokens())
        first = 1 if mixer == MIXERS[1] else LONGEST - 20
        got = one_by_one(Reader(model), tokens(), first)
        assert (got - wanted[:, first - 1 :]).abs().max() < 1e-10, mixer
    model = model_of(kind, MIXERS[1]).float()
    got = one_by_one(Reader(model), tokens(), 50)
    assert (got - whole(model, tokens())[:, 49:]).abs().max() < 2e-5


@pytest.mark.parametrize("kind", ["yarn", "randomized_rope"])
def test_a_text_that_is_read_as_a_longer_one_is_its_beginning(kind: str) -> None:
    model = model_of(kind, MIXERS[1])
    with torch.no_grad():
        wanted = model(tokens())
    got = one_by_one(Reader(model, read_as=LONGEST), tokens(), 3)
    assert (got - wanted[:, 2:]).abs().max() < 1e-10
    plain = one_by_one(Reader(model), tokens(), 3)
    assert (plain - wanted[:, 2:]).abs().max() > 1e-3  # it makes a difference


def test_what_lengths_share_is_said_by_the_encoding() -> None:
    fixed = model_of("yarn", MIXERS[0], factor=4.0).encoding(0)
    growing = model_of("yarn", MIXERS[0]).encoding(0)
    drawn = model_of("randomized_rope", MIXERS[0]).encoding(0)
    lengths = (1, TRAINED, TRAINED + 1, LONGEST)
    assert [len({each.stretch(n) for n in lengths}) for each in (fixed, growing, drawn)] == [1, 3, 4]
    assert growing.stretch(1) == growing.stretch(TRAINED)


@pytest.mark.parametrize(
    "case", [("rope", 0), ("kerple_log", 1), ("fire", 5), ("cope", 1), ("learned", 1), ("yarn", 1)]
)
def test_texts_of_many_lengths_are_read_together_as_alone(case: tuple[str, int]) -> None:
    model = model_of(case[0], MIXERS[case[1]])
    reader, text = Reader(model), tokens(5, 30)
    lengths = (1, 15, 7)
    parts = ([0, 3], [1], [2, 4])
    wanted = whole(model, text)
    opened = [reader.open(text[part, :length]) for part, length in zip(parts, lengths, strict=True)]
    for step in range(8):
        logits = reader.read(
            [
                (cache, text[part, length + step])
                for (cache, _), part, length in zip(opened, parts, lengths, strict=True)
            ]
        )
        at = [wanted[part, length + step] for part, length in zip(parts, lengths, strict=True)]
        assert (logits - torch.cat(at)).abs().max() < 1e-10


def test_a_cache_gives_up_texts_and_copies_them() -> None:
    reader, text = Reader(model_of("alibi", MIXERS[1])), tokens(3, 20)
    cache, _ = reader.open(text[:, :10])
    order = torch.tensor([2, 2, 0])
    cache.select(order)
    logits = reader.read([(cache, text[order, 10])])
    assert (logits - whole(reader.model, text)[order, 10]).abs().max() < 1e-10


def test_long_prompts_are_read_in_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "CHUNK", 14)
    for kind, mixer in (("kerple_log", MIXERS[1]), ("fire", MIXERS[5]), ("yarn", MIXERS[0]), ("cope", MIXERS[1])):
        model = model_of(kind, mixer)
        _, logits = Reader(model).open(tokens())
        assert (logits - whole(model, tokens())[:, -1]).abs().max() < 1e-10


def test_room_doubles() -> None:
    reader = Reader(model_of("none", MIXERS[0]))
    cache, _ = reader.open(tokens(1, 3))
    places = []
    for ids in tokens(1, 150).unbind(1):
        reader.read([(cache, ids)])
        held = cache.layers[0]._held
        assert held is not None
        places.append((held[0].shape[2], held[0].data_ptr()))
    assert cache.length == 153
    assert [size for size, _ in dict.fromkeys(places)] == [64, 128, 256]


def read_on_ranks(ranks: int) -> dict[str, float]:
    """Case -> largest difference of any logit to one rank's."""
    place = Place(torch.distributed.get_rank(), ranks)
    sharding = Sharding(make_mesh(place, torch.device("cpu"), tp=ranks).tp)
    errors = {}
    for kind, mixer in CASES:
        if mixer["kind"] == "dape" and mixer["variant"] != "concat_residual" and kind != "kerple_log":
            continue
        text = tokens(2, TRAINED + 2)
        wanted = whole(model_of(kind, mixer), text)
        first = (1, 3, 13)[len(errors) % 3] if len(errors) < 9 else 13  # fewer tokens than runs of rows, and more
        got = one_by_one(Reader(model_of(kind, mixer, sharding)), text, first)
        errors[f"{kind}-{mixer.get('variant', mixer['kind'])}"] = (got - wanted[:, first - 1 :]).abs().max().item()
    return errors


def bytes_a_token(ranks: int) -> list[int]:
    """Bytes that a rank receives for one more token, early and late in a text."""
    place = Place(torch.distributed.get_rank(), ranks)
    sharding = Sharding(make_mesh(place, torch.device("cpu"), tp=ranks).tp)
    found = []
    for mixer in MIXERS[:2]:
        reader = Reader(model_of("kerple_log", mixer, sharding))
        cache, _ = reader.open(tokens(1, 2))
        for ids in tokens(1, 12).unbind(1):
            with Traffic() as traffic:
                reader.read([(cache, ids)])
            found.append(traffic.total())
    return found


def on_ranks(ranks: int) -> tuple[dict[str, float], list[int]]:
    return read_on_ranks(ranks), bytes_a_token(ranks)


@pytest.fixture(scope="module")
def ranks_of_two() -> list[tuple[dict[str, float], list[int]]]:
    return run_distributed(2, on_ranks, 2, timeout=250)


def test_ranks_that_share_heads_read_what_one_rank_reads(
    ranks_of_two: list[tuple[dict[str, float], list[int]]],
) -> None:
    for errors, _ in ranks_of_two:
        assert len(errors) == 3 * len(ENCODINGS) + 3
        assert {case: error for case, error in errors.items() if not error < 1e-10} == {}


def test_what_ranks_tell_each_other_does_not_grow_with_the_text(
    ranks_of_two: list[tuple[dict[str, float], list[int]]],
) -> None:
    for _, received in ranks_of_two:
        plain, mixed = set(received[:12]), set(received[12:])
        assert len(plain) == len(mixed) == 1
        heads = 2 * 32 * 8 // 2  # q and k of all heads, the other rank's half of it, in float64
        assert mixed.pop() - plain.pop() == 2 * heads  # layers
