"""Check and time TurboQuant on an NVIDIA GPU: `python turboquant_cuda.py check|time|prefill OUTPUT.json`.

Random codes and norms stand for a cache, so that a long one costs nothing to make. Calls are chained (each query is the
last result), because independent kernels of one graph would overlap. `check` wants MLX_ENABLE_TF32=0.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import mlx.core as mx
import numpy as np

from vlm_kernels import turboquant
from vlm_kernels.turboquant import cuda, kernels, reference
from vlm_kernels.turboquant.masks import KeyMask


def random_store(batch: int, heads: int, capacity: int, spec: turboquant.Spec) -> turboquant.Packed:
    codes = mx.random.randint(0, 2**31 - 1, (batch, heads, capacity, spec.num_words)).astype(mx.uint32)
    codes = codes * 2 + mx.random.randint(0, 2, codes.shape).astype(mx.uint32)
    norms = mx.random.uniform(0.5, 1.5, (batch, heads, capacity)).astype(mx.bfloat16)
    mx.eval(codes, norms)
    return turboquant.Packed(codes, norms, spec)


def milliseconds(step: Callable[[mx.array], mx.array], x: mx.array, calls: int = 30, repeats: int = 7) -> float:
    def run() -> float:
        y = x
        for _ in range(calls):
            y = step(y)
        # The graph is built: what is timed is its evaluation, as in a decode step that was traced once.
        start = time.perf_counter()
        mx.eval(y)
        return (time.perf_counter() - start) * 1e3 / calls

    run()
    run()
    return statistics.median(run() for _ in range(repeats))


def relative(a: mx.array, b: mx.array) -> float:
    a, b = a.astype(mx.float32), b.astype(mx.float32)
    return float((mx.linalg.norm(a - b) / mx.linalg.norm(b)).item())


def check() -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    mask = mx.array(np.random.default_rng(1).random((2, 1, 1, 1000)) < 0.7)
    lengths = mx.array([900, 333], mx.int32)
    for heads, kv_heads, queries, size, key_bits, value_bits, dtype, options in (
        (32, 8, 1, 128, 3, 4, mx.float32, {}),
        (32, 8, 1, 128, 3, 4, mx.bfloat16, {"lengths": lengths, "offsets": lengths - 1}),
        (28, 4, 3, 128, 4, 3, mx.float32, {"lengths": lengths, "offsets": lengths - 3, "window": 100}),
        (8, 2, 1, 64, 2, 1, mx.float32, {"array": mask}),
        (16, 4, 2, 256, 3, 4, mx.float32, {"lengths": 700, "offsets": 698}),
        (4, 2, 1, 512, 3, 4, mx.float32, {"lengths": 700}),
        (32, 8, 200, 128, 3, 4, mx.bfloat16, {"lengths": 900, "offsets": 700}),
        (32, 8, 200, 128, 5, 8, mx.float16, {"lengths": lengths, "offsets": lengths - 200}),
        (32, 8, 40, 80, 3, 4, mx.bfloat16, {"lengths": 900, "offsets": 860, "window": 30}),
    ):
        k = mx.random.normal((2, kv_heads, 1000, size))
        v = mx.random.normal((2, kv_heads, 1000, size))
        q = mx.random.normal((2, heads, queries, size)).astype(dtype)
        keys, values = turboquant.encode(k, key_bits), turboquant.encode(v, value_bits)
        key_mask = KeyMask(**options)
        got = cuda.attention(q, keys, values, scale=size**-0.5, mask=key_mask)
        # The definition in float32, so that its own rounding to 16 bits does not count.
        want = reference.attention(q.astype(mx.float32), keys, values, scale=size**-0.5, mask=key_mask)
        rows.append(
            {
                "case": f"{heads}/{kv_heads} L{queries} d{size} k{key_bits}v{value_bits} {dtype} {sorted(options)}",
                "error": relative(got, want),
            }
        )
        print(rows[-1], flush=True)
    return rows


def decode() -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for heads, kv_heads, size, num_keys, multiples in (
        (32, 8, 128, 4096, (4,)),
        (32, 8, 128, 32768, (4,)),
        (32, 8, 128, 131072, (4, 8, 12)),
        (32, 8, 128, 524288, (4, 8, 12)),
        (28, 4, 128, 131072, (3, 6)),
        (16, 4, 256, 131072, (3, 6)),
    ):
        q = mx.random.normal((1, heads, 1, size)).astype(mx.bfloat16)
        scale = size**-0.5
        k, v = (mx.random.normal((1, kv_heads, num_keys, size)).astype(mx.bfloat16) for _ in range(2))
        mx.eval(k, v)
        dense = milliseconds(lambda y: mx.fast.scaled_dot_product_attention(y, k, v, scale=scale), q)
        del k, v
        mx.clear_cache()
        for key_bits, value_bits in ((3, 4), (4, 4)) if size == 128 and heads == 32 else ((3, 4),):
            keys = random_store(1, kv_heads, num_keys, turboquant.Spec(key_bits, size))
            values = random_store(1, kv_heads, num_keys, turboquant.Spec(value_bits, size))
            lengths = mx.array([num_keys], mx.int32)
            for multiple in multiples:
                cuda._num_blocks = lambda *_, multiple=multiple: cuda.NUM_MULTIPROCESSORS * multiple  # type: ignore[assignment]
                ours = milliseconds(
                    lambda y: turboquant.attention(y, keys, values, scale=scale, lengths=lengths, offsets=lengths - 1),
                    q,
                )
                rows.append(
                    {
                        "heads": f"{heads}/{kv_heads}",
                        "size": size,
                        "keys": num_keys,
                        "dense_us": dense * 1e3,
                        "bits": (key_bits, value_bits),
                        "blocks": multiple,
                        "us": ours * 1e3,
                        "speedup": dense / ours,
                        "GB/s": (keys.nbytes + values.nbytes) / ours / 1e6,
                    }
                )
                print({k: round(v, 2) if isinstance(v, float) else v for k, v in rows[-1].items()}, flush=True)
            del keys, values
    q = mx.random.normal((1, 32, 1, 128)).astype(mx.bfloat16)
    rows.append({"rotate_us": 1e3 * milliseconds(lambda y: kernels.rotate(cuda.dialect(), y, 1.0, 34), q)})
    print(rows[-1], flush=True)
    return rows


def prefill() -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    heads, kv_heads, size, chunk = 28, 4, 128, 2048
    for num_keys in (2048, 8192, 32768):
        q = mx.random.normal((1, heads, chunk, size)).astype(mx.bfloat16)
        k, v = (mx.random.normal((1, kv_heads, num_keys, size)).astype(mx.bfloat16) for _ in range(2))
        keys = random_store(1, kv_heads, num_keys, turboquant.Spec(3, size))
        values = random_store(1, kv_heads, num_keys, turboquant.Spec(4, size))
        dense = milliseconds(
            lambda y: mx.fast.scaled_dot_product_attention(y, k, v, scale=size**-0.5, mask="causal"), q, 5, 3
        )
        mx.clear_cache()
        mx.reset_peak_memory()
        before = mx.get_active_memory()
        mx.eval(turboquant.attention(q, keys, values, scale=size**-0.5, lengths=num_keys, offsets=num_keys - chunk))
        peak = mx.get_peak_memory() - before
        ours = milliseconds(
            lambda y: turboquant.attention(
                y, keys, values, scale=size**-0.5, lengths=num_keys, offsets=num_keys - chunk
            ),
            q,
            5,
            3,
        )
        rows.append({"keys": num_keys, "dense_ms": dense, "ms": ours, "workspace_mb": peak / 2**20})
        print(rows[-1], flush=True)
    for length in (1, 2048):
        x = mx.random.normal((1, 8, length, 128)).astype(mx.bfloat16)
        mx.eval(x)

        def encode_both() -> None:
            packed = [turboquant.encode(x, bits) for bits in (3, 4)]
            mx.eval([p.codes for p in packed], [p.norms for p in packed])

        encode_both()
        encode_both()
        start = time.perf_counter()
        for _ in range(20):
            encode_both()
        rows.append({"encode_tokens": length, "encode_us": (time.perf_counter() - start) / 20 * 1e6})
        print(rows[-1], flush=True)
    return rows


if __name__ == "__main__":
    mx.random.seed(0)
    result = {"check": check, "time": decode, "prefill": prefill}[sys.argv[1]]()
    with open(sys.argv[2], "w") as file:
        json.dump(result, file, indent=1)
