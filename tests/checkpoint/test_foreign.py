"""Parameters of other projects arrive where they belong, and no pickle is read unasked."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional

from megadape.checkpoint.convert import convert_from_foreign, convert_to_universal
from megadape.checkpoint.foreign import Foreign, read_foreign, to_foreign
from megadape.checkpoint.inspection import open_checkpoint
from megadape.checkpoint.names import FAMILIES, split_heads
from megadape.errors import CheckpointError
from megadape.model import Architecture, build_gpt
from megadape.parameters import parameter_table

LAYERS, HIDDEN, HEADS, VOCABULARY, TP = 4, 16, 4, 24, 2
HEAD_DIM = HIDDEN // HEADS
MODEL = build_gpt(
    Architecture.model_validate(
        {
            "model": {"num_layers": LAYERS, "hidden_size": HIDDEN, "num_heads": HEADS, "vocab_size": VOCABULARY},
            "positions": {"kind": "rope"},
            "mixer": {"kind": "none"},
            "training_length": 8,
        }
    ),
    seed=3,
)
TABLE = parameter_table(MODEL)
OURS = {name: parameter.detach() for name, parameter in MODEL.named_parameters()}
CUT = {
    "query_key_value": 0,
    "linear_qkv": 0,
    "4h": 0,
    "linear_fc1": 0,
    "word_embeddings": 0,
    "output_layer": 0,
    "final_linear": 0,
}
CUT_ROWS = ("dense.weight", "4h_to_h.weight", "linear_proj.weight", "linear_fc2.weight")


def cut(name: str, tensor: Tensor, rank: int) -> Tensor:
    """A tensor-parallel rank's part, as Megatron cuts it: outputs of column-parallel layers, inputs of the others."""
    if name.endswith(CUT_ROWS):
        return tensor.chunk(TP, 1)[rank].clone()
    if "4h_to_h" in name or "linear_fc2" in name or "norm" in name:
        return tensor
    axis = next((axis for word, axis in CUT.items() if word in name), None)
    return tensor if axis is None else tensor.chunk(TP, axis)[rank].clone()


def write_safetensors(folder: Path, named: dict[str, Tensor]) -> None:
    names = sorted(named)
    for part in range(2):
        save_file({name: named[name] for name in names[part::2]}, folder / f"model-{part}.safetensors")


def write_neox_layers(folder: Path, named: dict[str, Tensor]) -> None:
    for rank in range(TP):
        layers: dict[int, dict[str, Tensor]] = {}
        for name, tensor in named.items():
            _, number, rest = name.split(".", 2)
            layers.setdefault(int(number), {})[rest] = cut(name, tensor, rank)
        layers[2]["attention.rotary_emb.inv_freq"] = torch.ones(2)
        for number, held in layers.items():
            torch.save(held, folder / f"layer_{number:02d}-model_{rank:02d}-model_states.pt")


def write_neox_whole(folder: Path, named: dict[str, Tensor]) -> None:
    for rank in range(TP):
        module = {name: cut(name, tensor, rank) for name, tensor in named.items()}
        torch.save({"module": module, "args": {"x": 1}}, folder / f"mp_rank_{rank:02d}_model_states.pt")


def write_megatron(folder: Path, named: dict[str, Tensor]) -> None:
    """Two tensor-parallel ranks, two stages of two blocks each."""
    for rank in range(TP):
        for stage in range(2):
            model: dict[str, object] = {}
            for name, tensor in named.items():
                match = re.search(r"layers\.(\d+)\.", name)
                layer = int(match[1]) if match else 0 if "embedding" in name else LAYERS - 1
                if layer // 2 != stage:
                    continue
                local = name.replace(f"layers.{layer}.", f"layers.{layer % 2}.")
                place = model
                *way, leaf = local.split(".")
                for step in way:
                    place = place.setdefault(step, {})  # type: ignore[assignment]
                place[leaf] = cut(name, tensor, rank)
            path = folder / f"mp_rank_{rank:02d}_{stage:03d}"
            path.mkdir(parents=True)
            torch.save({"model": model, "iteration": 7}, path / "model_optim_rng.pt")


