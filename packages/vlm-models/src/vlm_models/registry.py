"""model_type -> family. A literal table: a new family or alias is a row. Modules are imported when asked for."""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches
from importlib import import_module
from typing import Any

from .core.family import Family
from .errors import UnsupportedModel

# model_type: module under vlm_models.families
TABLE: dict[str, str] = {
    "aya_vision": "aya_vision",
    "deepseek_ocr2": "deepseek_ocr2",
    "florence2": "florence2",
    "gemma3": "gemma3",
    "gemma3n": "gemma3n",
    "gemma4": "gemma4",
    "gemma4_unified": "gemma4_unified",
    "glm4v": "glm4v",
    "glm_ocr": "glm4v",
    "granite4_vision": "granite4_vision",
    "idefics2": "idefics2",
    "idefics3": "idefics3",
    "internvl": "internvl",
    "llava": "llava",
    "llava_next": "llava_next",
    "llava_onevision": "llava_onevision",
    "mistral3": "mistral3",
    "molmo2": "molmo2",
    "paddleocr_vl": "paddleocr_vl",
    "paligemma": "paligemma",
    "phi4_multimodal": "phi4_multimodal",
    "phi4mm": "phi4_multimodal",
    "pixtral": "llava",
    "qwen2_5_vl": "qwen2_5_vl",
    "qwen2_vl": "qwen2_vl",
    "qwen3_5": "qwen3_5",
    "qwen3_5_moe": "qwen3_5",
    "qwen3_vl": "qwen3_vl",
    "qwen3_vl_moe": "qwen3_vl",
    "smolvlm": "idefics3",
}


def resolve(config: Mapping[str, Any]) -> Family:
    """The family of a checkpoint's configuration. Raises UnsupportedModel."""
    model_type = config.get("model_type")
    if not isinstance(model_type, str):
        raise UnsupportedModel(f"config: model_type must be a string, found {model_type!r}")
    return family(model_type)


def family(model_type: str) -> Family:
    """The family of a model_type. Raises UnsupportedModel."""
    if model_type not in TABLE:
        near = get_close_matches(model_type, TABLE, n=3)
        hint = f"; did you mean {' or '.join(near)}?" if near else f" (supported: {', '.join(sorted(TABLE))})"
        raise UnsupportedModel(f"model_type {model_type!r} is not supported{hint}")
    module = import_module(f".families.{TABLE[model_type]}", __package__)
    return module.FAMILY
