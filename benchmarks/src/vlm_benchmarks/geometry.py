"""Real models' sizes, by name, as Hugging Face configurations: what a benchmark runs with random weights.

Figures are those of the published configurations. A tiny one serves tests.
"""

from __future__ import annotations

from typing import Any

_QWEN2_VISION = {
    "depth": 32,
    "embed_dim": 1280,
    "num_heads": 16,
    "mlp_ratio": 4,
    "patch_size": 14,
    "spatial_merge_size": 2,
    "temporal_patch_size": 2,
    "in_channels": 3,
    "hidden_act": "quick_gelu",
}


def _qwen2_vl(dim: int, hidden: int, layers: int, heads: int, kv_heads: int, vocab: int, tied: bool) -> dict[str, Any]:
    return {
        "model_type": "qwen2_vl",
        "vision_config": {**_QWEN2_VISION, "hidden_size": dim},
        "hidden_size": dim,
        "intermediate_size": hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "vocab_size": vocab,
        "max_position_embeddings": 131072,
        "rms_norm_eps": 1e-6,
        "rope_theta": 1000000.0,
        "rope_scaling": {"type": "mrope", "mrope_section": [16, 24, 24]},
        "tie_word_embeddings": tied,
        "image_token_id": 151655,
        "video_token_id": 151656,
    }


def _qwen2_5_vl(
    dim: int, hidden: int, layers: int, heads: int, kv_heads: int, vocab: int, tied: bool
) -> dict[str, Any]:
    text = _qwen2_vl(dim, hidden, layers, heads, kv_heads, vocab, tied)
    vision = {
        "depth": 32,
        "hidden_size": 1280,
        "out_hidden_size": dim,
        "num_heads": 16,
        "intermediate_size": 3420,
        "in_channels": 3,
        "patch_size": 14,
        "temporal_patch_size": 2,
        "spatial_merge_size": 2,
        "window_size": 112,
        "fullatt_block_indexes": [7, 15, 23, 31],
        "tokens_per_second": 2,
        "hidden_act": "silu",
    }
    return {**text, "model_type": "qwen2_5_vl", "vision_config": vision, "max_position_embeddings": 128000}


def _tiny() -> dict[str, Any]:
    config = _qwen2_vl(64, 128, 2, 4, 2, 151936, True)
    vision = {**_QWEN2_VISION, "depth": 2, "embed_dim": 64, "num_heads": 4, "hidden_size": 64}
    return {**config, "vision_config": vision, "rope_scaling": {"type": "mrope", "mrope_section": [2, 3, 3]}}


GEOMETRIES: dict[str, dict[str, Any]] = {
    "tiny": _tiny(),
    "qwen2-vl-2b": _qwen2_vl(1536, 8960, 28, 12, 2, 151936, True),
    "qwen2.5-vl-3b": _qwen2_5_vl(2048, 11008, 36, 16, 2, 151936, True),
    "qwen2-vl-7b": _qwen2_vl(3584, 18944, 28, 28, 4, 152064, False),
    "qwen2.5-vl-7b": _qwen2_5_vl(3584, 18944, 28, 28, 4, 152064, False),
}
