"""Check and time TurboQuant on an NVIDIA GPU: `python turboquant_cuda.py check|decode|sweep|prefill OUTPUT.json`.

Random codes and norms stand for a cache, so that a long one costs nothing to make. Calls are chained (each query is the
last result), because independent kernels of one graph would overlap. `check` wants MLX_ENABLE_TF32=0.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np

from vlm_kernels import turboquant
from vlm_kernels.turboquant import cuda, kernels, reference
from vlm_kernels.turboquant.masks import KeyMask

Row = dict[str, Any]


def random_store(batch: int, heads: int, capacity: int, spec: turboquant.Spec) -> turboquant.Packed:
    codes = mx.random.randint(0, 2**31 - 1, (batch, heads, capacity, spec.num_words)).astype(mx.uint32)
    codes = codes * 2 + mx.random.randint(0, 2, codes.shape).astype(mx.uint32)
    norms = mx.random.uniform(0.5, 1.5, (batch, heads, capacity)).astype(mx.bfloat16)
    mx.eval(codes, norms)
    return turboquant.Packed(codes, norms, spec)


def milliseconds(step: Callable[[mx.array], mx.array], x: mx.array, calls: int = 120, repeats: int = 5) -> float:
    """Median time of one call of a chain long enough for the host to work ahead, as it does in a traced decode step. The graph is
    built before the clock starts."""

    def run() -> float:
        y = x
        for _ in range(calls):
            y = step(y)
        start = time.perf_counter()
        mx.eval(y)
        return (time.perf_counter() - start) * 1e3 / calls

    run()
    run()
    return statistics.median(run() for _ in range(repeats))


def relative(a: mx.array, b: mx.array) -> float:
    a, b = a.astype(mx.float32), b.astype(mx.float32)
    return float(np.array(mx.linalg.norm(a - b) / mx.linalg.norm(b)))


def check() -> Iterator[Row]:
    mask = mx.array(np.random.default_rng(1).random((2, 1, 1, 1000)) < 0.7)
    lengths = mx.array([900, 333], mx.int32)
    before = tuple(mx.random.normal((2, 8, 50, 128)) for _ in range(2))
    plain = turboquant.Extras()
    for heads, kv_heads, queries, size, key_bits, value_bits, dtype, key_mask, extras in (
        (32, 8, 1, 128, 3, 4, mx.float32, KeyMask(), plain),
        (32, 8, 1, 128, 3, 4, mx.bfloat16, KeyMask(lengths, lengths - 1), plain),
        (28, 4, 3, 128, 4, 3, mx.float32, KeyMask(lengths, lengths - 3, 100), plain),
        (8, 2, 1, 64, 2, 1, mx.float32, KeyMask(array=mask), plain),
        (16, 4, 2, 256, 3, 4, mx.float32, KeyMask(700, 698), plain),
        (4, 2, 1, 512, 3, 4, mx.float32, KeyMask(700), plain),
        (8, 2, 1, 80, 3, 4, mx.float32, KeyMask(lengths), plain),
        (8, 2, 1, 128, 5, 8, mx.float32, KeyMask(lengths), plain),
        (32, 8, 200, 128, 3, 4, mx.bfloat16, KeyMask(900, 700), plain),
        (32, 8, 200, 128, 5, 8, mx.float16, KeyMask(lengths, lengths - 200), plain),
        (32, 8, 40, 80, 3, 4, mx.bfloat16, KeyMask(900, 860, 30), plain),
        (32, 8, 1, 128, 3, 4, mx.float32, KeyMask(lengths), turboquant.Extras(softcap=2.0)),
        (32, 8, 1, 128, 5, 8, mx.float32, KeyMask(lengths), turboquant.Extras(softcap=2.0)),
        (32, 8, 2, 128, 3, 4, mx.float32, KeyMask(lengths, lengths - 2), turboquant.Extras(prefix=before)),
        (32, 8, 1, 128, 3, 4, mx.float32, KeyMask(lengths), turboquant.Extras(sinks=mx.arange(32) * 0.1)),
        (32, 8, 200, 128, 3, 4, mx.bfloat16, KeyMask(900, 700), turboquant.Extras(prefix=before)),
    ):
        k, v = (mx.random.normal((2, kv_heads, 1000, size)) for _ in range(2))
        q = mx.random.normal((2, heads, queries, size)).astype(dtype)
        keys, values = turboquant.encode(k, key_bits), turboquant.encode(v, value_bits)
        got = cuda.attention(q, keys, values, scale=size**-0.5, mask=key_mask, extras=extras)
        # The definition in float32, so that its own rounding to 16 bits does not count.
        want = reference.attention(q.astype(mx.float32), keys, values, scale=size**-0.5, mask=key_mask, extras=extras)
        restored = turboquant.decode(keys)
        yield {
            "case": f"{heads}/{kv_heads} L{queries} d{size} {key_bits}/{value_bits} bits {dtype}"
            + "".join(f" {name}" for name in ("softcap", "sinks", "prefix") if getattr(extras, name) is not None),
            "error": relative(got, want),
            "distortion": relative(restored, k) ** 2,
            "distortion of the reference": relative(reference.decode(reference.encode(k, keys.spec)), k) ** 2,
        }


def decode() -> Iterator[Row]:
    for heads, kv_heads, size, num_keys, splits in (
        (32, 8, 128, 4096, ((3, 4),)),
        (32, 8, 128, 32_768, ((3, 4),)),
        (32, 8, 128, 131_072, ((3, 4), (4, 4))),
        (32, 8, 128, 524_288, ((3, 4), (4, 4))),
        (28, 4, 128, 131_072, ((3, 4),)),
        (16, 4, 256, 131_072, ((3, 4),)),
    ):
        q = mx.random.normal((1, heads, 1, size)).astype(mx.bfloat16)
        dense = dense_milliseconds(q, kv_heads, num_keys, None)
        for key_bits, value_bits in splits:
            keys = random_store(1, kv_heads, num_keys, turboquant.Spec(key_bits, size))
            values = random_store(1, kv_heads, num_keys, turboquant.Spec(value_bits, size))
            ours = packed_milliseconds(q, keys, values, mx.array([num_keys], mx.int32), 120)
            yield {
                "heads": f"{heads}/{kv_heads}",
                "size": size,
                "keys": num_keys,
                "bits": f"{key_bits}/{value_bits}",
                "dense_us": dense * 1e3,
                "us": ours * 1e3,
                "speedup": dense / ours,
                "GB/s": (keys.nbytes + values.nbytes) / ours / 1e6,
            }
            del keys, values


def sweep() -> Iterator[Row]:
    """Decode by the number of ranges of keys, and what its rotation and reduction take alone."""
    for heads, kv_heads, size, num_keys in (
        (32, 8, 128, 131_072),
        (32, 8, 128, 524_288),
        (28, 4, 128, 131_072),
        (16, 4, 256, 131_072),
        (32, 4, 512, 131_072),
    ):
        q = mx.random.normal((1, heads, 1, size)).astype(mx.bfloat16)
        keys = random_store(1, kv_heads, num_keys, turboquant.Spec(3, size))
        values = random_store(1, kv_heads, num_keys, turboquant.Spec(4, size))
        mask = KeyMask(mx.array([num_keys], mx.int32))
        times: dict[str, float] = {}
        for per_processor in (1, 2, 3, 4, 5, 6, 8, 12):
            splits = cuda.NUM_MULTIPROCESSORS * per_processor // kv_heads
            if splits <= kernels.MAX_SPLITS:
                attend = partial(
                    decode_in_ranges,
                    keys=keys,
                    values=values,
                    scale=0.1,
                    mask=mask,
                    num_splits=splits,
                )
                times[str(splits)] = 1e3 * milliseconds(attend, q)
        best = min(times, key=lambda name: times[name])
        rotate = partial(kernels.rotate, cuda.dialect(), factor=1.0, seed=keys.spec.seed)
        rotation = milliseconds(rotate, q.astype(mx.float32))
        yield {
            "heads": f"{heads}/{kv_heads}",
            "size": size,
            "keys": num_keys,
            "best": best,
            "us": times[best],
            "all": {name: round(time_us, 1) for name, time_us in times.items()},
            "rotate_us": rotation * 1e3,
        }


def decode_in_ranges(q: mx.array, **options: Any) -> mx.array:
    return cuda.decode_attention(cuda.dialect(), q, **options)[0]


def prefill() -> Iterator[Row]:
    heads, kv_heads, size, chunk = 28, 4, 128, 2048
    for num_keys in (2048, 8192, 32_768):
        q = mx.random.normal((1, heads, chunk, size)).astype(mx.bfloat16)
        dense = dense_milliseconds(q, kv_heads, num_keys, "causal", calls=5)
        keys = random_store(1, kv_heads, num_keys, turboquant.Spec(3, size))
        values = random_store(1, kv_heads, num_keys, turboquant.Spec(4, size))
        mx.reset_peak_memory()
        before = mx.get_active_memory()
        mx.eval(turboquant.attention(q, keys, values, scale=0.1, lengths=num_keys, offsets=num_keys - chunk))
        peak = mx.get_peak_memory() - before
        ours = packed_milliseconds(q, keys, values, num_keys, 5)
        yield {"keys": num_keys, "dense_ms": dense, "ms": ours, "workspace_mb": peak / 2**20}
    for length in (1, 2048):
        x = mx.random.normal((1, 8, length, 128)).astype(mx.bfloat16)
        yield {"encode_tokens": length, "us": milliseconds(lambda y: encode_and_return(y), x, 20) * 1e3}


def dense_milliseconds(q: mx.array, kv_heads: int, num_keys: int, mask: str | None, calls: int = 120) -> float:
    k, v = (mx.random.normal((1, kv_heads, num_keys, q.shape[-1])).astype(mx.bfloat16) for _ in range(2))
    mx.eval(k, v)
    return milliseconds(lambda y: mx.fast.scaled_dot_product_attention(y, k, v, scale=0.1, mask=mask), q, calls)


def packed_milliseconds(
    q: mx.array, keys: turboquant.Packed, values: turboquant.Packed, lengths: int | mx.array, calls: int
) -> float:
    offsets = lengths - q.shape[2]
    return milliseconds(
        lambda y: turboquant.attention(y, keys, values, scale=0.1, lengths=lengths, offsets=offsets), q, calls
    )


def encode_and_return(x: mx.array) -> mx.array:
    """Keys and values of x encoded; x again, once that is done, so that calls can be chained."""
    packed = [turboquant.encode(x, bits) for bits in (3, 4)]
    result: mx.array = mx.depends([x], [array for p in packed for array in (p.codes, p.norms)])[0]
    return result


if __name__ == "__main__":
    mx.random.seed(0)
    rows: list[Row] = []
    for row in {"check": check, "decode": decode, "sweep": sweep, "prefill": prefill}[sys.argv[1]]():
        rows.append(row)
        sys.stdout.write(json.dumps(row) + "\n")
        sys.stdout.flush()
    Path(sys.argv[2]).write_text(json.dumps(rows, indent=1) + "\n")
