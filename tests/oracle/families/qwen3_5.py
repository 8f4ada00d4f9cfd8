"""Qwen3.5, dense (qwen3_5) and mixture of experts (family folder qwen3_5_moe).

For the implementer:
- published names are the model's own: `model.visual.*`, `model.language_model.*`, `lm_head.weight`, and `mtp.*`
  (multi-token prediction), to be dropped; layout `hub` has such. The published configuration has rope_parameters and
  layer_types (or full_attention_interval).
- tower as Qwen3-VL's without deepstack.
- text norms multiply by (1 + weight), q_norm and k_norm too; the gated norm in linear_attn multiplies by the weight
  itself, then by silu(z).
- full attention: q_proj gives per head [query, gate] (2 * head_dim, head by head); output times sigmoid(gate) before
  o_proj; rotary on the first partial_rotary_factor of the head, interleaved M-RoPE (mrope_section sums to half the
  rotary width).
- linear attention: in_proj_qkv, in_proj_z, in_proj_b, in_proj_a; causal depthwise conv (silu, no bias) over q, k, v
  jointly; q and k l2-normed (eps 1e-6), q times key_dim ** -0.5; g = -exp(A_log) * softplus(a + dt_bias), beta =
  sigmoid(b); key heads repeated to value heads; gated delta rule.
- padding (left) must not enter conv or state: hidden states are zeroed where attention_mask is 0 before the
  projections.
- video as Qwen3-VL (timestamps, frame groups as pictures).
- mixture: router softmax over all, top k, renormalised; a shared expert times sigmoid(shared_expert_gate x).
  Published experts are packed (`experts.gate_up_proj` [experts, 2 * width, hidden], `experts.down_proj` [experts,
  hidden, width]); save_pretrained writes them one by one (`experts.N.gate_proj.weight`...).
"""

from __future__ import annotations

from typing import Any

import inputs
import numpy as np
from hub import split_processor, without
from maker import CaseSpec, Spec, processor_files
from transformers import (
    Qwen3_5Config,
    Qwen3_5ForConditionalGeneration,
    Qwen3_5MoeConfig,
    Qwen3_5MoeForConditionalGeneration,
)

from families import qwen2_vl, qwen3_vl
from families.qwen2_vl import IMAGE, turn
from families.qwen3_vl import VIDEO, processor

ROPE = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 1, 1], "mrope_interleaved": True}
ROPE["partial_rotary_factor"] = 0.5


def parts(**text: Any) -> dict[str, Any]:
    """Keyword arguments of the configuration."""
    base = qwen3_vl.parts({}, {}, tied=False)
    vision = without(base["vision_config"], "deepstack_visual_indexes")
    changes = {
        "num_hidden_layers": 4,
        "layer_types": ["linear_attention", "linear_attention", "full_attention", "linear_attention"],
        "linear_num_key_heads": 2,
        "linear_num_value_heads": 4,
        "linear_key_head_dim": 8,
        "linear_value_head_dim": 12,
        "rope_parameters": ROPE,
    }
    return base | {"text_config": base["text_config"] | changes | text, "vision_config": vision}


def build(*, tied: bool, **text: Any) -> Qwen3_5ForConditionalGeneration:
    """A tiny dense model."""
    config = Qwen3_5Config(**parts(**text) | {"tie_word_embeddings": tied})
    config._attn_implementation = "eager"
    return Qwen3_5ForConditionalGeneration(config)


def build_moe(**text: Any) -> Qwen3_5MoeForConditionalGeneration:
    """A tiny mixture of experts."""
    chosen = parts(**text)
    chosen["text_config"].pop("intermediate_size")
    config = Qwen3_5MoeConfig(**chosen)
    config._attn_implementation = "eager"
    return Qwen3_5MoeForConditionalGeneration(config)


def spread(name: str, shape: tuple[int, ...]) -> tuple[float, float] | None:
    """Norms about zero where the family adds one."""
    is_text = "language_model" in name and "linear_attn" not in name
    return (0.0, 0.3) if is_text and name.endswith("norm.weight") else None


