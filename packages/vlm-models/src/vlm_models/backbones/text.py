"""The decoder that a nested text_config names, for families that take several. One table: model_type -> architecture."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..core.config import expect, take
from .decoder import Decoder, DecoderConfig
from .granite import GraniteConfig, GraniteDecoder
from .ministral import MinistralConfig, MinistralDecoder

_LLAMA: dict[str, Any] = {
    "vocab_size": 32000,
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "max_position_embeddings": 2048,
}
# what the classes of transformers assume where a published file says nothing
_DEFAULTS: dict[str, dict[str, Any]] = {
    "llama": _LLAMA,
    "granite": _LLAMA,
    "granite4_vision_text": _LLAMA,
    "mistral": _LLAMA
    | {
        "intermediate_size": 14336,
        "num_key_value_heads": 8,
        "max_position_embeddings": 4096 * 32,
        "sliding_window": 4096,
    },
    "ministral3": _LLAMA
    | {
        "vocab_size": 131072,
        "intermediate_size": 14336,
        "num_hidden_layers": 34,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "max_position_embeddings": 262144,
        "rms_norm_eps": 1e-5,
    },
    "qwen2": _LLAMA
    | {
        "vocab_size": 151936,
        "intermediate_size": 22016,
        "num_key_value_heads": 32,
        "max_position_embeddings": 32768,
        "use_sliding_window": False,
        "sliding_window": 4096,
        "max_window_layers": 28,
    },
    "qwen3": _LLAMA
    | {
        "vocab_size": 151936,
        "intermediate_size": 22016,
        "num_key_value_heads": 32,
        "head_dim": 128,
        "max_position_embeddings": 32768,
        "use_sliding_window": False,
        "sliding_window": 4096,
        "max_window_layers": 28,
    },
}
_CONFIGS: dict[str, type[DecoderConfig]] = {
    "granite": GraniteConfig,
    "granite4_vision_text": GraniteConfig,
    "ministral3": MinistralConfig,
}


def text_config(hf: Mapping[str, Any], *, tied: bool | None = None, kind: str | None = None) -> DecoderConfig:
    """The decoder of a text_config, told apart by its model_type (or `kind` where it has none).

    tied: what the whole model's configuration says about tied embeddings; None: the text_config decides. The reference's classes
    have a head of their own, which does not divide Granite's logits; so they are not here. Raises ConfigError for a model_type
    that is not in the table."""
    name = expect({"model_type": hf.get("model_type", kind)}, "model_type", *_DEFAULTS)
    values = _DEFAULTS[name] | dict(hf)
    fixed: dict[str, Any] = {"tied": take(values, "tie_word_embeddings", bool, False) if tied is None else tied}
    bias = take(values, "attention_bias", bool, False)
    match name:
        case "llama" | "granite" | "granite4_vision_text":
            fixed |= {"qkv_bias": bias, "out_bias": bias, "mlp_bias": take(values, "mlp_bias", bool, False)}
            fixed |= {"logits": 1.0} if name == "granite" else {}
        case "qwen2":
            fixed |= {"qkv_bias": True}
        case "qwen3":
            fixed |= {"qkv_bias": bias, "out_bias": bias, "qk_norm": True}
    return _CONFIGS.get(name, DecoderConfig).from_hf(values, **fixed)


def text_decoder(config: DecoderConfig) -> Decoder:
    """The decoder of a configuration that `text_config` made."""
    match config:
        case GraniteConfig():
            return GraniteDecoder(config)
        case MinistralConfig():
            return MinistralDecoder(config)
    return Decoder(config)
