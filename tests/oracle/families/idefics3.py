"""Idefics3.

For the implementer:
- published names: `model.text_model.*`, `model.vision_model.*`, `model.connector.modality_projection.proj.weight`,
  `lm_head.weight`.
- tower as Idefics2's (bucketed position ids, masks), tiles all of max_image_size; connector: pixel shuffle by
  scale_factor (a block of scale x scale patches becomes one token of scale^2 * width, rows of the block outermost),
  one linear layer without bias.
- a picture is resized (longest edge to size.longest_edge, then both sides up to multiples of max_image_size), cut
  into rows x cols tiles, and the whole picture resized to one tile comes LAST. Expansion: see `text` and `input_ids`;
  "\\n" ends each row of tiles.
- a picture that fits one tile after resizing still goes through the split when it is larger; rows = cols = 0 gives
  the short form.
- published vision_config.model_type is "idefics3"; text is Llama with llama3 rope scaling.
"""

from __future__ import annotations

from typing import Any

import inputs
from hub import published, rope_to_hub, split_processor, thin
from maker import CaseSpec, Spec, processor_files
from tokenizer import character_tokenizer
from transformers import Idefics3Config, Idefics3ForConditionalGeneration
from transformers.models.idefics3 import Idefics3ImageProcessorPil, Idefics3Processor

from families.idefics2 import TEMPLATE
from families.llava import text_config

SPECIAL = [
    "<s>",
    "</s>",
    "<unk>",
    "<pad>",
    "<fake_token_around_image>",
    "<image>",
    "<end_of_utterance>",
    "<global-img>",
]
SPECIAL += [f"<row_{row}_col_{column}>" for row in (1, 2, 3) for column in (1, 2, 3)]
ROPE = {"rope_type": "llama3", "rope_theta": 5000.0, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
ROPE["original_max_position_embeddings"] = 64


def processor() -> Idefics3Processor:
    """The reference processor: tiles of 16 pixels, up to 48 a side, 4 tokens a tile."""
    tokenizer = character_tokenizer(SPECIAL, bos_token="<s>", eos_token="</s>", unk_token="<unk>", pad_token="<pad>")
    pictures = Idefics3ImageProcessorPil(size={"longest_edge": 48}, max_image_size={"longest_edge": 16})
    return Idefics3Processor(pictures, tokenizer, image_seq_len=4, chat_template=TEMPLATE)


def vision(**changes: Any) -> dict[str, Any]:
    """A tiny tower: 4 x 4 patches a tile."""
    small = {"hidden_size": 32, "intermediate_size": 56, "num_hidden_layers": 2, "num_attention_heads": 2}
    return {**small, "image_size": 16, "patch_size": 4, **changes}


def build(*, tied: bool = False, vision_changes: Any = (), **text: Any) -> Idefics3ForConditionalGeneration:
    """A tiny model."""
    config = Idefics3Config(
        text_config=text_config("llama", vocab_size=120, pad_token_id=99, **text),
        vision_config=vision(**dict(vision_changes)),
        image_token_id=101,
        scale_factor=2,
        tie_word_embeddings=tied,
    )
    config._attn_implementation = "eager"
    return Idefics3ForConditionalGeneration(config)


def hub_config(config: dict[str, Any]) -> dict[str, Any]:
    """As HuggingFaceM4/Idefics3-8B-Llama3 publishes it."""
    config = published(config, "4.45.0.dev0")
    text = thin(rope_to_hub(config["text_config"]))
    vision_config = thin(config["vision_config"]) | {"model_type": "idefics3"}
    return config | {"text_config": text, "vision_config": vision_config}


def cases() -> list[CaseSpec]:
    """Tiles 1x1 to 3x3; padded rows with other numbers of tiles."""
    mixed = ["User:<image>What?", "User: Say hello.", "User:<image>Or<image> ?"]
    long = "".join(f"item {i}, " for i in range(4))

    def case(name: str, text: list[str], **media: Any) -> CaseSpec:
        return inputs.build(processor(), name, text, extras=inputs.features, **media)

    return [
        case("single", ["<s>User:<image>Name it.\nAssistant:"], pictures=[[(30, 42)]]),
        case("multi", ["<s>User:<image>and<image>?"], pictures=[[(15, 45), (50, 13)]]),
        case("text", ["<s>User: Say hello."], notes="no media"),
        case("long", [f"<s>{long}<image>{long}"], pictures=[[(11, 47)]], notes="for chunked prefill"),
        case("batch_left", mixed, pictures=[[(9, 41)], [], [(12, 48), (7, 40)]]),
    ]


def specs() -> list[Spec]:
    """base: llama3 rope; tied: tied head, longer sides."""
    files = split_processor(processor_files(processor()))
    return [
        Spec("idefics3", "base", lambda: build(rope_parameters=ROPE), hub_config, cases, files=files),
        Spec("idefics3", "tied", lambda: build(tied=True, num_key_value_heads=1), hub_config,
             lambda: inputs.pick(cases(), "single"), files=files),
    ]  # fmt: skip
