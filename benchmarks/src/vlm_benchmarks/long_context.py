"""A long context in 16 bits and in a quantized cache: bytes of keys and values, peak memory, speed of prefill and decode.

Random weights. Decoding starts from random stored keys and values, because what they hold changes neither bytes nor speed:
the last chunk of the prompt and all decoded tokens run for real, through the runner that serves users.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np

from vlm_models import Full, Model, Prompt, family
from vlm_runtime.cache import CacheOptions, CacheSet
from vlm_runtime.cache.build import build_caches
from vlm_runtime.engine.batch import AHEAD_BYTES
from vlm_runtime.engine.runner import Prefill, Runner

from .long_geometries import LONG_GEOMETRIES
from .machine import machine
from .random_model import fill as fill_weights


@dataclass(frozen=True)
class Work:
    """geometry: of `long_geometries.py`. context: tokens when decoding starts."""

    geometry: str
    context: int
    chunk: int = 2048
    decode: int = 48


def options(kv_bits: float | None) -> CacheOptions:
    """Plain, or TurboQuant at so many bits."""
    return CacheOptions() if kv_bits is None else CacheOptions(kv_bits=kv_bits, scheme="turboquant")


def prompt_of(length: int, axes: int) -> Prompt:
    """Random tokens that every vocabulary has."""
    tokens = np.random.default_rng(0).integers(10, 1000, length).astype(np.int32)
    return Prompt(tokens, np.broadcast_to(np.arange(length, dtype=np.int32), (axes, length)).copy())


def fill(caches: CacheSet) -> None:
    """Random content in everything a cache keeps a token in; recurrent states stay."""
    for leaf in caches.leaves:
        if hasattr(leaf, "stored"):
            arrays = [_random(a) for a in leaf.arrays()]
            mx.eval(arrays)
            leaf.load(arrays)


def _random(like: mx.array) -> mx.array:
    if like.dtype == mx.uint32:
        return mx.random.randint(-(2**31), 2**31 - 1, like.shape, dtype=mx.int32).view(mx.uint32)
    if like.ndim == 3:
        return mx.random.uniform(0.5, 1.5, like.shape).astype(like.dtype)
    return mx.random.normal(like.shape, like.dtype)


def key_value_bytes(model: Model, caches: CacheSet) -> int:
    """Bytes of the layers that keep every token, without room for tokens to come."""
    total = 0
    for spec, layer in zip(model.cache_spec(), caches.layers, strict=True):
        if isinstance(spec, Full):
            total += layer.nbytes  # type: ignore[union-attr]
    return total


def decode(model: Model, work: Work, kv_bits: float | None, axes: int) -> dict[str, Any]:
    """Decode tokens a second at `work.context` tokens, bytes of the cache, peak memory over the last chunk and decoding."""
    runner = Runner(model, options(kv_bits), "benchmark")
    start = runner.begin(prompt_of(work.context, axes))
    runner.prefill(start, 64)
    fill(start.caches)
    start.done = work.context - work.chunk
    mx.clear_cache()
    mx.reset_peak_memory()
    begin = time.perf_counter()
    runner.prefill(start, work.context)
    chunk_seconds = time.perf_counter() - begin
    first = start.logits
    assert first is not None
    bytes_held = key_value_bytes(model, start.caches)
    capacity = max(getattr(leaf, "capacity", 0) for leaf in start.caches.leaves)
    runner.room_for(1)
    runner.join(0, start)
    del start
    chunk_peak = mx.get_peak_memory()
    mx.synchronize()
    time.sleep(0.2)  # what the chunk held is freed by another thread
    mx.reset_peak_memory()
    runs_ahead = runner.caches.nbytes <= AHEAD_BYTES
    tokens = mx.argmax(first, axis=-1).astype(mx.int32)
    times = []
    length = work.context
    for step in range(work.decode):
        if step in (8, work.decode - 1):
            mx.eval(tokens)
            times.append(time.perf_counter())
        tokens = mx.argmax(runner.decode(tokens, [length], [0], [None]), axis=-1).astype(mx.int32)
        # As the engine does: a step queued before the last one is over would copy the caches that it may not write to.
        (mx.async_eval if runs_ahead else mx.eval)(tokens, *runner.state())
        length += 1
    mx.eval(tokens)
    return {
        "decode_tps": (work.decode - 9) / (times[1] - times[0]),
        "kv_gb": bytes_held * work.context / capacity / 1e9,
        "cache_gb": runner.caches.nbytes / 1e9,
        "peak_gb": max(chunk_peak, mx.get_peak_memory()) / 1e9,
        "decode_peak_gb": mx.get_peak_memory() / 1e9,
        "chunk_seconds": chunk_seconds,
        "is_compiled": runner._compiles,
    }


def prefill(model: Model, work: Work, kv_bits: float | None, axes: int) -> dict[str, Any]:
    """Prompt tokens a second over a whole prompt of `work.context` tokens in chunks, and peak memory."""

    def run(length: int) -> float:
        runner = Runner(model, options(kv_bits), "benchmark")
        start: Prefill = runner.begin(prompt_of(length, axes))
        mx.clear_cache()
        mx.reset_peak_memory()
        begin = time.perf_counter()
        while start.done < length:
            runner.prefill(start, min(start.done + work.chunk, length))
        return time.perf_counter() - begin

    run(min(2 * work.chunk, work.context))
    seconds = run(work.context)
    return {"prefill_tps": work.context / seconds, "peak_gb": mx.get_peak_memory() / 1e9}


def bytes_on_paper(model: Model, kv_bits: float | None, tokens: int) -> float:
    """Bytes of one more token in the layers that keep all, times `tokens`, from the codec itself."""
    caches = build_caches([s for s in model.cache_spec() if isinstance(s, Full)], options(kv_bits), dtype=model.dtype)
    specs = [s for s in model.cache_spec() if isinstance(s, Full)]
    total = 0
    for spec, leaf in zip(specs, caches.layers, strict=True):
        shape = (1, spec.num_heads, 1)
        one = leaf.codec.encode(  # type: ignore[union-attr]
            mx.zeros((*shape, spec.key_size), model.dtype), mx.zeros((*shape, spec.value_size), model.dtype)
        )
        total += sum(a.nbytes for a in one)
    return float(total * tokens)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="vlm_benchmarks.long_context", description=__doc__)
    parser.add_argument("measure", choices=("decode", "prefill"))
    parser.add_argument("geometry")
    parser.add_argument("output", type=Path)
    parser.add_argument("--context", type=int, default=131072)
    parser.add_argument("--chunk", type=int, default=2048)
    parser.add_argument("--decode", type=int, default=48)
    parser.add_argument("--kv-bits", nargs="*", default=["16", "3.5"])
    given = parser.parse_args(arguments)
    work = Work(given.geometry, given.context, given.chunk, given.decode)
    hf = LONG_GEOMETRIES[work.geometry]
    kind = family(hf["model_type"])
    model = kind.model(kind.config(hf))
    fill_weights(model, mx.bfloat16)
    axes = 3 if kind.name.startswith("qwen") else 1
    result: dict[str, Any] = {"work": work.__dict__, "machine": machine(), "weights_gb": mx.get_active_memory() / 1e9}
    for bits in given.kv_bits:
        kv_bits = None if bits == "16" else float(bits)
        row = {"decode": decode, "prefill": prefill}[given.measure](model, work, kv_bits, axes)
        row["kv_gb_on_paper"] = bytes_on_paper(model, kv_bits, work.context) / 1e9
        result[bits] = row
        given.output.write_text(json.dumps(result, indent=1) + "\n")
        sys.stdout.write(json.dumps({"kv_bits": bits, **row}) + "\n")
        sys.stdout.flush()
        mx.clear_cache()


if __name__ == "__main__":
    main()