def hub_config(config: dict[str, Any]) -> dict[str, Any]:
    """As Qwen/Qwen3.5-* publish it."""
    text = config["text_config"] | {"attn_output_gate": True, "mtp_num_hidden_layers": 1, "full_attention_interval": 4}
    vision = config["vision_config"] | {"model_type": config["model_type"], "deepstack_visual_indexes": []}
    return config | {"text_config": text, "vision_config": vision}


def to_hub(tensors: dict[str, Any]) -> dict[str, Any]:
    """Packed experts, and parts of the multi-token prediction, which nothing reads."""
    packed = {name: tensor for name, tensor in tensors.items() if ".mlp.experts." not in name}
    layers = sorted({name.split(".mlp.experts.")[0] for name in tensors if ".mlp.experts." in name})
    for layer in layers:
        stem = f"{layer}.mlp.experts"
        count = sum(name.startswith(f"{stem}.") and name.endswith(".gate_proj.weight") for name in tensors)
        if not count:
            packed |= {name: tensor for name, tensor in tensors.items() if name.startswith(stem)}
            continue
        pairs = [[tensors[f"{stem}.{i}.{part}_proj.weight"] for part in ("gate", "up")] for i in range(count)]
        packed[f"{stem}.gate_up_proj"] = np.stack([np.concatenate(pair) for pair in pairs])
        packed[f"{stem}.down_proj"] = np.stack([tensors[f"{stem}.{i}.down_proj.weight"] for i in range(count)])
    return packed | {"mtp.norm.weight": tensors["model.language_model.norm.weight"]}


def case(name: str, text: list[str], **media: Any) -> CaseSpec:
    """A case through the reference processor."""
    return inputs.build(processor(), name, text, extras=qwen2_vl.extras, **media)


def cases() -> list[CaseSpec]:
    """As Qwen3-VL; the long prompt spans several chunks of the delta rule."""
    mixed = [turn(f"{IMAGE}What is it?"), turn("Say hello."), turn(f"{IMAGE}Or {IMAGE}?")]
    long = "".join(f"item {i}, " for i in range(5))
    timed = {"video_metadata": [{"fps": 1.3, "total_num_frames": 5, "frames_indices": [0, 1, 2, 3, 4]}]}
    return [
        case("single", [turn(f"{IMAGE}Name it.")], pictures=[(24, 32)]),
        case("multi", [turn(f"{IMAGE}and{IMAGE}?")], pictures=[(19, 45), (50, 13)]),
        case("text", [turn("Say hello.")], notes="no media"),
        case("video", [turn(f"{VIDEO}What moves?")], videos=[(5, 16, 24)], arguments=timed, notes="1.3 frames a second"),
        case("long", [turn(f"{long}{IMAGE}{long}")], pictures=[(32, 40)], notes="for chunked prefill"),
        case("batch_left", mixed, pictures=[(24, 32), (16, 16), (9, 41)]),
    ]  # fmt: skip


def specs() -> list[Spec]:
    """base: untied; tied: one key head, attention first; moe."""
    files = split_processor(processor_files(processor()))
    types = ["full_attention", "linear_attention", "full_attention"]
    tied = {"layer_types": types, "num_hidden_layers": 3, "linear_num_key_heads": 4, "linear_conv_kernel_dim": 3}
    experts = {
        "num_experts": 6,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 20,
        "shared_expert_intermediate_size": 28,
    }
    return [
        Spec("qwen3_5", "base", lambda: build(tied=False), hub_config, cases, to_hub, spread, files),
        Spec("qwen3_5", "tied", lambda: build(tied=True, **tied), hub_config,
             lambda: inputs.pick(cases(), "single", "batch_left"), to_hub, spread, files),
        Spec("qwen3_5_moe", "base", lambda: build_moe(**experts), hub_config,
             lambda: inputs.pick(cases(), "single", "multi", "video", "batch_left"), to_hub, spread, files),
    ]  # fmt: skip
