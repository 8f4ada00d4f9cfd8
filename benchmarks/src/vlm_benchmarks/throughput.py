"""Many requests at once on a real geometry with random weights: what batching pays, and how long a short request waits.

The engine that serves users is what runs, thread and all; nothing is downloaded.
"""

from __future__ import annotations

import statistics
import time
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any

import mlx.core as mx
import numpy as np

from vlm_models import Model, ProcessorFiles, Prompt
from vlm_runtime import Engine, EngineOptions, Event, Request, SamplingParams
from vlm_runtime.scheduler import Limits

from .geometry import GEOMETRIES
from .machine import machine
from .random_model import build


@dataclass(frozen=True)
class Crowd:
    """What is run. rows: numbers of requests that decode together, each measured. prompt_tokens, generate: of each request.

    long_prompt: tokens of the prompt behind which a short request waits; 0: not measured. short_prompt: of the one that waits.
    layers: keep so many of the text's layers; None: all. traced: decode by traced graphs; None: as the engine decides.
    """

    geometry: str
    dtype: str = "bfloat16"
    bits: int | None = None
    layers: int | None = None
    rows: tuple[int, ...] = (1, 8)
    prompt_tokens: int = 128
    generate: int = 128
    repeat: int = 3
    long_prompt: int = 8192
    short_prompt: int = 32
    chunk_tokens: int = 2048
    traced: bool | None = None


class Clock:
    """Times of one request's tokens, in seconds of a common clock."""

    def __init__(self) -> None:
        self.asked = time.monotonic()
        self.times: list[float] = []
        self.tokens: list[int] = []

    def hear(self, event: Event) -> None:
        """Called on the engine's thread. Raises what went wrong with the request."""
        if event.error is not None:
            raise event.error
        if event.token is not None:
            self.times.append(event.time)
            self.tokens.append(event.token)

    @property
    def first(self) -> float:
        """Seconds to the first token."""
        return self.times[0] - self.asked


def measure(crowd: Crowd) -> dict[str, Any]:
    """Run every number of rows once to warm up and `repeat` times to measure; medians, with every run beside them."""
    model, kind, config = build(crowd.geometry, bits=crowd.bits, dtype=crowd.dtype, layers=crowd.layers)
    make = _Prompts(kind.processing(config, ProcessorFiles(), None), GEOMETRIES[crowd.geometry]["vocab_size"])
    result: dict[str, Any] = {"workload": asdict(crowd), "machine": machine(), "rows": {}}
    with _engine(model, crowd) as engine:
        for count in crowd.rows:
            _together(engine, make, count, crowd)
            mx.reset_peak_memory()
            runs = [_together(engine, make, count, crowd) for _ in range(crowd.repeat)]
            result["rows"][count] = _medians(runs) | {"peak_memory_bytes": mx.get_peak_memory(), "runs": runs}
        if crowd.long_prompt:
            _behind(engine, make, crowd)
            runs = [_behind(engine, make, crowd) for _ in range(crowd.repeat)]
            result["behind"] = _medians(runs) | {"runs": runs}
    base = result["rows"].get(1)
    if base is not None:
        for row in result["rows"].values():
            row["speedup"] = row["decode_tps"] / base["decode_tps"]
            row["speedup_whole"] = row["whole_tps"] / base["whole_tps"]
    return result


def _engine(model: Model, crowd: Crowd) -> Engine:
    limits = Limits(max_running=max(16, *crowd.rows), chunk_tokens=crowd.chunk_tokens, step_tokens=crowd.chunk_tokens)
    return Engine(model, EngineOptions(limits, prefix_bytes=0, compiles=crowd.traced))


class _Prompts:
    """Prompts of random text tokens, no two alike."""

    def __init__(self, processing: Any, vocabulary: int) -> None:
        self._processing, self._most = processing, min(5000, vocabulary)
        self._generator = np.random.default_rng(0)

    def __call__(self, length: int) -> Prompt:
        tokens = self._generator.integers(10, self._most, length).astype(np.int32)
        prompt: Prompt = self._processing.prompt(tokens, [])
        return prompt


def _ask(engine: Engine, prompt: Prompt, num_tokens: int) -> tuple[Clock, Any]:
    clock = Clock()
    request = Request(prompt, SamplingParams(max_tokens=num_tokens), use_prefix=False)
    return clock, engine.submit(request)


def _together(engine: Engine, make: _Prompts, count: int, crowd: Crowd) -> dict[str, float]:
    """`count` requests handed in at once. decode_tps: all rows' tokens per second while all of them decode. whole_tps: all
    tokens over the time from the first request to the last token. step_ms: median time between two tokens of a row."""
    started = time.monotonic()
    asked = [_ask(engine, make(crowd.prompt_tokens), crowd.generate) for _ in range(count)]
    clocks = [_listen(clock, stream) for clock, stream in asked]
    begin, end = max(clock.times[0] for clock in clocks), min(clock.times[-1] for clock in clocks)
    inside = sum(begin < moment <= end for clock in clocks for moment in clock.times)
    last = max(clock.times[-1] for clock in clocks)
    gaps = [b - a for clock in clocks for a, b in pairwise(clock.times) if a >= begin]
    return {
        "decode_tps": inside / (end - begin),
        "whole_tps": sum(len(clock.tokens) for clock in clocks) / (last - started),
        "time_to_first_token": statistics.median(clock.first for clock in clocks),
        "step_ms": 1e3 * statistics.median(gaps),
    }


def _listen(clock: Clock, stream: Any) -> Clock:
    for event in stream:
        clock.hear(event)
    return clock


def _behind(engine: Engine, make: _Prompts, crowd: Crowd) -> dict[str, float]:
    """A short request handed in while a long prompt prefills and another answer streams.

    short_alone, short_behind: its seconds to the first token. long_alone: the long prompt's. gap: the longest time between two
    tokens of the stream meanwhile. chunk: the long prompt's time by chunk, the bound that the design promises for both."""
    alone, stream = _ask(engine, make(crowd.short_prompt), 2)
    _listen(alone, stream)
    long_alone, stream = _ask(engine, make(crowd.long_prompt), 2)
    _listen(long_alone, stream)
    running, running_stream = _ask(engine, make(crowd.short_prompt), 4096)
    events = iter(running_stream)
    running.hear(next(events))
    long, long_stream = _ask(engine, make(crowd.long_prompt), 2)
    chunks = -(-crowd.long_prompt // crowd.chunk_tokens)
    time.sleep(long_alone.first / chunks / 4)  # the first chunk is on its way
    short, short_stream = _ask(engine, make(crowd.short_prompt), 2)
    _listen(short, short_stream)
    _listen(long, long_stream)
    while running.times[-1] < long.times[-1]:
        running.hear(next(events))
    running_stream.close()
    window = [moment for moment in running.times if long.asked <= moment]
    gaps = [b - a for a, b in pairwise(window)]
    return {
        "short_alone": alone.first,
        "short_behind": short.first,
        "long_alone": long_alone.first,
        "long_behind": long.first,
        "gap": max(gaps, default=0.0),
        "chunk": long_alone.first / chunks,
    }


def _medians(runs: list[dict[str, float]]) -> dict[str, Any]:
    return {name: statistics.median(run[name] for run in runs) for name in runs[0]}
