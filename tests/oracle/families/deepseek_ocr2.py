"""DeepSeek-OCR-2.

For the implementer:
- published names: `model.sam_model.*`, `model.qwen2_model.model.model.*`, `model.qwen2_model.query_768.weight`,
  `.query_1024.weight`, `model.projector.layers.*`, `model.view_seperator` (sic), `model.embed_tokens/layers/norm`,
  `lm_head.weight`; experts one by one. save_pretrained writes the same. The published configuration of the original
  repository is of another shape (remote code); layout `hub` has transformers' one.
- SAM tower: windows and global layers, relative positions (resized linearly when sizes differ), absolute position map
  resized bicubically where needed, neck, two stride-2 convolutions: a 16x reduction on top of the patch's.
- then [map tokens, queries] through Qwen2 layers: map tokens see each other in both directions, queries see all map
  tokens and causally each other; 144 queries when there are at most 144 map tokens, else 256; the queries' outputs
  are the features. No token embedding table there.
- order of a picture's features: local tiles (row by row), the global view, the view separator.
- a picture no larger than the tile gets no tiles. The global view is padded to a square with background_color.
- text: first layers dense (mlp_layer_types), then experts: softmax scores, greedy top k, NOT renormalised, times
  routed_scaling_factor; shared experts.
- inputs: pixel_values [pictures, 3, size, size], pixel_values_local [tiles, 3, tile, tile], num_local_patches
  [pictures].
"""

from __future__ import annotations

from typing import Any

import inputs
from hub import published, split_processor
from maker import CaseSpec, Spec, processor_files
from tokenizer import character_tokenizer
from transformers import DeepseekOcr2Config, DeepseekOcr2ForConditionalGeneration
from transformers.models.deepseek_ocr2 import DeepseekOcr2ImageProcessorPil, DeepseekOcr2Processor

from families.llava import text_config

SPECIAL = ["<bos>", "<eos>", "<pad>", "<image>", "<|grounding|>"]
TEMPLATE = (
    "{% for message in messages %}{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for item in message['content'] %}{% if item['type'] == 'image' %}{{ '<image>\\n' }}"
    "{% elif item['type'] == 'text' %}{{ item['text'] }}{% endif %}{% endfor %}{% endif %}{% endfor %}"
)


def processor() -> DeepseekOcr2Processor:
    """The reference processor with patches of 2 pixels: views of 128, tiles of 96."""
    tokenizer = character_tokenizer(SPECIAL, bos_token="<bos>", eos_token="<eos>", pad_token="<pad>")
    pictures = DeepseekOcr2ImageProcessorPil(size={"height": 128, "width": 128}, tile_size=96)
    return DeepseekOcr2Processor(pictures, tokenizer, TEMPLATE, patch_size=2)


def build() -> DeepseekOcr2ForConditionalGeneration:
    """A tiny model."""
    text = text_config("deepseek_ocr2_text", rope_parameters={"rope_type": "default", "rope_theta": 5000.0})
    text |= {"num_key_value_heads": 4, "num_hidden_layers": 3, "mlp_layer_types": ["dense", "sparse", "sparse"]}
    text |= {"n_routed_experts": 6, "num_experts_per_tok": 2, "moe_intermediate_size": 20, "n_shared_experts": 2}
    text |= {"routed_scaling_factor": 1.5}
    sam = {
        "hidden_size": 24,
        "output_channels": 16,
        "num_hidden_layers": 3,
        "num_attention_heads": 2,
        "image_size": 128,
    }
    sam |= {"patch_size": 2, "window_size": 7, "global_attn_indexes": [1], "downsample_channels": [20, 32]}
    encoder = {"hidden_size": 32, "intermediate_size": 40, "num_hidden_layers": 2, "num_attention_heads": 4}
    encoder |= {"num_key_value_heads": 2, "vocab_size": 8}
    config = DeepseekOcr2Config(
        vision_config={"sam_config": sam, "encoder_config": encoder}, text_config=text, image_token_id=99
    )
    config._attn_implementation = "eager"
    return DeepseekOcr2ForConditionalGeneration(config)


def hub_config(config: dict[str, Any]) -> dict[str, Any]:
    """As deepseek-community/DeepSeek-OCR-2 publishes it: 5.x style."""
    return published(config, "5.6.0.dev0")


def cases() -> list[CaseSpec]:
    """One view; tiles and a view; text alone."""

    def case(name: str, text: list[str], **media: Any) -> CaseSpec:
        return inputs.build(processor(), name, text, extras=inputs.features, **media)

    return [
        case("single", ["<bos><image>\nFree OCR."], pictures=[(8, 11, 8)]),
        case("tiles", ["<bos><image>\nRead"], pictures=[(8, 18, 8)], notes="two tiles and the view"),
        case("text", ["<bos>Say hello."], notes="no media"),
    ]


def specs() -> list[Spec]:
    """base."""
    return [
        Spec("deepseek_ocr2", "base", build, hub_config, cases, files=split_processor(processor_files(processor())))
    ]
