"""Molmo2.

For the implementer:
- published names: `model.transformer.{wte.embedding,wte.new_embedding,blocks,ln_f}`, fused `self_attn.att_proj` (q,
  k, v) and `mlp.ff_proj` (UP first, then gate), `attn_out`, `ff_out`, `attn_norm`, `ff_norm`;
  `model.vision_backbone.{image_vit,image_pooling_2d,image_projector}`; save_pretrained writes the same.
- published config.json says vit_config (image_default_input_size, image_patch_size, image_num_pos, hidden_size...),
  adapter_config.vit_layers, text keys qkv_bias and layer_norm_eps; it declares MORE tower layers than it has weights
  for: only max(vit_layers % declared) + 1 are built. Negative vit_layers count from the declared number.
- the embedding table has vocab_size + additional_vocab_size rows, the head vocab_size.
- picture features are ADDED to the embedding of `<im_patch>`, not put in its place; tokens of a picture's
  low-resolution view come first, then the tiles' canvas.
- mm_token_type_ids 1 marks all tokens of all pictures and frames (starts, ends, columns too): they ALL see each other
  in both directions, across pictures, whatever lies between. The span from the first to the last is indivisible.
- tower outputs of vit_layers are joined on the feature axis (in the order given); no class token, no final norm.
  Pooling: mean of the valid patches of a pool as the query, attention over them (masked: image_token_pooling -1),
  then a gated projector.
- pixel_values [views, patches, 3 * p * p] with channel LAST in a patch; image_token_pooling holds patch numbers
  counted through all views of a picture; image_grids (low rows, low columns, rows, columns).
- resizing is bilinear WITHOUT antialias (torchvision), pictures and frames alike.
- qk_norm_type "qwen3" norms per head, "olmo" the whole projection; norm_after true norms after attention and MLP
  (before the residual); rope_scaling_layers restricts scaled rope to some layers, others have the plain one.
- video: "0.0 <frame_start>patches<frame_end> 0.5 <frame_start>..."; one clip a prompt. The prompt starts with the bos
  token (eos where there is none).
"""

from __future__ import annotations

from typing import Any

import inputs
from hub import published, rope_to_hub, split_processor
from maker import CaseSpec, Spec, processor_files
from tokenizer import character_tokenizer
from transformers import Molmo2Config, Molmo2ForConditionalGeneration
from transformers.models.molmo2 import Molmo2ImageProcessor, Molmo2Processor, Molmo2VideoProcessor

SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "system", "user", "assistant", "<im_start>", "<im_end>"]
SPECIAL += ["<im_patch>", "<im_col>", "<low_res_im_start>", "<|image|>", "<im_low>", "<frame_start>", "<frame_end>"]
SPECIAL += ["<|video|>"]
IMAGE, VIDEO = "<|image|>", "<|video|>"
TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' }}"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}{% for item in message['content'] %}"
    "{% if item['type'] == 'image' %}{{ '<|image|>' }}{% elif item['type'] == 'video' %}{{ '<|video|>' }}"
    "{% elif item['type'] == 'text' %}{{ item['text'] }}{% endif %}{% endfor %}{% endif %}{{ '<|im_end|>\\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
