"""Idefics2.

For the implementer:
- published names are the model's own but `lm_head.weight`: `model.text_model.*`, `model.vision_model.*`,
  `model.connector.*`.
- the tower sees pictures of any aspect, padded to the largest of the batch with pixel_attention_mask; position ids
  come from BUCKETS: the fraction i / n of each axis (n = valid patches) against boundaries 1/side, 2/side...
  (right-open), not i itself. Padded patches are masked in the tower and in the perceiver. A patch counts when any of
  its pixels does.
- fractions are computed in float32 as arange(0, 1 - 1e-6, 1 / n): equal boundaries fall either way; follow the
  golden.
- all-zero pictures are padding of ragged batches and are dropped.
- connector: gated MLP to the text width, then a perceiver: latents attend to [context, latents] (keys of both),
  learned latents, RMS norms, resampler_n_heads / num_key_value_heads, head_dim of its own; context is not normed by
  the latents' norm but by its own.
- perceiver width equals the text's hidden size. Published text is Mistral with sliding_window 4096.
- with do_image_splitting a picture is five: four crops of half the side and the whole, each <fake> image*n <fake>,
  neighbouring fakes merged, and a blank is put after the closing fake where a word follows directly.
"""

from __future__ import annotations

from typing import Any

import inputs
from hub import published, rope_to_hub, split_processor, thin
from maker import CaseSpec, Spec, processor_files
from tokenizer import character_tokenizer
from transformers import Idefics2Config, Idefics2ForConditionalGeneration
from transformers.models.idefics2 import Idefics2ImageProcessorPil, Idefics2Processor

from families.llava import text_config

SPECIAL = ["<s>", "</s>", "<unk>", "<pad>", "<fake_token_around_image>", "<image>", "<end_of_utterance>"]
TEMPLATE = (
    "{% for message in messages %}{{ message['role'].capitalize() }}"
    "{% if message['content'][0]['type'] == 'image' %}{{ ':' }}{% else %}{{ ': ' }}{% endif %}"
    "{% for line in message['content'] %}{% if line['type'] == 'text' %}{{ line['text'] }}"
    "{% elif line['type'] == 'image' %}{{ '<image>' }}{% endif %}{% endfor %}<end_of_utterance>\n{% endfor %}"
    "{% if add_generation_prompt %}{{ 'Assistant:' }}{% endif %}"
)


def processor(*, split: bool = False) -> Idefics2Processor:
    """The reference processor: up to 32 pixels a side, 4 latents a picture."""
    tokenizer = character_tokenizer(SPECIAL, bos_token="<s>", eos_token="</s>", unk_token="<unk>", pad_token="<pad>")
    pictures = Idefics2ImageProcessorPil(size={"shortest_edge": 12, "longest_edge": 32}, do_image_splitting=split)
    return Idefics2Processor(pictures, tokenizer, image_seq_len=4, chat_template=TEMPLATE)


def build(**text: Any) -> Idefics2ForConditionalGeneration:
    """A tiny model."""
    config = Idefics2Config(
        text_config=text_config("mistral", vocab_size=108, pad_token_id=99, **text),
        vision_config={
            "hidden_size": 32,
            "intermediate_size": 56,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "image_size": 32,
            "patch_size": 4,
        },
        perceiver_config={
            "hidden_size": 48,
            "resampler_n_latents": 4,
            "resampler_depth": 2,
            "resampler_n_heads": 4,
            "resampler_head_dim": 10,
            "num_key_value_heads": 2,
        },
        image_token_id=101,
    )
    config._attn_implementation = "eager"
    return Idefics2ForConditionalGeneration(config)


def hub_config(config: dict[str, Any]) -> dict[str, Any]:
    """As HuggingFaceM4/idefics2-8b publishes it."""
    config = published(config, "4.39.0.dev0")
    text = thin(rope_to_hub(config["text_config"]))
    for part in ("vision_config", "perceiver_config"):
        config[part] = thin(config[part]) | {"model_type": "idefics2"}
    return config | {"text_config": text}


def cases() -> list[CaseSpec]:
    """Aspects from square to narrow, several pictures a row, splitting; padded rows."""
    long = "".join(f"item {i}, " for i in range(5))
    mixed = ["User:<image>What?", "User: Say hello.", "User:<image>Or<image> ?"]

    def case(name: str, text: list[str], *, split: bool = False, **media: Any) -> CaseSpec:
        return inputs.build(processor(split=split), name, text, extras=inputs.features, **media)

    return [
        case("single", ["<s>User:<image>Name it.\nAssistant:"], pictures=[[(30, 42)]]),
        case("multi", ["<s>User:<image><image>and <image>?"], pictures=[[(19, 45), (50, 13), (24, 24)]]),
        case("split", ["<s>User:<image>"], pictures=[[(24, 32)]], split=True, notes="four crops and the whole"),
        case("text", ["<s>User: Say hello."], notes="no media"),
        case("long", [f"<s>{long}<image>{long}"], pictures=[[(7, 11)]], notes="for chunked prefill"),
        case("batch_left", mixed, pictures=[[(24, 32)], [], [(16, 16), (9, 41)]]),
        case("batch_right", mixed, pictures=[[(24, 32)], [], [(16, 16), (9, 41)]], side="right"),
    ]


def specs() -> list[Spec]:
    """base: sliding window shorter than the prompt; full: none, other rope base."""
    full = {"sliding_window": None, "rope_parameters": {"rope_type": "default", "rope_theta": 700.0}}
    files = split_processor(processor_files(processor()))
    return [
        Spec("idefics2", "base", lambda: build(sliding_window=20), hub_config, cases, files=files),
        Spec("idefics2", "full", lambda: build(**full), hub_config, lambda: inputs.pick(cases(), "multi"), files=files),
    ]
