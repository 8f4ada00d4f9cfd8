"""Phi-4 Multimodal (phi4_multimodal as transformers writes it, phi4mm as microsoft publishes it).

For the implementer:
- golden `base` has no branches: layouts hub and transformers are the reference's own names
  (`model.embed_tokens_extend.image_embed...`).
- golden `branches` has layout `hub` only, named as microsoft/Phi-4-multimodal-instruct: every text projection is
  `X.base_layer.weight` with `X.lora_A.vision.weight` [r, in], `X.lora_B.vision.weight` [out, r] and the same for
  `speech`; W + (lora_alpha / r) * B @ A. Cases with a picture (with or without sound) use the vision branch, with
  sound alone the speech branch, text alone none; the reference was run with that branch merged. vision_lora /
  speech_lora of config.json give r and lora_alpha (they differ between the branches).
- phi4mm names: image_embed.img_projection.{0,2}, glb_GN, sub_GN; audio_embed.audio_projection.{speech,vision}.{0,2};
  audio encoder feed_forward_{in,out}.net.0.linear, net.2, self_attn.linear_{q,k,v,out}. With pictures sounds use the
  projection `vision` (up_proj_for_vision_speech), else `speech`.
- the whole of the published tower's last layers is in the checkpoint; features come from hidden state feature_layer
  (-2), so the last block and post_layernorm are unused. SigLIP tower with masks and bucketed positions (as Idefics2).
  The pooling head is part of the checkpoint.
- picture features: 2 x 2 average of the map, HD layout: sub pictures cut to the useful area (mask at every second
  patch), one sub_GN after each row; then glb_GN; then the global view with sub_GN after each row; then two linear
  layers with exact gelu. The processor's 256 + 16 + 1 is for 16 x 16 maps.
- text: fused qkv_proj and gate_up_proj, partial rotary, longrope: short or long factors by the LENGTH seen (position
  max + 1 > original), scale sqrt(1 + log(max / original) / log(original)) on cos and sin.
- audio: NeMo convolutions (time_reduction 8), conformer with T5-like relative bias, masks from lengths when several
  sounds are padded; mel features kaldi-like, computed at 16 kHz, preemphasis 0.97 in the frame, times 32768, hamming
  window.
- inputs: image_pixel_values [pictures, 1 + crops, 3, side, side], image_sizes (after padding), image_attention_mask;
  audio_input_features, audio_embed_sizes, audio_attention_mask (only for several).
"""

from __future__ import annotations

import re
from typing import Any

import inputs
import torch
from hub import published, split_processor
from maker import CaseSpec, Spec, processor_files
from shared import hashed
from tokenizer import character_tokenizer
from transformers import Phi4MultimodalConfig, Phi4MultimodalForCausalLM
from transformers.models.phi4_multimodal import (
    Phi4MultimodalFeatureExtractor,
    Phi4MultimodalImageProcessor,
    Phi4MultimodalProcessor,
)

