"""SmolVLM and SmolVLM2 (video).

For the implementer:
- everything as Idefics3 (names, tower, connector, tiles), model_type smolvlm; text tied or not, biases none.
- video: every frame is one tile (resized to size.longest_edge keeping the aspect, then squared to max_image_size),
  pixel_values hold the frames as [1, frames, 3, side, side]; the prompt tells number of frames (in words), duration
  and each timestamp (see `text` and `input_ids` of case video: the intro, "\\nFrame from MM:SS:", and after the last
  frame a closing).
- frame sampling skips a second at both ends of long clips; here frames are given as they are.
"""

from __future__ import annotations

from typing import Any

import inputs
from hub import published, rope_to_hub, split_processor, thin
from maker import CaseSpec, Spec, processor_files
from tokenizer import character_tokenizer
from transformers import SmolVLMConfig, SmolVLMForConditionalGeneration
from transformers.models.smolvlm import SmolVLMImageProcessorPil, SmolVLMProcessor, SmolVLMVideoProcessor

from families import idefics3
from families.idefics2 import TEMPLATE
from families.idefics3 import SPECIAL, vision
from families.llava import text_config


def processor() -> SmolVLMProcessor:
    """The reference processor: tiles of 16 pixels, up to 48 a side, 4 tokens a tile."""
    tokenizer = character_tokenizer(SPECIAL, bos_token="<s>", eos_token="</s>", unk_token="<unk>", pad_token="<pad>")
    side = {"longest_edge": 16}
    pictures = SmolVLMImageProcessorPil(size={"longest_edge": 48}, max_image_size=side)
    sampling = {"fps": 1, "max_frames": 8, "video_size": side}
    videos = SmolVLMVideoProcessor(size=side, max_image_size=side, video_sampling=sampling)
    return SmolVLMProcessor(pictures, tokenizer, videos, image_seq_len=4, chat_template=TEMPLATE)


def build(*, tied: bool, **text: Any) -> SmolVLMForConditionalGeneration:
    """A tiny model."""
    config = SmolVLMConfig(
        text_config=text_config("llama", vocab_size=120, pad_token_id=99, **text),
        vision_config=vision(),
        image_token_id=101,
        scale_factor=2,
        tie_word_embeddings=tied,
    )
    config._attn_implementation = "eager"
    return SmolVLMForConditionalGeneration(config)


def hub_config(config: dict[str, Any]) -> dict[str, Any]:
    """As HuggingFaceTB/SmolVLM2-* publish it."""
    config = published(config, "4.47.1")
    text = thin(rope_to_hub(config["text_config"]))
    vision_config = thin(config["vision_config"]) | {
        "model_type": "smolvlm_vision",
        "max_image_size": {"longest_edge": 16},
    }
    return config | {"text_config": text, "vision_config": vision_config}


def cases() -> list[CaseSpec]:
    """Pictures as Idefics3, and a clip."""
    mixed = ["User:<image>What?", "User: Say hello.", "User:<image>Or<image> ?"]
    timed = {"video_metadata": [{"fps": 0.5, "total_num_frames": 2, "frames_indices": [0, 1], "duration": 4.0}]}

    def case(name: str, text: list[str], **media: Any) -> CaseSpec:
        return inputs.build(processor(), name, text, extras=inputs.features, **media)

    return [
        case("single", ["User:<image>Name it.\nAssistant:"], pictures=[[(30, 42)]]),
        case("multi", ["User:<image>and<image>?"], pictures=[[(15, 45), (50, 13)]]),
        case("text", ["User: Say hello."], notes="no media"),
        case("video", ["User:<video>?"], videos=[(2, 20, 30)], arguments=timed, notes="two seconds a frame"),
        case("batch_left", mixed, pictures=[[(9, 41)], [], [(12, 48), (7, 40)]]),
    ]


def specs() -> list[Spec]:
    """base: tied; untied."""
    files = split_processor(processor_files(processor()))
    rope = {"rope_type": "default", "rope_theta": 100000.0}
    return [
        Spec("smolvlm", "base", lambda: build(tied=True, rope_parameters=rope), hub_config, cases, files=files),
        Spec("smolvlm", "untied", lambda: build(tied=False, num_key_value_heads=1), idefics3.hub_config,
             lambda: inputs.pick(cases(), "multi"), files=files),
    ]  # fmt: skip
