"""Gemma 4's vision tower: pictures of any shape, a learnt position per axis plus rotary halves by x and y, patches averaged in
squares at the end.

Names are the checkpoint's: patch_embedder.{input_proj,position_embedding_table}, encoder.layers.*, std_bias, std_scale.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from vlm_kernels import rms_norm, rope

from ..core.config import check, expect, sub, take
from ..errors import ModelError
from ..layers.attention import Tables, encoder_attention, merge_heads, split_heads
from ..layers.clipped import ClippedLinear
from ..layers.linear import Linear
from ..layers.mlp import gated
from ..layers.norm import RMSNorm
from ..layers.rope import Rope, RopeConfig


@dataclass(frozen=True)
class Gemma4VisionConfig:
    """pool: patches a side of a token. positions: entries of the position table of each axis."""

    dim: int
    depth: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    hidden: int
    act: str
    norm_eps: float
    theta: float
    patch: int
    pool: int
    positions: int
    clipped: bool
    standardize: bool

    @classmethod
    def from_hf(cls, hf: Mapping[str, Any]) -> Gemma4VisionConfig:
        """From a vision_config. Raises ConfigError."""
        expect(hf, "model_type", "gemma4_vision")
        expect(hf, "attention_bias", False)
        given = sub(hf, "rope_parameters") if hf.get("rope_parameters") is not None else {}
        expect(given, "rope_type", "axial", "default")
        heads = take(hf, "num_attention_heads", int, 12)
        kv_heads, size = take(hf, "num_key_value_heads", int, 12), take(hf, "head_dim", int, 64)
        check(heads % kv_heads == 0, f"{heads} heads cannot share {kv_heads} key heads")
        check(size % 4 == 0, f"vision head_dim {size} must be a multiple of 4")
        act = take(hf, "hidden_activation", str, "gelu_pytorch_tanh")
        gated(act)
        return cls(
            dim=take(hf, "hidden_size", int, 768),
            depth=take(hf, "num_hidden_layers", int, 16),
            num_heads=heads,
            num_kv_heads=kv_heads,
            head_dim=size,
            hidden=take(hf, "intermediate_size", int, 3072),
            act=act,
            norm_eps=take(hf, "rms_norm_eps", float, 1e-6),
            theta=take(given, "rope_theta", float, 100.0),
            patch=take(hf, "patch_size", int, 16),
            pool=take(hf, "pooling_kernel_size", int, 3),
            positions=take(hf, "position_embedding_size", int, 10 * 1024),
            clipped=take(hf, "use_clipped_linears", bool, False),
            standardize=take(hf, "standardize", bool, False),
        )


class Gemma4VisionAttention(nn.Module):
    """Normed q, k and v; the first half of a head turns by x, the second by y."""

    def __init__(self, config: Gemma4VisionConfig) -> None:
        super().__init__()
        self.num_heads, self.num_kv_heads, self.eps = config.num_heads, config.num_kv_heads, config.norm_eps
        size, kv_size = config.num_heads * config.head_dim, config.num_kv_heads * config.head_dim
        self.q_proj = ClippedLinear(config.dim, size, clipped=config.clipped)
        self.k_proj = ClippedLinear(config.dim, kv_size, clipped=config.clipped)
        self.v_proj = ClippedLinear(config.dim, kv_size, clipped=config.clipped)
        self.o_proj = ClippedLinear(size, config.dim, clipped=config.clipped)
        self.q_norm = RMSNorm(config.head_dim, config.norm_eps)
        self.k_norm = RMSNorm(config.head_dim, config.norm_eps)

    def __call__(self, x: mx.array, across: Tables, down: Tables) -> mx.array:
        """x: [n, L, dim]. across, down: cos, sin [1, L, head size / 4] of x and y."""
        q = _turned(self.q_norm(split_heads(self.q_proj(x), self.num_heads)), across, down)
        k = _turned(self.k_norm(split_heads(self.k_proj(x), self.num_kv_heads)), across, down)
        v = rms_norm(split_heads(self.v_proj(x), self.num_kv_heads), None, self.eps)
        return self.o_proj(merge_heads(encoder_attention(q, k, v, scale=1.0)))


def _turned(x: mx.array, across: Tables, down: Tables) -> mx.array:
    half = x.shape[-1] // 2
    return mx.concatenate([rope(x[..., :half], *across), rope(x[..., half:], *down)], axis=-1)


class Gemma4VisionMlp(nn.Module):
    def __init__(self, config: Gemma4VisionConfig) -> None:
        super().__init__()
        self.gate_proj = ClippedLinear(config.dim, config.hidden, clipped=config.clipped)
        self.up_proj = ClippedLinear(config.dim, config.hidden, clipped=config.clipped)
        self.down_proj = ClippedLinear(config.hidden, config.dim, clipped=config.clipped)
        self._gated = gated(config.act)

    def __call__(self, x: mx.array) -> mx.array:
        return self.down_proj(self._gated(self.gate_proj(x), self.up_proj(x)))


class Gemma4VisionLayer(nn.Module):
    """Norms before and behind attention and perceptron."""

    def __init__(self, config: Gemma4VisionConfig) -> None:
        super().__init__()
        dim, eps = config.dim, config.norm_eps
        self.self_attn, self.mlp = Gemma4VisionAttention(config), Gemma4VisionMlp(config)
        self.input_layernorm, self.post_attention_layernorm = RMSNorm(dim, eps), RMSNorm(dim, eps)
        self.pre_feedforward_layernorm, self.post_feedforward_layernorm = RMSNorm(dim, eps), RMSNorm(dim, eps)

    def __call__(self, x: mx.array, across: Tables, down: Tables) -> mx.array:
        x = x + self.post_attention_layernorm(self.self_attn(self.input_layernorm(x), across, down))
        return x + self.post_feedforward_layernorm(self.mlp(self.pre_feedforward_layernorm(x)))


class PatchEmbedder(nn.Module):
    def __init__(self, config: Gemma4VisionConfig) -> None:
        super().__init__()
        self.input_proj = Linear(3 * config.patch**2, config.dim, bias=False)
        self.position_embedding_table = mx.zeros((2, config.positions, config.dim))

    def __call__(self, patches: mx.array, rows: int, columns: int) -> mx.array:
        """patches: [n, rows * columns, 3 patch^2] in [0, 1]."""
        table = self.position_embedding_table
        if max(rows, columns) > table.shape[1]:
            raise ModelError(f"a picture is longer than {table.shape[1]} patches, the model's limit")
        values = (2 * (patches - 0.5)).astype(table.dtype)
        places = table[0, None, :columns] + table[1, :rows, None]
        return self.input_proj(values) + places.reshape(-1, table.shape[-1])


class LayerStack(nn.Module):
    def __init__(self, config: Gemma4VisionConfig) -> None:
        super().__init__()
        self.layers = [Gemma4VisionLayer(config) for _ in range(config.depth)]


class Gemma4Vision(nn.Module):
    def __init__(self, config: Gemma4VisionConfig) -> None:
        super().__init__()
        self.config = config
        self.patch_embedder = PatchEmbedder(config)
        self.encoder = LayerStack(config)
        if config.standardize:
            self.std_bias, self.std_scale = mx.zeros((config.dim,)), mx.ones((config.dim,))
        self._rope = Rope(RopeConfig(config.head_dim // 2, config.theta))

    def __call__(self, patches: mx.array, rows: int, columns: int) -> mx.array:
        """float [n, rows * columns, 3 patch^2], n pictures of one shape, row by row, channel last, in [0, 1]
        -> [n, rows * columns / pool^2, dim]."""
        config = self.config
        y, x = mx.repeat(mx.arange(rows), columns), mx.tile(mx.arange(columns), rows)
        across, down = (self._rope(axis[None, None].astype(mx.int32)) for axis in (x, y))
        h = self.patch_embedder(patches, rows, columns)
        for layer in self.encoder.layers:
            h = layer(h, across, down)
        dtype, pool = h.dtype, config.pool
        cells = h.astype(mx.float32).reshape(-1, rows // pool, pool, columns // pool, pool, config.dim)
        pooled = cells.mean(axis=(2, 4)).reshape(h.shape[0], -1, config.dim).astype(dtype)
        # the factor leaves float16's range before the bias is taken off
        pooled = pooled.astype(mx.float32) * config.dim**0.5
        if config.standardize:
            pooled = (pooled - self.std_bias.astype(mx.float32)) * self.std_scale.astype(mx.float32)
        return pooled.astype(dtype)
