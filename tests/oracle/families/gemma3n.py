"""Gemma 3n.

For the implementer:
- published names are the model's own: `model.language_model.*`, `model.vision_tower.timm_model.*`,
  `model.audio_tower.*`, `model.embed_vision.*`, `model.embed_audio.*`; tied head. Convolutions are stored as torch
  does, [out, in, kh, kw].
- tower: timm's mobilenetv5_300m_enc. The tiny one has model_args channel_multiplier 0.02 and msfa_output_resolution 4
  (real ones: null, so 1.0 and 16): every width of the architecture is multiplied and rounded to a multiple of 8 (at
  least 8, and not below 0.9 of it); the fusion adapter's output stays 2048 wide. Its map is 8 x 8 here and is
  averaged to 4 x 4.
- features: map flattened to tokens, times sqrt(2048), then soft_embedding_norm, projection, norm without weight.
- hard tokens at or beyond vocab_offset of embed_vision / embed_audio take their embedding from there
  (hard_embedding_norm), after the text table was read with those ids as they are (ids of per-layer inputs at or
  beyond vocab_size_per_layer_input count as 0).
- norms multiply by the weight itself; attention scale 1; v normed without weight; sliding and full layers have their
  own rope base.
- KV sharing: the last num_kv_shared_layers layers read the keys and values of the last earlier layer of their own
  kind; their k_proj, v_proj, k_norm are absent or ignored (see the layouts).
- AltUp, LAuReL, per-layer inputs, and activation sparsity (gate below mean + std * icdf(p) is cut, std over the
  width, biased) as recorded.
- audio: features padded to audio_soft_tokens_per_image with the embedding of the last hard audio token; frames where
  the mask is 0 take that, too.
- the processor's expansion has "\\n\\n" on both sides. image masks are causal (no block).
- published text_config: rope_theta, rope_local_base_freq, rope_scaling null.
"""

from __future__ import annotations

from typing import Any

import inputs
from hub import published, split_processor
from maker import CaseSpec, Spec, processor_files
from tokenizer import character_tokenizer
from transformers import Gemma3nConfig, Gemma3nForConditionalGeneration
from transformers.models.gemma3n import Gemma3nAudioFeatureExtractor, Gemma3nProcessor
from transformers.models.siglip import SiglipImageProcessorPil

SPECIAL = ["<pad>", "<eos>", "<bos>", "<start_of_turn>", "<end_of_turn>", "<start_of_image>", "<start_of_audio>"]
SPECIAL += ["system", "user", "assistant", "<end_of_image>", "<image_soft_token>", *[""] * 6]
SPECIAL += ["<end_of_audio>", "<audio_soft_token>", *[""] * 6]
NAMES = {"boi_token": "<start_of_image>", "image_token": "<image_soft_token>", "eoi_token": "<end_of_image>"}
NAMES |= {"boa_token": "<start_of_audio>", "audio_token": "<audio_soft_token>", "eoa_token": "<end_of_audio>"}
IMAGE, AUDIO = "<image_soft_token>", "<audio_soft_token>"
VISION_OFFSET, AUDIO_OFFSET = 106, 114
TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}"
    "{% set role = 'model' if message['role'] == 'assistant' else message['role'] %}"
    "{{ '<start_of_turn>' + role + '\\n' }}"
    "{% if message['content'] is string %}{{ message['content'] | trim }}{% else %}"
    "{% for item in message['content'] %}{% if item['type'] == 'image' %}{{ '<image_soft_token>' }}"
    "{% elif item['type'] == 'audio' %}{{ '<audio_soft_token>' }}"
    "{% elif item['type'] == 'text' %}{{ item['text'] | trim }}{% endif %}{% endfor %}{% endif %}"
    "{{ '<end_of_turn>\\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<start_of_turn>model\\n' }}{% endif %}"
)


def processor() -> Gemma3nProcessor:
    """The reference processor: 128 pixels a side, 16 tokens a picture; 32 mel bins, 6 tokens a sound.

    Pictures are enlarged by repetition, so that pixel values compress.
    """
    tokenizer = character_tokenizer(
        SPECIAL, pad_token="<pad>", eos_token="<eos>", bos_token="<bos>", extra_special_tokens=NAMES
    )
    pictures = SiglipImageProcessorPil(size={"height": 128, "width": 128}, do_normalize=False, resample=0)
    sounds = Gemma3nAudioFeatureExtractor(feature_size=32)
    return Gemma3nProcessor(sounds, pictures, tokenizer, TEMPLATE, audio_seq_length=6, image_seq_length=16)


