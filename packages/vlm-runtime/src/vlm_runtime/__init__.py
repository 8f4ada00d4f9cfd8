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
    from .engine.core import EngineCore
    from .engine.front import Engine
    from .engine.settings import EngineOptions, EngineStats
    from .loading.hub import cached_models, resolve_checkpoint
    from .loading.quantize import quantize_inputs
    from .media.policy import MediaPolicy
    from .options import GenerateOptions
    from .pool import ModelName, ModelPool
    from .processor import Processor
    from .request import Event, Request, SamplingParams, ThinkingParams, TokenLogprob
    from .results import GenerationResult
    from .text.reasoning import ReasoningSplitter
    from .text.structured import Grammar, GrammarSpec
    from .text.tools import TOOL_FORMATS, ToolCall, ToolCallSplitter, ToolFormat, detect_format, parse_tool_calls
    from .text.tools.choice import tool_grammar

__version__ = "0.1.0"

# name -> module; imported on first use, so that `import vlm_runtime` costs next to nothing
_HOMES = {
    "AsyncEngine": ".engine.asynchronous",
    "CacheOptions": ".cache",
    "CacheStats": ".cache",
    "Engine": ".engine.front",
    "EngineCore": ".engine.core",
    "EngineOptions": ".engine.settings",
    "EngineStats": ".engine.settings",
    "Event": ".request",
    "GenerateOptions": ".options",
    "GenerationResult": ".results",
    "Grammar": ".text.structured",
    "GrammarSpec": ".text.structured",
    "MediaPolicy": ".media.policy",
    "ModelName": ".pool",
    "ModelPool": ".pool",
    "Processor": ".processor",
    "ReasoningSplitter": ".text.reasoning",
    "Request": ".request",
    "SamplingParams": ".request",
    "TOOL_FORMATS": ".text.tools",
    "ThinkingParams": ".request",
    "TokenLogprob": ".request",
    "ToolCall": ".text.tools",
    "ToolCallSplitter": ".text.tools",
    "ToolFormat": ".text.tools",
    "VisionFeatureCache": ".cache",
    "apply_chat_template": ".api",
    "batch_generate": ".api",
    "cached_models": ".loading.hub",
    "detect_format": ".text.tools",
    "engine_of": ".api",
    "generate": ".api",
    "load": ".api",
    "load_config": ".api",
    "parse_tool_calls": ".text.tools",
    "quantize_inputs": ".loading.quantize",
    "resolve_checkpoint": ".loading.hub",
    "stream_generate": ".api",
    "tool_grammar": ".text.tools.choice",
    "unload": ".api",
    "with_frames": ".frames",
}

__all__ = [
    "TOOL_FORMATS",
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
    "Grammar",
    "GrammarSpec",
    "MediaPolicy",
    "ModelName",
    "ModelPool",
    "Processor",
    "ReasoningSplitter",
    "Request",
    "SamplingParams",
    "ThinkingParams",
    "TokenLogprob",
    "ToolCall",
    "ToolCallSplitter",
    "ToolFormat",
    "VisionFeatureCache",
    "apply_chat_template",
    "batch_generate",
    "cached_models",
    "detect_format",
    "engine_of",
    "generate",
    "load",
    "load_config",
    "parse_tool_calls",
    "quantize_inputs",
    "resolve_checkpoint",
    "stream_generate",
    "tool_grammar",
    "unload",
    "with_frames",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(_HOMES[name], __name__), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
