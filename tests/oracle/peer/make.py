"""Checkpoints for the check against mlx-vlm, in the oracle's environment: `python tests/oracle/peer/make.py FOLDER`.

Goldens of the families' `base` configurations, with a text side wide enough to be packed in groups of 64 (theirs are not).
"""

from __future__ import annotations

import importlib
import json
import sys
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import environment

environment.prepare()
warnings.filterwarnings("ignore")

import inputs  # noqa: E402  (environment comes first)
from maker import Spec, make  # noqa: E402
from transformers import PreTrainedModel  # noqa: E402

FAMILIES = ("qwen2_vl", "llava", "gemma3", "idefics3")


def widened(model: PreTrainedModel) -> PreTrainedModel:
    """The same architecture with text layers of 128 and 256 columns; four heads of 32."""
    config: Any = model.config
    text = config.get_text_config()
    text.hidden_size, text.intermediate_size = 128, 256
    text.num_attention_heads, text.head_dim = 4, 32
    if text.rope_parameters.get("rope_type") == "llama3":  # which mlx-vlm's Idefics3 does not know
        text.rope_parameters = {"rope_type": "default", "rope_theta": 5000.0}
    if "mrope_section" in (text.rope_parameters or {}):
        text.rope_parameters["mrope_section"] = [4, 6, 6]
        config.vision_config.hidden_size = text.hidden_size
    wide = type(model)(config)
    wide.config._attn_implementation = "eager"
    return wide


def hub_config(spec: Spec, config: dict[str, Any]) -> dict[str, Any]:
    """The published configuration, with what mlx-vlm needs said: Gemma 3's tokens of a picture in the text part, and values
    that the classes of transformers have as defaults."""
    full = json.loads(json.dumps(config))["text_config"]
    config = spec.hub_config(config)
    if "text_config" in config:
        config["text_config"].setdefault("rms_norm_eps", full["rms_norm_eps"])
        if "mm_tokens_per_image" in config:
            config["text_config"]["mm_tokens_per_image"] = config["mm_tokens_per_image"]
    return config


def main(folder: Path) -> None:
    for family in FAMILIES:
        spec: Spec = next(s for s in importlib.import_module(f"families.{family}").specs() if s.name == "base")
        cases = spec.cases
        chosen = replace(
            spec,
            build=lambda build=spec.build: widened(build()),
            hub_config=lambda config, spec=spec: hub_config(spec, config),
            cases=lambda cases=cases: inputs.pick(cases(), "single", "multi", "text"),
        )
        print(make(chosen, folder))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
