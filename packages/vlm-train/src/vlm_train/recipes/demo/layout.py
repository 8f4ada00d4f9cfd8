"""The small files of the demo checkpoint: everything in its folder except the weights.

The architecture is Qwen2-VL at 9.4 million parameters, in the layout of the original checkpoints.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from vlm_train.recipes.demo import vocabulary

PATCH_SIZE = 14
MERGE_SIZE = 2
MIN_PIXELS = 112 * 112
MAX_PIXELS = 448 * 448
IMAGE_MEAN = (0.48145466, 0.4578275, 0.40821073)  # CLIP's, as Qwen2-VL uses them
IMAGE_STD = (0.26862954, 0.26130258, 0.27577711)

# Qwen2's pre-tokenizer; digits stand alone.
PRE_TOKENIZER = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)

CHAT_TEMPLATE = """\
{%- for message in messages -%}
    {{- '<|im_start|>' + message['role'] + '\\n' -}}
    {%- if message['content'] is string -%}
        {%- if message['role'] == 'assistant' and '</think>' in message['content'] -%}
            {{- message['content'].split('</think>')[-1].lstrip('\\n') -}}
        {%- else -%}
            {{- message['content'] -}}
        {%- endif -%}
    {%- else -%}
        {%- for part in message['content'] -%}
            {%- if part['type'] in ('image', 'image_url', 'input_image') -%}
                {{- '<|vision_start|><|image_pad|><|vision_end|>' -}}
            {%- elif part['type'] in ('video', 'video_url', 'input_video') -%}
                {{- '<|vision_start|><|video_pad|><|vision_end|>' -}}
            {%- elif 'text' in part -%}
                {%- if message['role'] == 'assistant' and '</think>' in part['text'] -%}
                    {{- part['text'].split('</think>')[-1].lstrip('\\n') -}}
                {%- else -%}
                    {{- part['text'] -}}
                {%- endif -%}
            {%- endif -%}
        {%- endfor -%}
    {%- endif -%}
    {{- '<|im_end|>\\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}
    {{- '<|im_start|>assistant\\n' -}}
    {%- if enable_thinking is defined and enable_thinking -%}
        {{- '<think>\\n' -}}
    {%- endif -%}
{%- endif -%}
"""


def token_id(token: str) -> int:
    """Id of a special token, marker or whole word, written as in tokenizer.json."""
    return vocabulary.tokens().index(token)


def config() -> dict[str, Any]:
    """`config.json` of the demo checkpoint."""
    return {
        "architectures": ["Qwen2VLForConditionalGeneration"],
        "model_type": "qwen2_vl",
        "attention_dropout": 0.0,
        "bos_token_id": token_id(vocabulary.END_OF_TEXT),
        "eos_token_id": token_id(vocabulary.TURN_END),
        "pad_token_id": token_id(vocabulary.END_OF_TEXT),
        "vision_start_token_id": token_id(vocabulary.VISION_START),
        "vision_end_token_id": token_id(vocabulary.VISION_END),
        "vision_token_id": token_id("<|vision_pad|>"),
        "image_token_id": token_id(vocabulary.IMAGE),
        "video_token_id": token_id(vocabulary.VIDEO),
        "hidden_act": "silu",
        "hidden_size": 256,
        "initializer_range": 0.02,
        "intermediate_size": 512,
        "max_position_embeddings": 4096,
        "max_window_layers": 6,
        "num_attention_heads": 4,
        "num_hidden_layers": 6,
        "num_key_value_heads": 2,
        "rms_norm_eps": 1e-06,
        "rope_theta": 10000.0,
        "rope_scaling": {"type": "mrope", "mrope_section": [8, 12, 12]},
        "sliding_window": 4096,
        "tie_word_embeddings": True,
        "torch_dtype": "bfloat16",
        "use_cache": True,
        "use_sliding_window": False,
        "vision_config": {
            "model_type": "qwen2_vl",
            "depth": 6,
            "embed_dim": 256,
            "hidden_act": "quick_gelu",
            "hidden_size": 256,
            "in_channels": 3,
            "mlp_ratio": 3,
            "num_heads": 4,
            "patch_size": PATCH_SIZE,
            "spatial_merge_size": MERGE_SIZE,
            "spatial_patch_size": PATCH_SIZE,
            "temporal_patch_size": 2,
        },
        "vocab_size": vocabulary.VOCABULARY_SIZE,
    }


def generation_config() -> dict[str, Any]:
    """`generation_config.json`: greedy, ends at the turn's end."""
    end_of_text, turn_end = token_id(vocabulary.END_OF_TEXT), token_id(vocabulary.TURN_END)
    return {
        "bos_token_id": end_of_text,
        "do_sample": False,
        "eos_token_id": [turn_end, end_of_text],
        "pad_token_id": end_of_text,
    }


def preprocessor_config() -> dict[str, Any]:
    """`preprocessor_config.json`: Qwen2-VL's image processing with this model's limits."""
    return {
        "image_processor_type": "Qwen2VLImageProcessor",
        "processor_class": "Qwen2VLProcessor",
        "do_convert_rgb": True,
        "do_resize": True,
        "do_rescale": True,
        "do_normalize": True,
        "resample": 3,
        "rescale_factor": 1 / 255,
        "image_mean": list(IMAGE_MEAN),
        "image_std": list(IMAGE_STD),
        "min_pixels": MIN_PIXELS,
        "max_pixels": MAX_PIXELS,
        "size": {"shortest_edge": MIN_PIXELS, "longest_edge": MAX_PIXELS},
        "patch_size": PATCH_SIZE,
        "merge_size": MERGE_SIZE,
        "temporal_patch_size": 2,
    }


def _added_token(content: str) -> dict[str, Any]:
    special = content in vocabulary.SPECIAL
    return {
        "content": content,
        "lstrip": False,
        "normalized": False,
        "rstrip": False,
        "single_word": False,
        "special": special,
    }


def tokenizer() -> dict[str, Any]:
    """`tokenizer.json` in the format of the tokenizers library."""
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": False}
    split = {"type": "Split", "pattern": {"Regex": PRE_TOKENIZER}, "behavior": "Isolated", "invert": False}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            {"id": token_id(content), **_added_token(content)} for content in (*vocabulary.SPECIAL, *vocabulary.MARKERS)
        ],
        "normalizer": {"type": "NFC"},
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [split, byte_level]},
        "post_processor": byte_level,
        "decoder": byte_level,
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": "",
            "end_of_word_suffix": "",
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": True,
            "vocab": {token: index for index, token in enumerate(vocabulary.tokens())},
            "merges": [],
        },
    }


