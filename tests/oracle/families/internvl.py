"""InternVL 3 (-hf checkpoints; Qwen2 or Qwen3 text).

For the implementer:
- published names as LLaVA's: `language_model.model.*`, `vision_tower.*` (`encoder.layer.N`, no inner
  `vision_model.`), `multi_modal_projector.*`.
- tower: class token, learned positions, LayerNorms (or RMS norms: norm_type), layer scale lambda_1 / lambda_2 on both
  branches, optional RMS norm on the whole q and k (use_qk_norm; before splitting into heads), attention_bias for q,
  k, v only (the output projection always has one).
- image_size and patch_size may be pairs. use_mean_pooling true: the reference applies NO final norm to the tokens
  (vision_feature_layer -1).
- features: class token dropped (strategy default), pixel shuffle by downsample_ratio as the reference does it (blocks
  of width first, then of height, with the axes swapped at the end), LayerNorm over 4 * width (eps 1e-5), linear,
  gelu, linear.
- tiles: crop_to_patches; the tiles come first, then a thumbnail when there are more than one. Expansion <img>
  IMG_CONTEXT * (n * seq) </img>.
- video: every frame one picture, "Frame1: <img>...</img>\\nFrame2: ..."; pixel_values hold pictures and frames in
  prompt order.
"""

from __future__ import annotations

from typing import Any

import inputs
from hub import published, rope_to_hub, split_processor, thin
from maker import CaseSpec, Spec, processor_files
from tokenizer import character_tokenizer
from transformers import InternVLConfig, InternVLForConditionalGeneration
from transformers.models.got_ocr2 import GotOcr2ImageProcessorPil
from transformers.models.internvl import InternVLProcessor, InternVLVideoProcessor

from families.llava import text_config

SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<img>", "</img>", "<IMG_CONTEXT>", "<video>"]
IMAGE = "<IMG_CONTEXT>"
TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' }}"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}{% for content in message['content'] %}"
    "{% if content['type'] == 'image' %}{{ '<IMG_CONTEXT>\\n' }}{% elif content['type'] == 'video' %}{{ '<video>\\n' }}"
    "{% elif content['type'] == 'text' %}{{ content['text'] }}{% endif %}{% endfor %}{% endif %}{{ '<|im_end|>\\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
SIZE = {"height": 16, "width": 16}


def processor() -> InternVLProcessor:
    """The reference processor: tiles of 16 pixels, 4 tokens each."""
    names = {
        "start_image_token": "<img>",
        "end_image_token": "</img>",
        "context_image_token": IMAGE,
        "video_token": "<video>",
    }
    tokenizer = character_tokenizer(
        SPECIAL, eos_token="<|im_end|>", pad_token="<|endoftext|>", extra_special_tokens=names
    )
    pictures = GotOcr2ImageProcessorPil(size=SIZE, crop_to_patches=True, max_patches=6)
    videos = InternVLVideoProcessor(size=SIZE)
    return InternVLProcessor(pictures, tokenizer, videos, image_seq_length=4, chat_template=TEMPLATE)


def build(kind: str, vision: dict[str, Any], **text: Any) -> InternVLForConditionalGeneration:
    """A tiny model."""
    small = {"hidden_size": 32, "intermediate_size": 56, "num_hidden_layers": 3, "num_attention_heads": 2}
    config = InternVLConfig(
        vision_config={**small, "image_size": [16, 16], "patch_size": [4, 4], **vision},
        text_config=text_config(kind, vocab_size=108, pad_token_id=96, bos_token_id=96, eos_token_id=98, **text),
        image_token_id=101,
        image_seq_length=4,
        tie_word_embeddings=text.get("tie_word_embeddings", False),
    )
    config._attn_implementation = "eager"
    return InternVLForConditionalGeneration(config)


def hub_config(config: dict[str, Any]) -> dict[str, Any]:
    """As OpenGVLab/InternVL3-*-hf publish it."""
    config = published(config, "4.52.0.dev0")
    text = thin(rope_to_hub(config["text_config"]))
    text.pop("layer_types", None)
    return config | {"text_config": text}


def cases() -> list[CaseSpec]:
    """Tiles from one to six, clips, both; padded rows."""
    long = "".join(f"item {i}, " for i in range(4))
    start, end = "<|im_start|>user\n", "<|im_end|>\n"
    mixed = [f"{start}{IMAGE}\nWhat?{end}", f"{start}Say hello.{end}", f"{start}{IMAGE}\n{IMAGE}\nSame?{end}"]

    def case(name: str, text: list[str], **media: Any) -> CaseSpec:
        return inputs.build(processor(), name, text, extras=inputs.features, drop=("num_patches",), **media)

    return [
        case("single", [f"{start}{IMAGE}\nName it.{end}"], pictures=[(30, 42)]),
        case("multi", [f"{start}{IMAGE}\n{IMAGE}\nSame?{end}"], pictures=[(19, 45), (50, 13)]),
        case("text", [f"{start}Say hello.{end}"], notes="no media"),
        case("video", [f"{start}<video>\nWhat moves?{end}"], videos=[(3, 20, 30)]),
        case("image_and_video", [f"{start}<video>\n{IMAGE}\nSame?{end}"], videos=[(2, 20, 30)], pictures=[(16, 16)]),
        case("long", [f"{long}{IMAGE}{long}"], pictures=[(7, 11)], notes="for chunked prefill"),
        case("batch_left", mixed, pictures=[(24, 32), (16, 16), (16, 33)]),
    ]


def specs() -> list[Spec]:
    """qwen2: LayerNorms, biases; qwen3: RMS norms with q and k norms, tied."""
    files = split_processor(processor_files(processor()))
    rope = {"rope_type": "dynamic", "rope_theta": 1_000_000.0, "factor": 2.0}
    large = {"norm_type": "rms_norm", "use_qk_norm": True, "attention_bias": False}
    return [
        Spec("internvl", "qwen2", lambda: build("qwen2", {"attention_bias": True}, rope_parameters=rope), hub_config, cases,
             files=files),
        Spec("internvl", "qwen3", lambda: build("qwen3", large, tie_word_embeddings=True, head_dim=16), hub_config,
             lambda: inputs.pick(cases(), "single", "video"), files=files),
    ]  # fmt: skip
