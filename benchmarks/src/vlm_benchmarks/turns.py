"""Several turns about one picture: what the caches of encoded media and of earlier prompts save, and what they leave alone.

Prompt TPS counts all tokens of a turn's prompt over its time to the first token; `cached_tokens` stands beside it.
"""

from __future__ import annotations

import statistics
import time
from dataclasses import asdict, dataclass, replace
from typing import Any

import mlx.core as mx
import numpy as np

from vlm_models import MediaItem, MediaOptions, Model, ProcessorFiles
from vlm_runtime import EngineCore, EngineOptions, Request, SamplingParams, VisionFeatureCache

from .geometry import GEOMETRIES
from .machine import machine
from .random_model import build

# which caches work: of encoded media, of earlier prompts
MODES = {"no cache": (False, False), "vision cache": (True, False), "vision and prefix cache": (True, True)}


@dataclass(frozen=True)
class Talk:
    """What is run. image: (height, width). question, generate: tokens of each turn's question and answer."""

    geometry: str
    dtype: str = "bfloat16"
    bits: int | None = None
    layers: int | None = None
    image: tuple[int, int] = (672, 672)
    question: int = 24
    generate: int = 32
    turns: int = 10


def measure(talk: Talk) -> dict[str, Any]:
    """Run the turns with each set of caches; `speedup` is the median prompt TPS of turns 2 and later against no cache's."""
    model, kind, config = build(talk.geometry, bits=talk.bits, dtype=talk.dtype, layers=talk.layers)
    processing = kind.processing(config, ProcessorFiles(), None)
    pixels = np.random.default_rng(0).integers(0, 256, (*talk.image, 3), dtype=np.uint8)
    item = processing.image(pixels, MediaOptions())
    _turns(model, processing, item, talk, 2, *MODES["no cache"])
    result: dict[str, Any] = {
        "workload": asdict(talk),
        "machine": machine(),
        "image_tokens": item.num_tokens,
        "modes": {},
    }
    for name, caches in MODES.items():
        mx.reset_peak_memory()
        turns = _turns(model, processing, item, talk, talk.turns, *caches)
        later = turns[1:]
        result["modes"][name] = {
            "prompt_tps": statistics.median(turn["prompt_tps"] for turn in later),
            "slowest_prompt_tps": min(turn["prompt_tps"] for turn in later),
            "generation_tps": statistics.median(turn["generation_tps"] for turn in turns),
            "peak_memory_bytes": mx.get_peak_memory(),
            "answers": [turn.pop("answer") for turn in turns],
            "turns": turns,
        }
    answers = [mode.pop("answers") for mode in result["modes"].values()]
    result["same_answers"] = all(other == answers[0] for other in answers)
    base = result["modes"]["no cache"]["prompt_tps"]
    for mode in result["modes"].values():
        mode["speedup"] = mode["prompt_tps"] / base
    return result


def _turns(
    model: Model, processing: Any, item: MediaItem, talk: Talk, count: int, has_features: bool, has_prefixes: bool
) -> list[dict[str, Any]]:
    """Turns of one conversation; each prompt is the last one, its answer and a new question."""
    options = EngineOptions() if has_prefixes else EngineOptions(prefix_bytes=0)
    core = EngineCore(model, options, vision_cache=VisionFeatureCache() if has_features else VisionFeatureCache(0))
    generator = np.random.default_rng(1)
    most = min(5000, GEOMETRIES[talk.geometry]["vocab_size"])
    picture = replace(item, digest="picture")
    tokens = np.full(item.num_tokens, processing.token_ids["image"], np.int32)
    turns = []
    for turn in range(count):
        tokens = np.concatenate([tokens, generator.integers(10, most, talk.question).astype(np.int32)])
        prompt = processing.prompt(tokens, [picture])
        started = time.perf_counter()
        core.add(turn, Request(prompt, SamplingParams(max_tokens=talk.generate)))
        times: list[float] = []
        answer: list[int] = []
        cached = 0
        while core.has_work:
            for event in core.step():
                if event.error is not None:
                    raise event.error
                if event.token is not None:
                    times.append(time.perf_counter())
                    answer.append(event.token)
                    cached = event.cached_tokens
        turns.append(
            {
                "prompt_tokens": len(prompt),
                "cached_tokens": cached,
                "time_to_first_token": times[0] - started,
                "prompt_tps": len(prompt) / (times[0] - started),
                "generation_tps": (len(times) - 1) / (times[-1] - times[0]),
                "answer": answer,
            }
        )
        tokens = np.concatenate([tokens, np.asarray(answer, np.int32)])
    return turns