def build() -> Gemma3nForConditionalGeneration:
    """A tiny model."""
    config = Gemma3nConfig(
        text_config={
            "vocab_size": 122,
            "vocab_size_per_layer_input": VISION_OFFSET,
            "hidden_size": 48,
            "intermediate_size": [72, 72, 64, 72, 72],
            "num_hidden_layers": 5,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "head_dim": 16,
            "max_position_embeddings": 256,
            "sliding_window": 12,
            "layer_types": [
                "sliding_attention",
                "full_attention",
                "sliding_attention",
                "sliding_attention",
                "full_attention",
            ],
            "rope_parameters": {
                "full_attention": {"rope_type": "default", "rope_theta": 1_000_000.0},
                "sliding_attention": {"rope_type": "default", "rope_theta": 10_000.0},
            },
            "hidden_size_per_layer_input": 8,
            "altup_num_inputs": 3,
            "num_kv_shared_layers": 2,
            "laurel_rank": 6,
            "activation_sparsity_pattern": [0.95, 0.5, 0.0, 0.0, 0.0],
            "final_logit_softcapping": 3.0,
            "bos_token_id": 98,
            "eos_token_id": 97,
            "pad_token_id": 96,
        },
        vision_config={
            "model_args": {"channel_multiplier": 0.02, "msfa_output_resolution": 4},
            "vocab_size": 8,
            "vocab_offset": VISION_OFFSET,
        },
        audio_config={
            "vocab_size": 8,
            "vocab_offset": AUDIO_OFFSET,
            "input_feat_size": 32,
            "hidden_size": 32,
            "conf_attention_chunk_size": 4,
            "conf_attention_context_left": 5,
            "conf_num_attention_heads": 2,
            "conf_num_hidden_layers": 2,
            "conf_reduction_factor": 2,
            "sscp_conv_channel_size": [8, 4],
        },
        audio_soft_tokens_per_image=6,
        vision_soft_tokens_per_image=16,
        boi_token_id=101,
        eoi_token_id=VISION_OFFSET,
        image_token_id=VISION_OFFSET + 1,
        boa_token_id=102,
        eoa_token_id=AUDIO_OFFSET,
        audio_token_id=AUDIO_OFFSET + 1,
    )
    config._attn_implementation = "eager"
    return Gemma3nForConditionalGeneration(config)


def hub_config(config: dict[str, Any]) -> dict[str, Any]:
    """As google/gemma-3n-* publish it."""
    config = published(config, "4.53.0.dev0")
    text = config["text_config"]
    rope = text.pop("rope_parameters")
    text["rope_theta"], text["rope_local_base_freq"] = (
        rope[k]["rope_theta"] for k in ("full_attention", "sliding_attention")
    )
    return config | {"text_config": text | {"rope_scaling": None}, "eos_token_id": [97, 100]}


def turn(content: str) -> str:
    """One user turn, open for the answer."""
    return f"<bos><start_of_turn>user\n{content}<end_of_turn>\n<start_of_turn>model\n"


def features(model: Any, given: dict[str, Any]) -> dict[str, Any]:
    """Projected features; sounds with their mask (1: padding)."""
    found = inputs.features(model, {k: v for k, v in given.items() if not k.startswith("input_features")})
    if "input_features" in given:
        result = model.model.get_audio_features(
            given["input_features"], ~given["input_features_mask"], return_dict=True
        )
        found |= {"audio_features": result.pooler_output, "audio_padding": result.audio_mel_mask}
    return found


def cases() -> list[CaseSpec]:
    """Pictures, sounds, both; padded rows."""
    mixed = [turn(f"{IMAGE}What?"), turn("Say hello.")]
    long = "".join(f"item {i}, " for i in range(4))

    def case(name: str, text: list[str], **media: Any) -> CaseSpec:
        return inputs.build(processor(), name, text, extras=features, **media)

    return [
        case("single", [turn(f"{IMAGE}Name it.")], pictures=[[(12, 16)]]),
        case("multi", [turn(f"{IMAGE}{IMAGE}Same?")], pictures=[[(10, 14), (17, 5)]]),
        case("text", [turn("Say hello.")], notes="no media"),
        case("audio", [turn(f"{AUDIO}What do you hear?")], sounds=[8000], notes="half a second"),
        case("audio_and_image", [turn(f"{AUDIO}{IMAGE}Both {AUDIO}?")], sounds=[3000, 5300], pictures=[[(12, 16)]]),
        case("long", [turn(f"{long}{IMAGE}{long}")], pictures=[[(7, 11)]], notes="for chunked prefill"),
        case("batch_left", mixed, pictures=[[(12, 16)], []]),
    ]  # fmt: skip


def specs() -> list[Spec]:
    """base."""
    files = split_processor(processor_files(processor()))
    return [Spec("gemma3n", "base", build, hub_config, cases, files=files)]
