"""Gemma 4: dense (31b), mixture of experts (26b-a4b), E-series (E2B, E4B: audio, per-layer inputs, shared KV).

For the implementer:
- published names are the model's own: `model.language_model.*`, `model.vision_tower.*`, `model.embed_vision.*`,
  `model.audio_tower.*`, `model.embed_audio.*`; tied head. Linear layers of tower and audio have an inner `.linear`,
  with scalar buffers input_min, input_max, output_min, output_max where use_clipped_linears (inputs and outputs are
  clamped). `layer_scalar` is a buffer of each layer.
- norms multiply by the weight itself (not 1 + weight); v is normed without weight; attention scale 1.
- full layers: head_dim is global_head_dim, key heads num_global_key_value_heads, with attention_k_eq_v no v_proj (v
  is k before its norm and rope); rope "proportional": the first partial_rotary_factor of the frequencies turn, theta
  ** -(2i / head_dim) over the WHOLE head, rest 0.
- masks: full layers are causal only; sliding layers, with use_bidirectional_attention "vision", let a picture's block
  see itself in both directions WITHIN the window: window AND (causal OR same block). Neighbouring vision tokens
  (types 1 and 2) form one block.
- published text_config spells global_head_dim, num_global_key_value_heads; save_pretrained 5.23 writes them as
  per_layer_config.
- pixel_values are patches in [0, 1] [pictures, patches, 3 * p * p] (channel last), padded; image_position_ids (x, y),
  -1 for padding; the tower maps 2 (p - 0.5), pools k x k by position, scales by sqrt(hidden); then maybe (x -
  std_bias) * std_scale; then norm without weight, projection.
- text embeddings are scaled by sqrt(hidden), picture features not. Per-layer inputs of media tokens use the pad
  token's embedding.
- experts: gate_up_proj [experts, 2 * width, hidden], router with scale and per_expert_scale; runs next to the dense
  MLP.
- video: "MM:SS <boi>tokens<eoi>" for each frame, joined by blanks; video tokens have an id of their own.
- audio: number of tokens from the feature mask after two halvings; features beyond are padding.
"""

from __future__ import annotations

from typing import Any

import inputs
from hub import published, split_processor
from maker import CaseSpec, Spec, processor_files
from tokenizer import character_tokenizer
from transformers import Gemma4Config, Gemma4ForConditionalGeneration
from transformers.models.gemma4 import (
    Gemma4AudioFeatureExtractor,
    Gemma4ImageProcessorPil,
    Gemma4Processor,
    Gemma4VideoProcessor,
)

SPECIAL = [
    "<pad>",
    "<eos>",
    "<bos>",
    "<|turn>",
    "<turn|>",
    "<|image>",
    "<|image|>",
    "<image|>",
    "<|audio>",
    "<|audio|>",
]
SPECIAL += ["<audio|>", "<|video|>", "<|channel>", "<channel|>", "<|think|>"]
NAMES = {"boi_token": "<|image>", "image_token": "<|image|>", "eoi_token": "<image|>"}
NAMES |= {"boa_token": "<|audio>", "audio_token": "<|audio|>", "eoa_token": "<audio|>"}
IMAGE, AUDIO, VIDEO = "<|image|>", "<|audio|>", "<|video|>"
TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}"
    "{% set role = 'model' if message['role'] == 'assistant' else message['role'] %}{{ '<|turn>' + role + '\\n' }}"
    "{% if message['content'] is string %}{{ message['content'] | trim }}{% else %}"
    "{% for item in message['content'] %}{% if item['type'] == 'image' %}{{ '<|image|>' }}"
    "{% elif item['type'] == 'audio' %}{{ '<|audio|>' }}{% elif item['type'] == 'video' %}{{ '<|video|>' }}"
    "{% elif item['type'] == 'text' %}{{ item['text'] | trim }}{% endif %}{% endfor %}{% endif %}"
    "{{ '<turn|>\\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|turn>model\\n' }}{% endif %}"
)


def processor() -> Gemma4Processor:
    """The reference processor: patches of 2 pixels, pooled 2 x 2, up to 70 tokens a picture; 16 mel bins."""
    tokenizer = character_tokenizer(
        SPECIAL, pad_token="<pad>", eos_token="<eos>", bos_token="<bos>", extra_special_tokens=NAMES
    )
    small = {"patch_size": 2, "pooling_kernel_size": 2, "max_soft_tokens": 70}
    pictures = Gemma4ImageProcessorPil(**small)
    videos = Gemma4VideoProcessor(**small, do_sample_frames=False)
    sounds = Gemma4AudioFeatureExtractor(feature_size=16)
    return Gemma4Processor(sounds, pictures, tokenizer, videos, TEMPLATE, image_seq_length=70)