CASES: dict[str, tuple[str, Callable[[Path, dict[str, Tensor]], None]]] = {
    "safetensors of gpt-neox": ("gpt-neox", write_safetensors),
    "safetensors of megatron-lm": ("megatron-lm", write_safetensors),
    "safetensors of megatron-core": ("megatron-core", write_safetensors),
    "layers of gpt-neox": ("gpt-neox", write_neox_layers),
    "whole gpt-neox": ("gpt-neox", write_neox_whole),
    "megatron-lm": ("megatron-lm", write_megatron),
    "megatron-core": ("megatron-core", write_megatron),
}


@pytest.mark.parametrize(("family", "write"), CASES.values(), ids=CASES.keys())
def test_every_parameter_arrives(tmp_path: Path, family: str, write: Callable[[Path, dict[str, Tensor]], None]) -> None:
    named = to_foreign(OURS, family, LAYERS, HEAD_DIM)
    assert len(named) == len(OURS)
    write(tmp_path, named)
    foreign = Foreign(tmp_path, family, TABLE, HEAD_DIM, trust=True)
    read = read_foreign(foreign)
    assert list(read) == list(OURS)
    for name, tensor in OURS.items():
        assert torch.equal(read[name], tensor), name
    if write is not write_safetensors:
        with pytest.raises(CheckpointError, match=r"is a pickle, and reading one can run any code .* --trust"):
            read_foreign(Foreign(tmp_path, family, TABLE, HEAD_DIM))


@pytest.mark.parametrize("family", FAMILIES)
def test_names_go_there_and_back(family: str) -> None:
    for name in OURS:
        theirs = FAMILIES[family].theirs(name, LAYERS)
        assert theirs is not None
        assert FAMILIES[family].ours(theirs, LAYERS) == name


def test_the_fused_projection_gives_megatrons_queries_keys_and_values() -> None:
    """As Megatron reads its output: [s, heads, 3 * head_dim], in three."""
    fused, x = torch.randn(3 * HIDDEN, HIDDEN), torch.randn(5, HIDDEN)
    theirs = functional.linear(x, fused).view(5, HEADS, 3 * HEAD_DIM).chunk(3, dim=-1)
    ours = functional.linear(x, split_heads(fused, HEAD_DIM).reshape(-1, HIDDEN)).view(5, 3, HEADS, HEAD_DIM)
    for number, wanted in enumerate(theirs):
        torch.testing.assert_close(ours[:, number], wanted)


