"""What stock MLX would take for a whole model: one layer of each kind is timed on MLX's own ops and multiplied.

Rows of a prompt are timed on a few and scaled, as its products take time in proportion; what is left out (norms, rotary
positions, patch embedding, sampling) makes the estimate too low.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import Any

import mlx.core as mx

_FEW = 2


def _seconds(function: Callable[[], Any]) -> float:
    start = time.perf_counter()
    mx.eval(function())
    return time.perf_counter() - start


def _packed(rows: int, columns: int) -> tuple[mx.array, mx.array, mx.array]:
    words = mx.random.randint(-(2**31), 2**31 - 1, (rows, columns // 8), dtype=mx.int32).view(mx.uint32)
    scales = mx.full((rows, columns // 64), 0.005, mx.bfloat16)
    parts = (words, scales, scales * -7.5)
    mx.eval(parts)
    return parts


def _products(shapes: list[tuple[int, int]], rows: int, times: int) -> float:
    """Seconds of 4-bit products of [rows, K] with each [N, K], measured on a few rows."""
    few = min(rows, _FEW)
    total = 0.0
    for n, k in shapes:
        x, packed = mx.ones((few, k), mx.bfloat16), _packed(n, k)
        mx.eval(x)
        total += _seconds(partial(mx.quantized_matmul, x, *packed, True, 64, 4))
    return total * rows / few * times


def _dense(shapes: list[tuple[int, int]], rows: int, times: int) -> float:
    few = min(rows, 64)
    total = 0.0
    for n, k in shapes:
        x, w = mx.ones((few, k), mx.bfloat16), mx.ones((n, k), mx.bfloat16)
        mx.eval(x, w)
        total += _seconds(partial(mx.matmul, x, w.T))
    return total * rows / few * times


def _attention(heads: int, key_heads: int, queries: int, keys: int, size: int, mask: str | None) -> float:
    q = mx.ones((1, heads, queries, size), mx.bfloat16)
    k = mx.ones((1, key_heads, keys, size), mx.bfloat16)
    mx.eval(q, k)
    return _seconds(lambda: mx.fast.scaled_dot_product_attention(q, k, k, scale=size**-0.5, mask=mask))


def qwen2_vl_seconds(hf: dict[str, Any], patches: int, prompt: int) -> dict[str, float]:
    """Time to first token and of one further token, of a Qwen2-VL configuration with 4-bit text weights."""
    dim, hidden = hf["hidden_size"], hf["intermediate_size"]
    heads, key_heads = hf["num_attention_heads"], hf["num_key_value_heads"]
    size = dim // heads
    layers, vision = hf["num_hidden_layers"], hf["vision_config"]
    wide, deep = vision["embed_dim"], vision["depth"]
    text = [(dim, dim), (key_heads * size, dim), (key_heads * size, dim), (dim, dim), (hidden, dim), (hidden, dim)]
    text.append((dim, hidden))
    inner = int(wide * vision["mlp_ratio"])
    tower = _dense([(3 * wide, wide), (wide, wide), (inner, wide), (wide, inner)], patches, deep)
    tower += deep * _attention(
        vision["num_heads"], vision["num_heads"], patches, patches, wide // vision["num_heads"], None
    )
    head = _products([(hf["vocab_size"], dim)], 1, 1)
    prefill = _products(text, prompt, layers) + layers * _attention(heads, key_heads, prompt, prompt, size, "causal")
    step = _products(text, 1, layers) + layers * _attention(heads, key_heads, 1, prompt, size, None)
    return {"first": tower + prefill + head, "token": step + head}