SPECIAL = ["<|endoftext|>", "<|end|>", "<|user|>", "<|assistant|>", "<|system|>", "<|image|>", "<|audio|>"]
TEMPLATE = (
    "{% for message in messages %}{{ '<|' + message['role'] + '|>' + message['content'] + '<|end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)
BRANCHES = {
    "vision": {"r": 4, "lora_alpha": 8, "layer": "", "dp": 0.0},
    "speech": {"r": 6, "lora_alpha": 9, "layer": "", "dp": 0.01},
}
PROJECTIONS = ("self_attn.qkv_proj", "self_attn.o_proj", "mlp.gate_up_proj", "mlp.down_proj")


def processor() -> Phi4MultimodalProcessor:
    """The reference processor: crops of 64 pixels, patches of 2, 16 mel bins."""
    tokenizer = character_tokenizer(
        SPECIAL,
        bos_token="<|endoftext|>",
        eos_token="<|endoftext|>",
        pad_token="<|endoftext|>",
        extra_special_tokens={"image_token": "<|image|>", "audio_token": "<|audio|>"},
    )
    pictures = Phi4MultimodalImageProcessor(size={"height": 64, "width": 64}, patch_size=2, dynamic_hd=4)
    sounds = Phi4MultimodalFeatureExtractor(feature_size=16)
    return Phi4MultimodalProcessor(pictures, sounds, tokenizer, chat_template=TEMPLATE)


def build() -> Phi4MultimodalForCausalLM:
    """A tiny model."""
    rope = {"rope_type": "longrope", "rope_theta": 10000.0, "partial_rotary_factor": 0.75}
    rope |= {"short_factor": [1.0, 1.1, 1.2, 1.5, 2.0, 2.5], "long_factor": [1.0, 1.5, 3.0, 6.0, 9.0, 12.0]}
    config = Phi4MultimodalConfig(
        vocab_size=108,
        hidden_size=64,
        intermediate_size=72,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        original_max_position_embeddings=64,
        rope_parameters=rope,
        bos_token_id=96,
        eos_token_id=[96, 97],
        pad_token_id=96,
        tie_word_embeddings=True,
        vision_config={
            "hidden_size": 32,
            "intermediate_size": 56,
            "num_hidden_layers": 3,
            "num_attention_heads": 2,
            "image_size": 64,
            "crop_size": 64,
            "patch_size": 2,
            "image_token_id": 101,
        },
        audio_config={
            "hidden_size": 32,
            "intermediate_size": 40,
            "num_blocks": 2,
            "num_attention_heads": 2,
            "ext_pw_out_channel": 32,
            "depthwise_separable_out_channel": 32,
            "input_size": 16,
            "nemo_conv_channels": 8,
            "bias_max_distance": 20,
            "audio_token_id": 102,
        },
    )
    config._attn_implementation = "eager"
    return Phi4MultimodalForCausalLM(config)


def hub_config(config: dict[str, Any]) -> dict[str, Any]:
    """As transformers writes it."""
    return published(config, "4.51.0")


def microsoft_config(config: dict[str, Any]) -> dict[str, Any]:
    """As microsoft/Phi-4-multimodal-instruct publishes it; small widths that it leaves to code are under img_processor."""
    vision, audio = config["vision_config"], config["audio_config"]
    rope = config["rope_parameters"]
    names = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
    names += ("num_key_value_heads", "max_position_embeddings", "original_max_position_embeddings", "rms_norm_eps")
    names += ("bos_token_id", "eos_token_id", "pad_token_id", "hidden_act", "tie_word_embeddings", "sliding_window")
    tower = {k: vision[k] for k in ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")}
    tower |= {"image_size": 64, "patch_size": 2}
    encoder = {k: audio[k] for k in ("num_blocks", "input_size", "kernel_size", "ext_pw_out_channel", "time_reduction")}
    encoder |= {k: audio[k] for k in ("depthwise_separable_out_channel", "depthwise_multiplier", "activation")}
    encoder |= {k: audio[k] for k in ("conv_activation", "conv_glu_type", "chunk_size", "left_chunk", "dropout_rate")}
    encoder |= {"attention_dim": audio["hidden_size"], "attention_heads": audio["num_attention_heads"]}
    encoder |= {"linear_units": audio["intermediate_size"], "nemo_conv_settings": {"conv_channels": 8}}
    encoder |= {"relative_attention_bias_args": {"t5_bias_max_distance": 20, "type": "t5"}, "input_layer": "nemo_conv"}
    image = {"crop_size": 64, "embedding_cls": "tune_image", "hd_transform_order": "sub_glb", "use_hd_transform": True}
    image |= {"projection_cls": "mlp", "with_learnable_separator": True, "image_token_compression_cls": "avg_pool_2d"}
    sound = {"compression_rate": 8, "downsample_rate": 1, "embedding_cls": "audio", "projection_cls": "mlp"}
    return {name: config[name] for name in names} | {
        "architectures": ["Phi4MMForCausalLM"],
        "model_type": "phi4mm",
        "img_processor": tower,
        "audio_processor": {"name": "cascades", "config": encoder},
        "embd_layer": {"audio_embd_layer": sound, "image_embd_layer": image, "embedding_cls": "image_audio"},
        "partial_rotary_factor": rope["partial_rotary_factor"],
        "rope_theta": rope["rope_theta"],
        "rope_scaling": {"type": "longrope", "short_factor": rope["short_factor"], "long_factor": rope["long_factor"]},
        "vision_lora": BRANCHES["vision"],
        "speech_lora": BRANCHES["speech"],
        "torch_dtype": "bfloat16",
        "transformers_version": "4.46.1",
    }


AUDIO = r"^model\.embed_tokens_extend\.audio_embed\."
RULES = (
    (r"(encoders\.\d+\.feed_forward_(?:in|out))\.gate_up_proj\.", r"\1.net.0.linear."),
    (r"(encoders\.\d+\.feed_forward_(?:in|out))\.down_proj\.", r"\1.net.2."),
    (r"(encoders\.\d+\.self_attn)\.([qkv])_proj\.", r"\1.linear_\2."),
    (r"(encoders\.\d+\.self_attn)\.o_proj\.", r"\1.linear_out."),
    (r"\.img_projection_up\.", ".img_projection.0."),
    (r"\.img_projection_down\.", ".img_projection.2."),
    (r"\.global_img_feature_extensor$", ".glb_GN"),
    (r"\.sub_img_feature_extensor$", ".sub_GN"),
    (r"\.up_proj_for_speech\.", ".audio_projection.speech.0."),
    (r"\.down_proj_for_speech\.", ".audio_projection.speech.2."),
    (r"\.up_proj_for_vision_speech\.", ".audio_projection.vision.0."),
    (r"\.down_proj_for_vision_speech\.", ".audio_projection.vision.2."),
    (r"^(model\.layers\.\d+\.(?:self_attn|mlp)\.\w+_proj)\.weight$", r"\1.base_layer.weight"),
)


def to_microsoft(tensors: dict[str, Any]) -> dict[str, Any]:
    """The names of the original repository."""
    made = {}
    for name, tensor in tensors.items():
        new = name
        for pattern, replacement in RULES:
            new = re.sub(pattern, replacement, new)
        made[new] = tensor
    return made


def adapters() -> dict[str, tuple[int, ...]]:
    """Names and shapes of the branches' matrices."""
    widths = {"self_attn.qkv_proj": (64, 128), "self_attn.o_proj": (64, 64)}
    widths |= {"mlp.gate_up_proj": (64, 144), "mlp.down_proj": (72, 64)}
    found = {}
    for layer in range(2):
        for projection in PROJECTIONS:
            stem, (width_in, width_out) = f"model.layers.{layer}.{projection}", widths[projection]
            for branch, settings in BRANCHES.items():
                found[f"{stem}.lora_A.{branch}.weight"] = (settings["r"], width_in)
                found[f"{stem}.lora_B.{branch}.weight"] = (width_out, settings["r"])
    return found


def merge(branch: str, sign: float) -> Any:
    """Add (or take away) a branch to the projections of a model."""

    def change(model: Any) -> None:
        shapes = adapters()
        scale = sign * BRANCHES[branch]["lora_alpha"] / BRANCHES[branch]["r"]
        for layer in range(2):
            for projection in PROJECTIONS:
                stem = f"model.layers.{layer}.{projection}"
                down, up = (
                    torch.from_numpy(hashed.normal(name, shapes[name], hashed.spread_of(name, shapes[name])))
                    for name in (f"{stem}.lora_A.{branch}.weight", f"{stem}.lora_B.{branch}.weight")
                )
                model.get_parameter(f"{stem}.weight").add_(scale * up @ down)

    return change


def turn(content: str) -> str:
    """One user turn, open for the answer."""
    return f"<|user|>{content}<|end|><|assistant|>"


def cases(*, branches: bool = False) -> list[CaseSpec]:
    """Pictures, sounds, both, text; prompts on both sides of the original length."""
    long = "".join(f"item {i}, " for i in range(10))

    def case(name: str, text: list[str], branch: str = "", **media: Any) -> CaseSpec:
        made = inputs.build(processor(), name, text, drop=("num_img_tokens",), **media)
        if branches and branch:
            made.before, made.after = merge(branch, 1.0), merge(branch, -1.0)
            made.notes = f"branch {branch}"
        return made

    return [
        case("single", [turn("<|image|>Name it.")], "vision", pictures=[(3, 16, 4)]),
        case("audio", [turn("<|audio|>What do you hear?")], "speech", sounds=[8000]),
        case("audios", [turn("<|audio|>and<|audio|>?")], "speech", sounds=[5000, 9000]),
        case("audio_and_image", [turn("<|image|><|audio|>Both?")], "vision", pictures=[(16, 3, 4)], sounds=[4000]),
        case("text", [turn("Say hello.")], notes="no media"),
        case("long", [turn(long)], notes="beyond the original length"),
        case("batch_left", [turn("Say hello there."), turn("Hi.")]),
    ]


def specs() -> list[Spec]:
    """base: as transformers has it; branches: as published."""
    files = split_processor(processor_files(processor()))
    return [
        Spec("phi4_multimodal", "base", build, hub_config, cases, files=files),
        Spec("phi4_multimodal", "branches", build, microsoft_config,
             lambda: inputs.pick(cases(branches=True), "single", "audio", "audio_and_image", "text"), to_microsoft,
             files=files, extra_tensors=adapters(), only_hub=True),
    ]  # fmt: skip