class Evil:
    """Runs code when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Callable[[str], object], tuple[str]]:
        return (open_mark, (str(self.mark),))


def open_mark(path: str) -> object:
    Path(path).write_text("")
    return None


def test_no_code_runs_without_trust(tmp_path: Path) -> None:
    mark = tmp_path / "ran"
    torch.save({"module": {}, "args": Evil(mark)}, tmp_path / "mp_rank_00_model_states.pt")
    with pytest.raises(CheckpointError, match="is a pickle"):
        read_foreign(Foreign(tmp_path, "gpt-neox", TABLE, HEAD_DIM))
    assert not mark.exists()


def test_a_larger_vocabulary_is_padding_and_fused_norms_have_other_names(tmp_path: Path) -> None:
    named = to_foreign(OURS, "megatron-core", LAYERS, HEAD_DIM)
    for name in ("embedding.word_embeddings.weight", "output_layer.weight"):
        named[name] = functional.pad(named[name], (0, 0, 0, 8))
    renamed = {
        name.replace("input_layernorm.", "self_attention.linear_qkv.layer_norm_").replace(
            "pre_mlp_layernorm.", "mlp.linear_fc1.layer_norm_"
        ): tensor
        for name, tensor in named.items()
    }
    save_file(renamed, tmp_path / "all.safetensors")
    read = read_foreign(Foreign(tmp_path / "all.safetensors", "megatron-core", TABLE, HEAD_DIM))
    assert all(torch.equal(read[name], tensor) for name, tensor in OURS.items())


def test_what_does_not_fit_is_told(tmp_path: Path) -> None:
    named = to_foreign(OURS, "gpt-neox", LAYERS, HEAD_DIM)
    foreign = Foreign(tmp_path / "all.safetensors", "gpt-neox", TABLE, HEAD_DIM)

    def told(change: dict[str, Tensor | None]) -> str:
        save_file({name: x for name, x in {**named, **change}.items() if x is not None}, foreign.source)
        with pytest.raises(CheckpointError) as error:
            read_foreign(foreign)
        return str(error.value)

    assert "has nothing for norm.bias of the model" in told({"sequential.7.norm.bias": None})
    assert "has what the model of these settings has not: sequential.2.attention.kerple" in told(
        {"sequential.2.attention.kerple": torch.ones(1)}
    )
    assert "is [8] and norm.bias is [16]" in told({"sequential.7.norm.bias": torch.ones(8)})
    with pytest.raises(CheckpointError, match="there are no names of 'llama'; there are gpt-neox"):
        read_foreign(Foreign(foreign.source, "llama", TABLE, HEAD_DIM))
    (tmp_path / "empty").mkdir()
    with pytest.raises(CheckpointError, match="holds no checkpoint that is known"):
        read_foreign(Foreign(tmp_path / "empty", "gpt-neox", TABLE, HEAD_DIM))


def test_parallel_residuals_are_refused(tmp_path: Path) -> None:
    named = to_foreign(OURS, "gpt-neox", LAYERS, HEAD_DIM)
    write_neox_whole(tmp_path, named)
    path = tmp_path / "mp_rank_01_model_states.pt"
    content = torch.load(path)
    content["module"]["sequential.2.attention.dense.bias"] += 1
    torch.save(content, path)
    with pytest.raises(CheckpointError, match=r"dense.bias differs between tensor-parallel ranks"):
        read_foreign(Foreign(tmp_path, "gpt-neox", TABLE, HEAD_DIM, trust=True))


def test_names_of_a_position_encoding_can_be_given(tmp_path: Path) -> None:
    architecture = MODEL.architecture.model_dump(mode="json")
    kerple = build_gpt(Architecture.model_validate({**architecture, "positions": {"kind": "kerple_log"}}), seed=4)
    ours = {name: parameter.detach() for name, parameter in kerple.named_parameters()}
    named = to_foreign(ours, "gpt-neox", LAYERS, HEAD_DIM)
    for layer in range(LAYERS):
        for theirs, name in (("bias_p", "r1"), ("bias_a", "r2")):
            value = ours[f"blocks.{layer}.attention.positions.{name}"]
            named[f"sequential.{layer + 2}.attention.kerple.{theirs}"] = value.view(-1, 1, 1).clone()
    save_file(named, tmp_path / "all.safetensors")
    more = {"attention.kerple.bias_p": "attention.positions.r1", "attention.kerple.bias_a": "attention.positions.r2"}
    read = read_foreign(Foreign(tmp_path, "gpt-neox", parameter_table(kerple), HEAD_DIM, more=more))
    assert all(torch.equal(read[name], tensor) for name, tensor in ours.items())


def test_what_was_read_becomes_a_checkpoint(tmp_path: Path) -> None:
    (tmp_path / "theirs").mkdir()
    write_safetensors(tmp_path / "theirs", to_foreign(OURS, "megatron-lm", LAYERS, HEAD_DIM))
    foreign = Foreign(tmp_path / "theirs", "megatron-lm", TABLE, HEAD_DIM)
    path = convert_from_foreign(foreign, tmp_path / "run", {"architecture": MODEL.architecture.model_dump(mode="json")})
    checkpoint = open_checkpoint(tmp_path / "run")
    assert checkpoint.path == path
    assert Architecture.model_validate(checkpoint.state()["architecture"]) == MODEL.architecture
    assert all(torch.equal(tensor, OURS[name]) for name, tensor in checkpoint.each("model"))
    with pytest.raises(CheckpointError, match="is there already"):
        convert_from_foreign(foreign, tmp_path / "run", {})
    with pytest.raises(CheckpointError, match="has no exp_avg"):
        convert_to_universal(tmp_path / "run", tmp_path / "out")
    (path / "state.json").unlink()
    with pytest.raises(CheckpointError, match=r"there is no checkpoint|state.json is missing"):
        convert_to_universal(path, tmp_path / "out")
