"""One request after another on a real geometry with random weights: prompt TPS, generation TPS, time to first token, peak memory.

The engine that serves users is what runs; nothing is downloaded.
"""

from __future__ import annotations

import statistics
import time
from dataclasses import asdict, dataclass
from typing import Any

import mlx.core as mx
import numpy as np

from vlm_models import MediaOptions, Model, ProcessorFiles, Prompt
from vlm_runtime import EngineCore, EngineOptions, Request, SamplingParams, quantize_inputs

from .geometry import GEOMETRIES
from .machine import machine
from .random_model import build


@dataclass(frozen=True)
class Workload:
    """What is run. image: (height, width) of one picture in front of the text, or None. generate: tokens per request.
    quantize_activations: layers that can quantize their inputs do. layers: of the text side, None for all."""

    geometry: str
    bits: int | None = None
    mode: str = "affine"
    dtype: str = "bfloat16"
    prompt_tokens: int = 512
    image: tuple[int, int] | None = None
    generate: int = 64
    repeat: int = 3
    quantize_activations: bool = False
    layers: int | None = None


def prompt_for(work: Workload, config: Any, processing: Any) -> Prompt:
    """A prompt of random text tokens, and a random picture in front of them."""
    generator = np.random.default_rng(0)
    text = generator.integers(10, min(5000, GEOMETRIES[work.geometry]["vocab_size"]), work.prompt_tokens).astype(
        np.int32
    )
    if work.image is None:
        return processing.prompt(text, [])
    pixels = generator.integers(0, 256, (*work.image, 3), dtype=np.uint8)
    item = processing.image(pixels, MediaOptions())
    run = np.full(item.num_tokens, processing.token_ids["image"], np.int32)
    return processing.prompt(np.concatenate([run, text]), [item])


def answer(model: Model, prompt: Prompt, num_tokens: int) -> tuple[float, float]:
    """Seconds to the first token, and from it to the last. Nothing is cached from earlier requests."""
    core = EngineCore(model, EngineOptions(prefix_bytes=0))
    params = SamplingParams(max_tokens=num_tokens)
    start = time.perf_counter()
    core.add(0, Request(prompt, params, use_prefix=False))
    times = []
    while core.has_work:
        for event in core.step():
            if event.error is not None:
                raise event.error
            if event.token is not None:
                times.append(time.perf_counter())
    return times[0] - start, times[-1] - times[0]


def measure(work: Workload) -> dict[str, Any]:
    """Run a workload once to warm up and `repeat` times to measure; medians, with every run's figures beside them."""
    model, kind, config = build(work.geometry, bits=work.bits, mode=work.mode, dtype=work.dtype, layers=work.layers)
    if work.quantize_activations:
        quantize_inputs(model)
    prompt = prompt_for(work, config, kind.processing(config, ProcessorFiles(), None))
    weights = mx.get_active_memory()
    answer(model, prompt, min(work.generate, 4))
    mx.reset_peak_memory()
    runs = [answer(model, prompt, work.generate) for _ in range(work.repeat)]
    first = statistics.median(run[0] for run in runs)
    rest = statistics.median(run[1] for run in runs)
    return {
        "workload": asdict(work),
        "machine": machine(),
        "prompt_tokens": len(prompt),
        "image_tokens": sum(item.num_tokens for item in prompt.items),
        "time_to_first_token": first,
        "prompt_tps": len(prompt) / first,
        "generation_tps": (work.generate - 1) / rest if rest else None,
        "peak_memory_bytes": mx.get_peak_memory(),
        "weight_bytes": weights,
        "runs": [{"first": a, "rest": b} for a, b in runs],
    }
