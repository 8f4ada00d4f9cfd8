"""A tiny checkpoint with random weights."""

from __future__ import annotations

import json
from pathlib import Path

import mlx.core as mx
import pytest
from mlx.utils import tree_flatten

from vlm_models import family

CONFIG = {
    "model_type": "qwen2_vl",
    "vision_config": {
        "depth": 1,
        "embed_dim": 64,
        "num_heads": 2,
        "mlp_ratio": 2,
        "patch_size": 14,
        "spatial_merge_size": 2,
        "temporal_patch_size": 2,
        "in_channels": 3,
        "hidden_act": "quick_gelu",
        "hidden_size": 64,
    },
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "vocab_size": 128,
    "max_position_embeddings": 512,
    "rms_norm_eps": 1e-6,
    "rope_theta": 10000.0,
    "rope_scaling": {"type": "mrope", "mrope_section": [4, 6, 6]},
    "tie_word_embeddings": False,
    "image_token_id": 120,
    "video_token_id": 121,
}


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """Published layout, bfloat16."""
    kind = family("qwen2_vl")
    model = kind.model(kind.config(CONFIG))
    mx.random.seed(7)
    tensors = {}
    for name, value in tree_flatten(model.parameters()):
        tensors[name] = (mx.random.normal(value.shape) * 0.1 + ("norm" in name)).astype(mx.bfloat16)
    folder = tmp_path / "original"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(CONFIG))
    (folder / "tokenizer_config.json").write_text("{}")
    (folder / "modeling_evil.py").write_text("raise SystemExit")
    mx.save_safetensors(str(folder / "model.safetensors"), tensors, metadata={"format": "pt"})
    return folder
