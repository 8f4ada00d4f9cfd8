"""Mistral 3 (Mistral Small 3.1, text mistral; Ministral 3, text ministral3).

For the implementer:
- names and tower as Pixtral; projector: `norm` (RMS, eps of the TEXT), `patch_merger.merging_layer`, `linear_1`,
  `linear_2`, no biases.
- the merger joins spatial_merge_size x spatial_merge_size patches channel-first (torch's unfold: index = channel * s
  * s + dy * s + dx).
- sizes are rounded up to patch * merge; expansion counts merged cells.
- ministral3: rope_parameters (yarn with `llama_4_scaling_beta`): after rope, queries are multiplied by 1 + beta *
  log(1 + floor(position / original_max_position_embeddings)). beta and mscale keys are part of rope_parameters. The
  published config has rope_parameters (5.x style), for both parts.
"""

from __future__ import annotations

from typing import Any

import inputs
from hub import published, rope_to_hub, split_processor, thin
from maker import Spec, processor_files
from transformers import Mistral3Config, Mistral3ForConditionalGeneration

from families.llava import text_config
from families.pixtral import cases, processor, vision


def build(kind: str, *, tied: bool, **text: Any) -> Mistral3ForConditionalGeneration:
    """A tiny model."""
    config = Mistral3Config(
        vision_config=vision(),
        text_config=text_config(kind, vocab_size=112, pad_token_id=99, head_dim=16, **text),
        image_token_index=100,
        tie_word_embeddings=tied,
    )
    config._attn_implementation = "eager"
    return Mistral3ForConditionalGeneration(config)


def hub_config(config: dict[str, Any]) -> dict[str, Any]:
    """As mistralai/Mistral-Small-3.1-24B-Instruct-2503 publishes it; Ministral 3 is 5.x style already."""
    if config["text_config"]["model_type"] == "ministral3":
        return config
    config = published(config, "4.50.0.dev0")
    return config | {key: thin(rope_to_hub(config[key])) for key in ("text_config", "vision_config")}


def specs() -> list[Spec]:
    """mistral: untied; ministral3: tied, yarn with query scaling, prompts beyond the original length."""
    files = split_processor(processor_files(processor(2)))
    rope = {"rope_type": "default", "rope_theta": 1_000_000_000.0}
    yarn = {"rope_type": "yarn", "rope_theta": 10000.0, "factor": 8.0, "original_max_position_embeddings": 24,
            "beta_fast": 32.0, "beta_slow": 1.0, "mscale": 1.0, "mscale_all_dim": 1.0, "llama_4_scaling_beta": 0.1}  # fmt: skip
    return [
        Spec("mistral3", "mistral", lambda: build("mistral", tied=False, sliding_window=None, rope_parameters=rope),
             hub_config, lambda: cases(2), files=files),
        Spec("mistral3", "ministral3", lambda: build("ministral3", tied=True, rope_parameters=yarn, rms_norm_eps=1e-5),
             hub_config, lambda: inputs.pick(cases(2), "single", "long", "batch_left"), files=files),
    ]  # fmt: skip
