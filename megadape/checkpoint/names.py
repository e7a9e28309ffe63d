"""Parameters by the names of Megatron-LM, Megatron-core and GPT-NeoX, and back.

Only what all of them have is listed: pre-norm blocks with sequential residuals. Their fused projection is stored as
[heads, 3, head_dim, ...] (query, key and value of one head together), ours as [3, heads * head_dim, ...].
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

BLOCK = {
    "attention_norm.weight": ("input_layernorm.weight", "input_layernorm.weight", "input_layernorm.weight"),
    "attention_norm.bias": ("input_layernorm.bias", "input_layernorm.bias", "input_layernorm.bias"),
    "attention.qkv_weight": (
        "attention.query_key_value.weight",
        "self_attention.query_key_value.weight",
        "self_attention.linear_qkv.weight",
    ),
    "attention.qkv_bias": (
        "attention.query_key_value.bias",
        "self_attention.query_key_value.bias",
        "self_attention.linear_qkv.bias",
    ),
    "attention.output.weight": (
        "attention.dense.weight",
        "self_attention.dense.weight",
        "self_attention.linear_proj.weight",
    ),
    "attention.output.bias": ("attention.dense.bias", "self_attention.dense.bias", "self_attention.linear_proj.bias"),
    "mlp_norm.weight": (
        "post_attention_layernorm.weight",
        "post_attention_layernorm.weight",
        "pre_mlp_layernorm.weight",
    ),
    "mlp_norm.bias": ("post_attention_layernorm.bias", "post_attention_layernorm.bias", "pre_mlp_layernorm.bias"),
    "mlp.input.weight": ("mlp.dense_h_to_4h.weight", "mlp.dense_h_to_4h.weight", "mlp.linear_fc1.weight"),
    "mlp.input.bias": ("mlp.dense_h_to_4h.bias", "mlp.dense_h_to_4h.bias", "mlp.linear_fc1.bias"),
    "mlp.output.weight": ("mlp.dense_4h_to_h.weight", "mlp.dense_4h_to_h.weight", "mlp.linear_fc2.weight"),
    "mlp.output.bias": ("mlp.dense_4h_to_h.bias", "mlp.dense_4h_to_h.bias", "mlp.linear_fc2.bias"),
}
"""Ours -> GPT-NeoX's, Megatron-LM's, Megatron-core's, within a block."""

FUSED_NORMS = {
    "self_attention.linear_qkv.layer_norm_weight": "attention_norm.weight",
    "self_attention.linear_qkv.layer_norm_bias": "attention_norm.bias",
    "mlp.linear_fc1.layer_norm_weight": "mlp_norm.weight",
    "mlp.linear_fc1.layer_norm_bias": "mlp_norm.bias",
}
"""Megatron-core's other names for its norms, where Transformer Engine fuses them with what follows."""

NO_PARAMETERS = re.compile(
    r"(^|.*\.)(inv_freq|masked_bias|attention\.bias|_extra_state|slopes|word_embeddings_for_head\.weight)"
)
"""Buffers that follow from the settings, and the last stage's copy of a tied embedding."""


@dataclass(frozen=True)
class Family:
    """The names of one project."""

    block: str
    """A block's prefix; {} is its number."""

    first: int
    """The number of the first block."""

    names: Mapping[str, str]
    """Ours -> theirs within a block."""

    others: Mapping[str, str]
    """Ours -> theirs outside of blocks; {} is the number of blocks + ``first``."""

    aliases: Mapping[str, str]
    """Further names of theirs within a block -> ours."""

    def theirs(self, ours: str, blocks: int) -> str | None:
        """Their name of a parameter of a model with so many blocks, or None."""
        match = re.fullmatch(r"blocks\.(\d+)\.(.+)", ours)
        if match is None:
            other = self.others.get(ours)
            return None if other is None else _count(other, blocks + self.first)
        name = self.names.get(match[2])
        return None if name is None else self.block.format(int(match[1]) + self.first) + name

    def ours(self, theirs: str, blocks: int) -> str | None:
        """Our name of one of theirs, or None."""
        for name, other in self.others.items():
            if theirs == _count(other, blocks + self.first):
                return name
        match = re.fullmatch(re.escape(self.block).replace(r"\{\}", r"(\d+)") + r"(.+)", theirs)
        if match is None:
            return None
        back = {**{other: name for name, other in self.names.items()}, **self.aliases}
        return f"blocks.{int(match[1]) - self.first}.{back[match[2]]}" if match[2] in back else None


def _count(name: str, number: int) -> str:
    """GPT-NeoX numbers what comes after the blocks: {}1 is one after the number."""
    return re.sub(r"\{\}(\d)", lambda match: str(number + int(match[1])), name)


def _family(column: int, block: str, first: int, others: Mapping[str, str], aliases: Mapping[str, str]) -> Family:
    return Family(block, first, {ours: theirs[column] for ours, theirs in BLOCK.items()}, others, aliases)


FAMILIES: dict[str, Family] = {
    # GPT-NeoX counts the modules of its pipeline: embedding, a transposition, blocks, a transposition, norm, head
    "gpt-neox": _family(
        0,
        "sequential.{}.",
        2,
        {
            "embedding.weight": "sequential.0.word_embeddings.weight",
            "shared_positions.table": "sequential.0.position_embeddings.weight",
            "norm.weight": "sequential.{}1.norm.weight",
            "norm.bias": "sequential.{}1.norm.bias",
            "head.weight": "sequential.{}2.final_linear.weight",
        },
        {},
    ),
    "megatron-lm": _family(
        1,
        "language_model.encoder.layers.{}.",
        0,
        {
            "embedding.weight": "language_model.embedding.word_embeddings.weight",
            "shared_positions.table": "language_model.embedding.position_embeddings.weight",
            "norm.weight": "language_model.encoder.final_layernorm.weight",
            "norm.bias": "language_model.encoder.final_layernorm.bias",
            "head.weight": "language_model.output_layer.weight",
        },
        {},
    ),
    "megatron-core": _family(
        2,
        "decoder.layers.{}.",
        0,
        {
            "embedding.weight": "embedding.word_embeddings.weight",
            "shared_positions.table": "embedding.position_embeddings.weight",
            "norm.weight": "decoder.final_layernorm.weight",
            "norm.bias": "decoder.final_layernorm.bias",
            "head.weight": "output_layer.weight",
        },
        FUSED_NORMS,
    ),
}
"""Project -> its names."""


def is_fused(ours: str) -> bool:
    """Whether a parameter is a fused projection, which is stored in another order."""
    return ours.endswith(("attention.qkv_weight", "attention.qkv_bias"))


def split_heads(theirs: Tensor, head_dim: int) -> Tensor:
    """[heads * 3 * head_dim, ...] -> [3, heads * head_dim, ...], whole or a tensor-parallel rank's part."""
    return theirs.unflatten(0, (-1, 3, head_dim)).transpose(0, 1).flatten(1, 2)


def fuse_heads(ours: Tensor, head_dim: int) -> Tensor:
    """[3, heads * head_dim, ...] -> [heads * 3 * head_dim, ...]."""
    return ours.unflatten(1, (-1, head_dim)).transpose(0, 1).flatten(0, 2)
