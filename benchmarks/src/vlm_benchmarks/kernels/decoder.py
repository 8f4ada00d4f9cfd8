"""A llama-shaped decoder of 0.57 G parameters with random 4-bit weights, straight on the ops: prefill and decode speed.

Knows one geometry. Does not know tokenizers, sampling or checkpoints.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

import mlx.core as mx
import numpy as np

import vlm_kernels as kernels


@dataclass(frozen=True)
class Geometry:
    """Sizes of a llama-shaped decoder."""

    dim: int = 2048
    hidden: int = 8192
    heads: int = 16
    key_heads: int = 8
    head_size: int = 128
    layers: int = 8
    vocabulary: int = 32000

    @property
    def parameters(self) -> int:
        """Weights of all matrices but the embedding table."""
        attention = self.dim * self.head_size * 2 * (self.heads + self.key_heads)
        return self.layers * (attention + 3 * self.dim * self.hidden) + self.vocabulary * self.dim


class Decoder:
    """Weights and a key-value cache of fixed capacity."""

    def __init__(self, geometry: Geometry, capacity: int) -> None:
        self.geometry = geometry
        self._random = np.random.default_rng(0)
        g = geometry
        wide, narrow = g.heads * g.head_size, g.key_heads * g.head_size
        self._layers = [
            {
                "qkv": [self._packed(rows, g.dim) for rows in (wide, narrow, narrow)],
                "out": [self._packed(g.dim, wide)],
                "gate_up": [self._packed(g.hidden, g.dim) for _ in range(2)],
                "down": [self._packed(g.dim, g.hidden)],
            }
            for _ in range(g.layers)
        ]
        self._head = self._packed(g.vocabulary, g.dim)
        self._embedding = mx.array(self._random.standard_normal((g.vocabulary, g.dim), dtype=np.float32)).astype(
            mx.bfloat16
        )
        self._norm = mx.ones((g.dim,), dtype=mx.bfloat16)
        self._cache = [
            [mx.zeros((1, g.key_heads, capacity, g.head_size), dtype=mx.bfloat16) for _ in range(2)]
            for _ in range(g.layers)
        ]
        mx.eval(self._layers, self._head, self._embedding, self._norm, self._cache)

    def _packed(self, rows: int, columns: int) -> kernels.Projection:
        # Random codes: drawing and quantizing real weights would take a minute on stock MLX.
        words = mx.array(self._random.integers(0, 2**32, (rows, columns // 8), dtype=np.uint32))
        scales = mx.array(self._random.random((rows, columns // 64), dtype=np.float32) * 2e-3).astype(mx.bfloat16)
        return kernels.Projection(words, scales, scales * -7.5)

    def step(self, tokens: mx.array, position: int) -> mx.array:
        """The next token after `tokens` [L], which stand at `position`."""
        g, length = self.geometry, tokens.shape[0]
        half = g.head_size // 2
        angles = mx.arange(position, position + length)[:, None] * (10000.0 ** (-mx.arange(half) / half))
        cos, sin = mx.cos(angles)[None], mx.sin(angles)[None]
        end = position + length
        x = self._embedding[tokens][None]
        for weights, cache in zip(self._layers, self._cache):
            qkv = kernels.project(x, weights["qkv"], norm_weight=self._norm, eps=1e-6)
            q, k, v = (part.reshape(1, length, -1, g.head_size).transpose(0, 2, 1, 3) for part in qkv)
            cache[0][:, :, position:end] = kernels.rope(k, cos, sin)
            cache[1][:, :, position:end] = v
            mixed = kernels.attention(
                kernels.rope(q, cos, sin),
                cache[0][:, :, :end],
                cache[1][:, :, :end],
                scale=g.head_size**-0.5,
                mask="causal" if length > 1 else None,
            )
            mixed = mixed.transpose(0, 2, 1, 3).reshape(1, length, -1)
            (x,) = kernels.project(mixed, weights["out"], residual=x)
            (active,) = kernels.project(x, weights["gate_up"], norm_weight=self._norm, eps=1e-6, gate="swiglu")
            (x,) = kernels.project(active, weights["down"], residual=x)
        (logits,) = kernels.project(x[:, -1:], [self._head], norm_weight=self._norm, eps=1e-6)
        return mx.argmax(logits[0, -1], keepdims=True)


# Tokens timed as one.
_STRETCH = 8


@dataclass(frozen=True)
class Speed:
    """Tokens per second of a prompt and of single tokens after it, and bits per weight."""

    prompt: int
    prefill: float
    decode: float
    bits_per_weight: float


def measure(prompt: int, tokens: int, repeats: int) -> Speed:
    """Best of `repeats` prefills of `prompt` tokens and of stretches of _STRETCH among `tokens` steps.

    The next step is queued before the last one's token is there, as the engine does it.
    """
    decoder = Decoder(Geometry(), prompt + tokens + 1)
    prefill, decode = float("inf"), float("inf")
    for _ in range(repeats):
        start = time.perf_counter()
        token = decoder.step(mx.arange(prompt), 0)
        mx.eval(token)
        prefill = min(prefill, time.perf_counter() - start)
        for first in range(0, tokens - _STRETCH + 1, _STRETCH):
            start = time.perf_counter()
            for i in range(first, first + _STRETCH):
                earlier, token = token, decoder.step(token, prompt + i)
                mx.async_eval(token)
                mx.eval(earlier)
            mx.eval(token)
            decode = min(decode, (time.perf_counter() - start) / _STRETCH)
    return Speed(prompt, prompt / prefill, 1 / decode, 4 + 32 / 64)
