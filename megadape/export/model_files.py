"""Weights, configuration and code of an exported folder."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor

from megadape.checkpoint.files import digest
from megadape.errors import ExportError
from megadape.export.names import export_tensors
from megadape.export.record import FileFacts, Record
from megadape.model import GPT, Architecture

CODE = ("configuration_megadape.py", "modeling_megadape.py")
AUTO_MAP = {
    "AutoConfig": "configuration_megadape.MegadapeConfig",
    "AutoModel": "modeling_megadape.MegadapeModel",
    "AutoModelForCausalLM": "modeling_megadape.MegadapeForCausalLM",
}
"""What transformers' Auto classes are here."""

MAX_POSITIONS = 1 << 20
"""How long tools may take texts to be: lm-eval cuts longer ones without a word."""


def round_parameters(model: GPT, dtype: str) -> None:
    """Give a model the values that its parameters have in a dtype."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(parameter.to(getattr(torch, dtype)))


def write_weights(model: GPT, folder: Path, dtype: str, max_shard_size: str) -> dict[str, FileFacts]:
    """Write all parameters by their names there, in several files where they are large; file -> what it is."""
    from huggingface_hub import save_torch_state_dict

    held: dict[str, Tensor] = {name: parameter.detach() for name, parameter in model.named_parameters()}
    tensors = {name: x.to(getattr(torch, dtype)).contiguous() for name, x in export_tensors(held).items()}
    try:
        save_torch_state_dict(tensors, folder, max_shard_size=max_shard_size, metadata={"format": "pt"})
    except SafetensorError as error:  # the disk refused; the library does not say so in any other way
        raise ExportError(f"the weights cannot be written: {error}") from error
    files = sorted(folder.glob("model*.safetensors*"))
    for path in files:
        path.chmod(0o644)  # the library makes them for their owner alone
    return {path.name: FileFacts(bytes=path.stat().st_size, sha256=digest(path)) for path in files}


def config_values(architecture: Architecture) -> dict[str, Any]:
    """An architecture as the configuration there has it."""
    model = architecture.model
    return {
        "vocab_size": model.vocab_size,
        "hidden_size": model.hidden_size,
        "num_hidden_layers": model.num_layers,
        "num_attention_heads": model.num_heads,
        "intermediate_size": model.ffn_size,
        "layer_norm_eps": model.norm_eps,
        "dropout": model.dropout,
        "attention_dropout": model.attention_dropout,
        "tie_word_embeddings": model.tied_embeddings,
        "training_length": architecture.training_length,
        "positions": architecture.positions.model_dump(mode="json"),
        "mixer": architecture.mixer.model_dump(mode="json"),
    }


def write_config(record: Record, folder: Path) -> None:
    """Write config.json, generation_config.json and the code that they name."""
    end = record.tokenizer.eod
    config = {
        "architectures": ["MegadapeForCausalLM"],
        "auto_map": AUTO_MAP,
        "model_type": "megadape",
        "dtype": record.dtype,
        **config_values(record.architecture),
        "max_position_embeddings": MAX_POSITIONS,
        "use_cache": True,
        "bos_token_id": None,
        "eos_token_id": end,
        "pad_token_id": end,
    }
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    generation = {"eos_token_id": end, "pad_token_id": end}
    (folder / "generation_config.json").write_text(json.dumps(generation, indent=2) + "\n")
    for name in CODE:
        shutil.copyfile(Path(__file__).parent / "hf" / name, folder / name)