def build(*, audio: bool = False, vision: dict[str, Any] | None = None, **text: Any) -> Gemma4ForConditionalGeneration:
    """A tiny model."""
    sliding = {"rope_type": "default", "rope_theta": 10_000.0}
    full = {"rope_type": "proportional", "partial_rotary_factor": 0.25, "rope_theta": 1_000_000.0}
    sounds = {
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "subsampling_conv_channels": [16, 4],
        "attention_chunk_size": 4,
        "attention_context_left": 5,
        "output_proj_dims": 24,
    }
    config = Gemma4Config(
        text_config={
            "vocab_size": 116,
            "vocab_size_per_layer_input": 116,
            "hidden_size": 48,
            "intermediate_size": 72,
            "num_hidden_layers": 4,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "head_dim": 16,
            "global_head_dim": 32,
            "max_position_embeddings": 512,
            "sliding_window": 30,
            "layer_types": ["sliding_attention", "full_attention", "sliding_attention", "full_attention"],
            "rope_parameters": {"sliding_attention": sliding, "full_attention": full},
            "hidden_size_per_layer_input": 0,
            "bos_token_id": 98,
            "eos_token_id": 97,
            "pad_token_id": 96,
            **text,
        },
        vision_config={
            "hidden_size": 32,
            "intermediate_size": 56,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "num_key_value_heads": 2,
            "head_dim": 16,
            "patch_size": 2,
            "pooling_kernel_size": 2,
            "position_embedding_size": 80,
            **(vision or {}),
        },
        audio_config=sounds if audio else None,
        boi_token_id=101,
        image_token_id=102,
        eoi_token_id=103,
        boa_token_id=104,
        audio_token_id=105,
        eoa_token_index=106,
        video_token_id=107,
    )
    config._attn_implementation = "eager"
    return Gemma4ForConditionalGeneration(config)


def spread(name: str, shape: tuple[int, ...]) -> tuple[float, float] | None:
    """Clipping bounds that bite now and then; a position table that matters."""
    if name.endswith("_min"):
        return (-1.5, 0.1)
    if name.endswith("_max"):
        return (1.5, 0.1)
    return (0.0, 0.3) if "position_embedding_table" in name or "pos_embedding" in name else None


def hub_config(config: dict[str, Any]) -> dict[str, Any]:
    """As google/gemma-4-* publish it: 5.x style, with global_head_dim and its like."""
    text = config["text_config"]
    layers = text.pop("per_layer_config", None)
    if layers:
        first = next(iter(layers.values()))
        text["global_head_dim"] = first.get("head_dim", text["head_dim"])
        text["num_global_key_value_heads"] = first.get("num_key_value_heads")
    return published(config, "5.5.0.dev0") | {"eos_token_id": [97, 100]}


def turn(content: str) -> str:
    """One user turn, open for the answer."""
    return f"<bos><|turn>user\n{content}<turn|>\n<|turn>model\n"


def cases() -> list[CaseSpec]:
    """Pictures longer than the sliding window; a clip; sounds (for models that hear)."""
    mixed = [turn(f"{IMAGE}What?"), turn("Say hello.")]
    long = "".join(f"item {i}, " for i in range(5))
    timed = {"video_metadata": [{"fps": 0.5, "total_num_frames": 2, "frames_indices": [0, 1]}]}
    drop = ("num_soft_tokens_per_image", "num_soft_tokens_per_video")

    def case(name: str, text: list[str], **media: Any) -> CaseSpec:
        return inputs.build(processor(), name, text, extras=features, drop=drop, **media)

    return [
        case("single", [turn(f"{IMAGE}Name it.")], pictures=[[(30, 42)]]),
        case("multi", [turn(f"{IMAGE}and {IMAGE}?")], pictures=[[(15, 60), (50, 13)]]),
        case("text", [turn("Say hello.")], notes="no media"),
        case("video", [turn(f"{VIDEO}What moves?")], videos=[(2, 24, 32)], arguments=timed, notes="two seconds a frame"),
        case("long", [turn(f"{long}{long}")], notes="no media; for chunked prefill"),
        case("batch_left", mixed, pictures=[[(24, 32)], []]),
        case("audio", [turn(f"{AUDIO}What do you hear?")], sounds=[4000], notes="a quarter of a second"),
        case("audio_and_image", [turn(f"{AUDIO}{IMAGE}Both {AUDIO}?")], sounds=[3000, 5300], pictures=[[(12, 60)]]),
    ]  # fmt: skip


def features(model: Any, given: dict[str, Any]) -> dict[str, Any]:
    """Projected features; padding of sounds left out."""
    found = inputs.features(model, {k: v for k, v in given.items() if not k.startswith("input_features")})
    if "input_features" in given:
        result = model.model.get_audio_features(given["input_features"], given["input_features_mask"], return_dict=True)
        found["audio_features"] = result.pooler_output[result.attention_mask]
    return found


SILENT = ("single", "multi", "text", "video", "long", "batch_left")


def specs() -> list[Spec]:
    """dense: k equals v, standardized tower; moe: experts; e: audio, per-layer inputs, shared KV, wide MLP, clipped linears."""
    files = split_processor(processor_files(processor()))
    dense = {"attention_k_eq_v": True, "num_global_key_value_heads": 1, "final_logit_softcapping": 3.0}
    dense["use_bidirectional_attention"] = "vision"
    experts = {"enable_moe_block": True, "num_experts": 6, "top_k_experts": 2, "moe_intermediate_size": 20}
    e_series = {"hidden_size_per_layer_input": 8, "num_kv_shared_layers": 2, "use_double_wide_mlp": True}
    e_series |= {"num_key_value_heads": 1, "final_logit_softcapping": 3.0}
    return [
        Spec("gemma4", "dense", lambda: build(**dense, vision={"standardize": True}), hub_config,
             lambda: inputs.pick(cases(), *SILENT), spread=spread, files=files),
        Spec("gemma4", "moe", lambda: build(**dense, **experts), hub_config,
             lambda: inputs.pick(cases(), "single", "long"), spread=spread, files=files),
        Spec("gemma4", "e", lambda: build(**e_series, audio=True, vision={"use_clipped_linears": True}), hub_config,
             lambda: inputs.pick(cases(), "single", "video", "audio", "audio_and_image", "long", "batch_left"),
             spread=spread, files=files),
    ]  # fmt: skip
