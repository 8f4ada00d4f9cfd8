"""What published config.json files spell differently from those that transformers 5 writes."""

from __future__ import annotations

import copy
import json
from typing import Any

from transformers import CONFIG_MAPPING


def rope_to_hub(text: dict[str, Any], *, default_type: str | None = None) -> dict[str, Any]:
    """Replace `rope_parameters` by `rope_theta` and, where there is more to say, `rope_scaling`.

    Args:
        default_type: value of `rope_scaling.type` for the default rope with sections (Qwen's `mrope`).
    """
    text = dict(text)
    rope = dict(text.pop("rope_parameters"))
    text["rope_theta"] = rope.pop("rope_theta")
    kind = rope.pop("rope_type", "default")
    rope.pop("type", None)
    if kind != "default" or rope:
        name = default_type if kind == "default" and default_type else kind
        text["rope_scaling"] = {"type": name, **({"rope_type": name} if kind != "default" else {}), **rope}
    return text


def without(mapping: dict[str, Any], *keys: str) -> dict[str, Any]:
    """`mapping` without `keys`."""
    return {key: value for key, value in mapping.items() if key not in keys}


def published(config: dict[str, Any], version: str = "4.49.0") -> dict[str, Any]:
    """Version, dtype and kin as older releases wrote them, in nested configurations too."""
    config = {key: published(value, version) if isinstance(value, dict) else value for key, value in config.items()}
    if "transformers_version" in config:
        config["transformers_version"] = version
    if "dtype" in config:
        config["torch_dtype"] = config.pop("dtype")
    return without(config, "layer_types_default")


def thin(config: dict[str, Any]) -> dict[str, Any]:
    """A nested configuration without what equals its class's defaults, as many published files have it."""
    kind = CONFIG_MAPPING[config["model_type"]]
    defaults = kind().to_dict() | {"rope_theta": getattr(kind, "default_theta", 10000.0)}
    absent = object()
    return {key: value for key, value in config.items() if key == "model_type" or defaults.get(key, absent) != value}


def split_processor(made: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Fill the hub's files from processor_config.json: parts in files of their own, class names without backend."""
    made = copy.deepcopy(made)
    whole = json.loads(made["transformers"]["processor_config.json"])
    parts = {key: whole.pop(key, None) for key in ("image_processor", "video_processor", "feature_extractor")}
    kind = whole["processor_class"]
    preprocessor: dict[str, Any] = {}
    for key in ("feature_extractor", "image_processor"):
        preprocessor |= parts[key] or {}
    if "image_processor_type" in preprocessor:
        preprocessor["image_processor_type"] = preprocessor["image_processor_type"].removesuffix("Pil")
    made["hub"]["preprocessor_config.json"] = preprocessor | {"processor_class": kind}
    if parts["video_processor"]:
        made["hub"]["video_preprocessor_config.json"] = parts["video_processor"] | {"processor_class": kind}
    if len(whole) > 1:
        made["hub"]["processor_config.json"] = whole
    return made


def add_prefix(tensors: dict[str, Any], old: str, new: str) -> dict[str, Any]:
    """Names that start with `old` start with `new` instead."""
    return {new + name.removeprefix(old) if name.startswith(old) else name: value for name, value in tensors.items()}
