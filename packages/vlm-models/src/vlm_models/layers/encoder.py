"""Pre-norm transformer encoder with the names that CLIP gave it: the trunk of CLIP, SigLIP and their kin."""

from __future__ import annotations

import mlx.core as mx
import mlx.nn as nn

from .attention import encoder_attention, merge_heads, split_heads
from .linear import Linear
from .mlp import Mlp
from .norm import LayerNorm


class EncoderAttention(nn.Module):
    """Attention of separate q, k, v projections with biases; every token sees every token that `mask` leaves."""

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.q_proj = Linear(dim, dim)
        self.k_proj = Linear(dim, dim)
        self.v_proj = Linear(dim, dim)
        self.out_proj = Linear(dim, dim)

    def __call__(self, x: mx.array, mask: mx.array | None = None) -> mx.array:
        """x: [n, L, dim]. mask: bool, broadcast to [n, heads, L, L], true where a key may be seen."""
        q, k, v = (split_heads(project(x), self.num_heads) for project in (self.q_proj, self.k_proj, self.v_proj))
        scale = (x.shape[-1] // self.num_heads) ** -0.5
        return self.out_proj(merge_heads(encoder_attention(q, k, v, scale=scale, mask=mask)))


class EncoderLayer(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x))."""

    def __init__(self, dim: int, num_heads: int, hidden: int, act: str, norm_eps: float) -> None:
        super().__init__()
        self.layer_norm1 = LayerNorm(dim, norm_eps)
        self.self_attn = EncoderAttention(dim, num_heads)
        self.layer_norm2 = LayerNorm(dim, norm_eps)
        self.mlp = Mlp(dim, hidden, act)

    def __call__(self, x: mx.array, mask: mx.array | None = None) -> mx.array:
        x = x + self.self_attn(self.layer_norm1(x), mask)
        return x + self.mlp(self.layer_norm2(x))


class Encoder(nn.Module):
    """A stack of layers."""

    def __init__(self, depth: int, dim: int, num_heads: int, hidden: int, act: str, norm_eps: float) -> None:
        super().__init__()
        self.layers = [EncoderLayer(dim, num_heads, hidden, act, norm_eps) for _ in range(depth)]

    def __call__(self, x: mx.array, mask: mx.array | None = None) -> list[mx.array]:
        """All states: the input, then each layer's output. Those that nobody uses are never computed."""
        states = [x]
        for layer in self.layers:
            states.append(layer(states[-1], mask))
        return states
