"""Causal self-attention of decoders over a cache, and plain attention of encoders."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import mlx.core as mx
import mlx.nn as nn

from vlm_kernels import attention, block_attention, rope

from ..core.attention import Attention, AttentionRules
from ..core.cache import AttentionCache
from .linear import Linear, together
from .norm import RMSNorm

Tables = tuple[mx.array, mx.array]


@dataclass(frozen=True)
class AttentionShape:
    """Sizes and switches of one decoder attention layer. scale None: head_dim ** -0.5. interleaved: pairing of rotary features."""

    dim: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    qkv_bias: bool = False
    out_bias: bool = False
    qk_norm_eps: float | None = None
    scale: float | None = None
    window: int | None = None
    softcap: float | None = None
    sees_blocks: bool = True
    blocks_beyond_window: bool = False
    interleaved: bool = False


def split_heads(x: mx.array, num_heads: int) -> mx.array:
    """[B, L, H * D] -> [B, H, L, D]."""
    batch, length, _ = x.shape
    return x.reshape(batch, length, num_heads, -1).transpose(0, 2, 1, 3)


def merge_heads(x: mx.array) -> mx.array:
    """[B, H, L, D] -> [B, L, H * D]."""
    batch, _, length, _ = x.shape
    return x.transpose(0, 2, 1, 3).reshape(batch, length, -1)


class CausalAttention(nn.Module):
    """Grouped-query attention with rotary positions; per-head RMS norms on q and k where `qk_norm_eps` is set."""

    def __init__(self, shape: AttentionShape) -> None:
        super().__init__()
        self.shape = shape
        self.rules = AttentionRules(
            shape.head_dim**-0.5 if shape.scale is None else shape.scale,
            shape.window,
            shape.softcap,
            shape.sees_blocks,
            shape.blocks_beyond_window,
        )
        kv_size = shape.num_kv_heads * shape.head_dim
        self.q_proj = Linear(shape.dim, shape.num_heads * shape.head_dim, bias=shape.qkv_bias)
        self.k_proj = Linear(shape.dim, kv_size, bias=shape.qkv_bias)
        self.v_proj = Linear(shape.dim, kv_size, bias=shape.qkv_bias)
        self.o_proj = Linear(shape.num_heads * shape.head_dim, shape.dim, bias=shape.out_bias)
        if shape.qk_norm_eps is not None:
            self.q_norm = RMSNorm(shape.head_dim, shape.qk_norm_eps)
            self.k_norm = RMSNorm(shape.head_dim, shape.qk_norm_eps)

    def __call__(self, x: mx.array, tables: Tables | None, plan: Attention, cache: AttentionCache) -> mx.array:
        """x: [B, L, dim]. tables: cos, sin [B or 1, L, R]; None: no positions (NoPE)."""
        shape = self.shape
        layers = (self.q_proj, self.k_proj, self.v_proj)
        q, k, v = together(x, layers) or (layer(x) for layer in layers)
        q = split_heads(q, shape.num_heads)
        k, v = split_heads(k, shape.num_kv_heads), split_heads(v, shape.num_kv_heads)
        if shape.qk_norm_eps is not None:
            q, k = self.q_norm(q), self.k_norm(k)
        if tables is not None:
            q = rope(q, *tables, interleaved=shape.interleaved)
            k = rope(k, *tables, interleaved=shape.interleaved)
        return self.o_proj(merge_heads(cache.attend(q, k, v, plan, self.rules)))


def encoder_attention(
    q: mx.array,
    k: mx.array,
    v: mx.array,
    *,
    scale: float,
    segments: Sequence[int] | None = None,
    mask: mx.array | None = None,
) -> mx.array:
    """Attention that sees both ways: everything, or within `segments` (lengths along L), or where `mask` allows.

    q, k, v: [B, H, L, D] -> [B, H, L, D]."""
    if segments is not None and len(segments) > 1:
        return block_attention(q, k, v, scale=scale, segments=segments)
    return attention(q, k, v, scale=scale, mask=mask)