def tokenizer_config() -> dict[str, Any]:
    """`tokenizer_config.json`: a plain fast tokenizer, since Qwen2's own class would drop `ignore_merges`."""
    return {
        "added_tokens_decoder": {
            str(token_id(content)): _added_token(content) for content in (*vocabulary.SPECIAL, *vocabulary.MARKERS)
        },
        "additional_special_tokens": [token for token in vocabulary.SPECIAL if token != vocabulary.END_OF_TEXT],
        "bos_token": None,
        "clean_up_tokenization_spaces": False,
        "eos_token": vocabulary.TURN_END,
        "errors": "replace",
        "model_max_length": 4096,
        "pad_token": vocabulary.END_OF_TEXT,
        "processor_class": "Qwen2VLProcessor",
        "split_special_tokens": False,
        "tokenizer_class": "PreTrainedTokenizerFast",
        "unk_token": None,
    }


def files() -> dict[str, str]:
    """File name -> contents, for every file of the checkpoint's folder but the weights."""
    documents = {
        "config.json": config(),
        "generation_config.json": generation_config(),
        "preprocessor_config.json": preprocessor_config(),
        "tokenizer.json": tokenizer(),
        "tokenizer_config.json": tokenizer_config(),
    }
    texts = {name: json.dumps(value, indent=2, ensure_ascii=False) + "\n" for name, value in documents.items()}
    return {**texts, "chat_template.jinja": CHAT_TEMPLATE}


def write(folder: Path) -> None:
    """Write `files()` into `folder`, which is made if need be."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files().items():
        (folder / name).write_text(text, encoding="utf-8")