HALF = {"image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5]}


def processor() -> Molmo2Processor:
    """The reference processor: views of 24 pixels, patches of 4, margins of one patch."""
    tokenizer = character_tokenizer(
        SPECIAL,
        eos_token="<|im_end|>",
        bos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        extra_special_tokens={"image_token": IMAGE, "video_token": VIDEO},
    )
    size = {"height": 24, "width": 24}
    pictures = Molmo2ImageProcessor(size=size, patch_size=4, overlap_margins=[1, 1], max_crops=4, **HALF)
    videos = Molmo2VideoProcessor(size=size, patch_size=4, do_sample_frames=False, **HALF)
    return Molmo2Processor(pictures, videos, tokenizer, chat_template=TEMPLATE)


def build(**text: Any) -> Molmo2ForConditionalGeneration:
    """A tiny model."""
    config = Molmo2Config(
        text_config={
            "vocab_size": 102,
            "additional_vocab_size": 12,
            "hidden_size": 48,
            "intermediate_size": 72,
            "num_hidden_layers": 3,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "head_dim": 12,
            "max_position_embeddings": 256,
            "eos_token_id": 98,
            "rope_parameters": {"rope_type": "default", "rope_theta": 5000.0},
            **text,
        },
        vision_config={
            "hidden_size": 32,
            "intermediate_size": 56,
            "num_hidden_layers": 3,
            "num_attention_heads": 2,
            "num_key_value_heads": 2,
            "head_dim": 16,
            "image_size": [24, 24],
            "patch_size": 4,
        },
        adapter_config={
            "vision_feature_layer": [2, 0],
            "hidden_size": 32,
            "num_attention_heads": 2,
            "num_key_value_heads": 2,
            "head_dim": 16,
            "intermediate_size": 40,
            "text_hidden_size": 48,
        },
        image_start_token_id=102,
        image_end_token_id=103,
        image_patch_id=104,
        low_res_image_start_token_id=106,
        frame_start_token_id=109,
        frame_end_token_id=110,
    )
    config._attn_implementation = "eager"
    return Molmo2ForConditionalGeneration(config)


def hub_config(config: dict[str, Any]) -> dict[str, Any]:
    """As allenai/Molmo2-* publish it, with two tower layers more than there are weights."""
    config = published(config, "4.57.1")
    text = rope_to_hub(config["text_config"])
    text["qkv_bias"] = text.pop("attention_bias")
    text["layer_norm_eps"] = text.pop("rms_norm_eps")
    vision = config.pop("vision_config")
    vision |= {"image_default_input_size": vision.pop("image_size"), "image_patch_size": vision.pop("patch_size")}
    vision |= {"image_num_pos": vision.pop("num_position_embeddings"), "num_hidden_layers": 5, "model_type": "molmo2"}
    adapter = config["adapter_config"] | {"model_type": "molmo2"}
    adapter.pop("vision_feature_layer")
    return config | {"text_config": text, "vit_config": vision, "adapter_config": adapter | {"vit_layers": [-3, -5]}}


def turn(content: str) -> str:
    """One user turn, open for the answer."""
    return f"<|im_end|><|im_start|>user\n{content}<|im_end|>\n<|im_start|>assistant\n"


def cases() -> list[CaseSpec]:
    """Canvases of several shapes; several pictures; a clip."""
    mixed = [turn(f"{IMAGE}What?"), turn("Say hello."), turn(f"{IMAGE}Or?")]
    long = "".join(f"item {i}, " for i in range(4))
    timed = {"video_metadata": [{"fps": 2.0, "total_num_frames": 3, "frames_indices": [0, 1, 2]}]}

    def case(name: str, text: list[str], **media: Any) -> CaseSpec:
        return inputs.build(processor(), name, text, extras=inputs.features, **media)

    return [
        case("single", [turn(f"{IMAGE}Name it.")], pictures=[(30, 42)]),
        case("multi", [turn(f"{IMAGE}and {IMAGE}?")], pictures=[(19, 45), (50, 13)]),
        case("text", [turn("Say hello.")], notes="no media"),
        case("video", [turn(f"{VIDEO}What moves?")], videos=[(3, 20, 30)], arguments=timed, notes="half a second a frame"),
        case("long", [turn(f"{long}{IMAGE}{long}")], pictures=[(7, 11)], notes="for chunked prefill"),
        case("batch_left", mixed, pictures=[(24, 32), (9, 41)]),
    ]  # fmt: skip


def specs() -> list[Spec]:
    """qwen3: norms before; olmo: norms after, whole-projection norms, biases, scaled rope on some layers."""
    files = split_processor(processor_files(processor()))
    yarn = {"rope_type": "yarn", "rope_theta": 5000.0, "factor": 4.0, "original_max_position_embeddings": 32}
    olmo = {"qk_norm_type": "olmo", "norm_after": True, "rope_scaling_layers": [1], "rope_parameters": yarn}
    return [
        Spec("molmo2", "qwen3", build, hub_config, cases, files=files),
        Spec("molmo2", "olmo", lambda: build(**olmo, attention_bias=True), hub_config,
             lambda: inputs.pick(cases(), "single", "long"), files=files),
    ]  # fmt: skip
