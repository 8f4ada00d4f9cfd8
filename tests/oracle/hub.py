"""What published config.json files spell differently from those that transformers 5 writes."""

from __future__ import annotations

from typing import Any


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
