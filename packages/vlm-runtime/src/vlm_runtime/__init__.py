"""Load vision-language models and generate with them: engine, caches, media, Python API."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .api import (
        apply_chat_template,
        batch_generate,
        engine_of,
        generate,
        load,
        load_config,
        stream_generate,
        unload,
    )
    from .cache import CacheOptions, CacheStats, VisionFeatureCache
    from .engine.asynchronous import AsyncEngine
    from .engine.core import EngineCore, EngineOptions, EngineStats
    from .engine.front import Engine
    from .loading.hub import cached_models, resolve_checkpoint
    from .media.policy import MediaPolicy
    from .options import GenerateOptions
    from .processor import Processor
    from .request import Event, Request, SamplingParams, ThinkingParams, TokenLogprob
    from .results import GenerationResult
    from .text.reasoning import ReasoningSplitter

__version__ = "0.1.0"

# name -> module; imported on first use, so that `import vlm_runtime` costs next to nothing
_HOMES = {
    "AsyncEngine": ".engine.asynchronous",
    "CacheOptions": ".cache",
    "CacheStats": ".cache",
    "Engine": ".engine.front",
    "EngineCore": ".engine.core",
    "EngineOptions": ".engine.core",
    "EngineStats": ".engine.core",
    "Event": ".request",
    "GenerateOptions": ".options",
    "MediaPolicy": ".media.policy",
    "ReasoningSplitter": ".text.reasoning",
    "GenerationResult": ".results",
    "Processor": ".processor",
    "Request": ".request",
    "SamplingParams": ".request",
    "ThinkingParams": ".request",
    "TokenLogprob": ".request",
    "VisionFeatureCache": ".cache",
    "apply_chat_template": ".api",
    "batch_generate": ".api",
    "cached_models": ".loading.hub",
    "engine_of": ".api",
    "generate": ".api",
    "load": ".api",
    "load_config": ".api",
    "resolve_checkpoint": ".loading.hub",
    "stream_generate": ".api",
    "unload": ".api",
}

__all__ = [
    "AsyncEngine",
    "CacheOptions",
    "CacheStats",
    "Engine",
    "EngineCore",
    "EngineOptions",
    "EngineStats",
    "Event",
    "GenerateOptions",
    "GenerationResult",
    "MediaPolicy",
    "Processor",
    "ReasoningSplitter",
    "Request",
    "SamplingParams",
    "ThinkingParams",
    "TokenLogprob",
    "VisionFeatureCache",
    "apply_chat_template",
    "batch_generate",
    "cached_models",
    "engine_of",
    "generate",
    "load",
    "load_config",
    "resolve_checkpoint",
    "stream_generate",
    "unload",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(_HOMES[name], __name__), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
