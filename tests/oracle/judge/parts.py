"""What variants are put together from: rotary kinds, small text backbones and towers, cases written by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from maker import CaseSpec
from variant import Whole

LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 5000.0,
    "factor": 4.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 3.0,
    "original_max_position_embeddings": 64,
}
LINEAR = {"rope_type": "linear", "rope_theta": 8000.0, "factor": 3.0}
DYNAMIC = {"rope_type": "dynamic", "rope_theta": 3000.0, "factor": 2.0}
YARN = {
    "rope_type": "yarn",
    "rope_theta": 2000.0,
    "factor": 4.0,
    "original_max_position_embeddings": 64,
    "beta_fast": 16.0,
    "beta_slow": 2.0,
}
YARN_ODD = YARN | {"attention_factor": 0.8, "truncate": False}
PLAIN = {"rope_type": "default", "rope_theta": 500.0}


def longrope(half: int, original: int) -> dict[str, Any]:
    """Long and short factors for `half` frequencies; prompts beyond `original` take the long ones."""
    return {
        "rope_type": "longrope",
        "rope_theta": 4000.0,
        "original_max_position_embeddings": original,
        "factor": 4.0,
        "short_factor": [1.0 + 0.1 * i for i in range(half)],
        "long_factor": [2.0 + 0.5 * i for i in range(half)],
    }


def text(kind: str, **changes: Any) -> Whole:
    """A text backbone from nothing."""
    return Whole(
        {
            "model_type": kind,
            "vocab_size": 120,
            "hidden_size": 40,
            "intermediate_size": 60,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "max_position_embeddings": 512,
            "bos_token_id": 96,
            "eos_token_id": 97,
            "pad_token_id": 100,
            **changes,
        }
    )


def tower(kind: str, **changes: Any) -> Whole:
    """A tower from nothing."""
    return Whole(
        {
            "model_type": kind,
            "hidden_size": 24,
            "intermediate_size": 44,
            "num_hidden_layers": 4,
            "num_attention_heads": 3,
            "image_size": 24,
            "patch_size": 8,
            **changes,
        }
    )


def hand(name: str, ids: list[list[int]], media: dict[str, np.ndarray], *, mask: bool = True, **more: Any) -> CaseSpec:
    """A case whose tokens are written by hand; -1 is padding."""
    tokens = torch.tensor(ids)
    given: dict[str, Any] = {"input_ids": tokens.clamp(min=0)}
    if mask:
        given["attention_mask"] = (tokens >= 0).long()
    return CaseSpec(name, given | {key: torch.as_tensor(value) for key, value in (media | more).items()})


def noise(seed: int, *shape: int) -> np.ndarray:
    """float32, standard normal."""
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def fixed(token: int, count: int, side: int, *, batch: bool = True) -> Any:
    """Cases of families whose pictures are `count` tokens of `side` pixels each: one, two, none, a padded batch."""

    def cases(_: Any) -> list[CaseSpec]:
        run, words = [token] * count, list(range(30, 60))
        rows = [[*words[:5], *run, *words[5:9]], [*words[:4], *run, *words[2:7], *run, *words[3:5]]]
        padded = [[-1] * (len(rows[1]) - len(rows[0])) + rows[0], rows[1]]
        one = {"pixel_values": noise(1, 1, 3, side, side)}
        both = [hand("batch", padded, {"pixel_values": noise(3, 3, 3, side, side)})]
        return [
            hand("one", [rows[0]], one),
            hand("no_mask", [rows[0]], one, mask=False),
            hand("two", [rows[1]], {"pixel_values": noise(2, 2, 3, side, side)}),
            hand("text", [words], {}),
            *(both if batch else []),
        ]

    return cases
