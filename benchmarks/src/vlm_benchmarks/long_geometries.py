"""Sizes of models whose caches are measured at long contexts: the text side as published, a tower of one layer beside it.

Sources: the published configurations of Qwen3.5-4B and gemma-4-31B, Qwen2-VL-7B through `geometry.py`.
"""

from __future__ import annotations

from typing import Any

from .geometry import GEOMETRIES


def _qwen3_5(
    dim: int, hidden: int, layers: int, heads: int, vocab: int, rope_dim: int = 64, head: int = 256
) -> dict[str, Any]:
    sections = [11, 11, 10] if rope_dim == 64 else [2, 1, 1]
    text = {
        "hidden_size": dim,
        "intermediate_size": hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": 4,
        "head_dim": head,
        "vocab_size": vocab,
        "hidden_act": "silu",
        "rms_norm_eps": 1e-6,
        "full_attention_interval": 4,
        "linear_num_key_heads": 16,
        "linear_num_value_heads": 32,
        "linear_key_head_dim": 128,
        "linear_value_head_dim": 128,
        "linear_conv_kernel_dim": 4,
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": 1e7,
            "partial_rotary_factor": rope_dim / head,
            "mrope_section": sections,
            "mrope_interleaved": True,
        },
        "tie_word_embeddings": True,
        "max_position_embeddings": 262144,
    }
    vision = {
        "depth": 1,
        "hidden_size": 1024,
        "intermediate_size": 4096,
        "num_heads": 16,
        "in_channels": 3,
        "patch_size": 16,
        "spatial_merge_size": 2,
        "temporal_patch_size": 2,
        "out_hidden_size": dim,
        "num_position_embeddings": 2304,
        "hidden_act": "gelu_pytorch_tanh",
    }
    return {"model_type": "qwen3_5", "text_config": text, "vision_config": vision, "tie_word_embeddings": True}


def _gemma4(dim: int, hidden: int, layers: int, heads: int, vocab: int, heads_kv: tuple[int, int]) -> dict[str, Any]:
    rope = {
        "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0},
        "full_attention": {"rope_type": "proportional", "partial_rotary_factor": 0.25, "rope_theta": 1000000.0},
    }
    text = {
        "hidden_size": dim,
        "intermediate_size": hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": heads_kv[0],
        "num_global_key_value_heads": heads_kv[1],
        "head_dim": 256,
        "global_head_dim": 512,
        "attention_k_eq_v": True,
        "sliding_window": 1024,
        "hidden_size_per_layer_input": 0,
        "vocab_size": vocab,
        "rope_parameters": rope,
        "final_logit_softcapping": 30.0,
        "max_position_embeddings": 262144,
    }
    vision = {"hidden_size": 1152, "intermediate_size": 4304, "num_hidden_layers": 1, "num_attention_heads": 16}
    vision |= {"num_key_value_heads": 16, "head_dim": 72, "patch_size": 16, "standardize": True}
    return {"model_type": "gemma4", "text_config": text, "vision_config": vision, "tie_word_embeddings": True}


LONG_GEOMETRIES: dict[str, dict[str, Any]] = {
    "tiny": GEOMETRIES["tiny"],
    "tiny-hybrid": _qwen3_5(64, 128, 4, 4, 1024),
    "tiny-sliding": _gemma4(64, 128, 6, 4, 1024, (2, 1)),
    "qwen2-vl-7b": GEOMETRIES["qwen2-vl-7b"],
    "qwen3.5-4b": _qwen3_5(2560, 9216, 32, 16, 248320),
    "gemma-4-31b": _gemma4(5376, 21504, 60, 32, 262144, (16, 4)),
}
