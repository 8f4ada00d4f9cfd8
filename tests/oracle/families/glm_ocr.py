"""GLM-OCR (model_type glm_ocr).

For the implementer:
- names and processing as GLM-4V; the tower differs: no position table, no post_conv_layernorm; RMS norm on q and k
  per head; attention and MLP with biases; the merger without bias, proj, LayerNorm, gelu, gated MLP.
- text as GLM-4V's, with an explicit head_dim, no biases on q, k, v, rotary on the whole head (partial_rotary_factor
  1), tied or not.
- published checkpoints carry one more layer for multi-token prediction (num_nextn_predict_layers), named
  `model.language_model.layers.16.*` (16 is num_hidden_layers there), with eh_proj, enorm, hnorm, shared_head: layers
  at or beyond num_hidden_layers are to be dropped. Layout `hub` has a few such tensors, numbered 16 as the reference
  expects them.
- the published configuration has rope_parameters (5.x style).
"""

from __future__ import annotations

from typing import Any

import inputs
from hub import split_processor
from maker import Spec, processor_files
from transformers import GlmOcrConfig, GlmOcrForConditionalGeneration

from families.glm4v import cases, parts, processor


def build(*, tied: bool, **text: Any) -> GlmOcrForConditionalGeneration:
    """A tiny model."""
    config = GlmOcrConfig(**parts({"num_key_value_heads": 1, **text}, {}), tie_word_embeddings=tied)
    config._attn_implementation = "eager"
    return GlmOcrForConditionalGeneration(config)


def hub_config(config: dict[str, Any]) -> dict[str, Any]:
    """As zai-org/GLM-OCR publishes it."""
    return config | {"text_config": config["text_config"] | {"num_nextn_predict_layers": 1}}


def to_hub(tensors: dict[str, Any]) -> dict[str, Any]:
    """Parts of the layer for multi-token prediction, which nothing reads."""
    extra, norm = "model.language_model.layers.16", tensors["model.language_model.norm.weight"]
    shared = (
        {f"{extra}.enorm.weight": norm, f"{extra}.eh_proj.weight": tensors["lm_head.weight"]}
        if "lm_head.weight" in tensors
        else {}
    )
    return tensors | shared


def specs() -> list[Spec]:
    """base: untied; tied: partial rotary."""
    files = split_processor(processor_files(processor()))
    rope = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 3, 3], "partial_rotary_factor": 1.0}
    return [
        Spec("glm_ocr", "base", lambda: build(tied=False, rope_parameters=rope), hub_config, cases, to_hub, files=files),
        Spec("glm_ocr", "tied", lambda: build(tied=True, num_attention_heads=6, num_key_value_heads=2, head_dim=16,
                                              rope_parameters=rope), hub_config,
             lambda: inputs.pick(cases(), "multi", "video"), files=files),
    ]  # fmt: skip
