"""Qwen3.5, dense and mixture of experts: Qwen3-VL's vision transformer without deepstack, a hybrid decoder of gated delta and
full attention, interleaved M-RoPE on part of a head, videos as pictures with their times written before them.

Reference: transformers, Qwen3_5ForConditionalGeneration and Qwen3_5MoeForConditionalGeneration. Deviations: none.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..backbones.hybrid import HybridConfig, HybridDecoder, hybrid_rules
from ..core.config import check, sub, take
from ..core.family import Family, ProcessorFiles, TokenTable
from ..core.weights import Rule
from ..fusion.deepstack import DeepstackModel
from ..fusion.model import decoder_rules
from ..layers.moe import expert_rules
from ..processing.base import Processing
from ..processing.stamped import stamped_processing
from ..towers.qwen3_vit import Qwen3Vit, Qwen3VitConfig, tower_rules


@dataclass(frozen=True)
class Config:
    vision: Qwen3VitConfig
    text: HybridConfig
    image_token: int
    video_token: int
    marks: tuple[int, int]

    @classmethod
    def from_hf(cls, hf: Mapping[str, Any]) -> Config:
        given = sub(hf, "text_config", "qwen3_5_text", "qwen3_5_moe_text", "qwen3_5", "qwen3_5_moe")
        tied = take(hf, "tie_word_embeddings", bool, take(given, "tie_word_embeddings", bool, False))
        text = HybridConfig.from_hf(given, tied=tied)
        vision = Qwen3VitConfig.from_hf(
            sub(hf, "vision_config", "qwen3_5_vision", "qwen3_5_moe_vision", "qwen3_5", "qwen3_5_moe"), deepstack=()
        )
        check(vision.out_dim == text.dim, "vision out_hidden_size differs from the text's hidden_size")
        check(len(vision.deepstack) <= text.num_layers, "more deepstack levels than layers")
        return cls(
            vision,
            text,
            take(hf, "image_token_id", int, 248056),
            take(hf, "video_token_id", int, 248057),
            (take(hf, "vision_start_token_id", int, 248053), take(hf, "vision_end_token_id", int, 248054)),
        )


class Model(DeepstackModel):
    def __init__(self, config: Config) -> None:
        super().__init__()
        self.num_levels = len(config.vision.deepstack)
        self.visual = Qwen3Vit(config.vision)
        self.language_model = HybridDecoder(config.text)


def weights(config: Config) -> Sequence[Rule]:
    """Published: model.visual.*, model.language_model.*, lm_head. MLX: vision_tower.*, language_model.model.*, switch_mlp."""
    experts = expert_rules() if config.text.moe else ()
    return (*tower_rules(), *decoder_rules(tied=config.text.tied), *hybrid_rules(), *experts)


def processing(config: Config, files: ProcessorFiles, table: TokenTable | None) -> Processing:
    vision = config.vision
    return stamped_processing(
        (config.image_token, config.video_token),
        config.marks,
        (vision.patch, vision.merge, vision.frames),
        files,
        table,
    )


FAMILY = Family(
    name="qwen3_5",
    config=Config.from_hf,
    model=Model,
    weights=weights,
    processing=processing,
    modalities=("image", "video"),
    keep_full=("visual.*",),
)
