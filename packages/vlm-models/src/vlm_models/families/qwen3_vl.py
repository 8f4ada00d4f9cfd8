"""Qwen3-VL and its mixture of experts (arXiv:2511.21631): deepstack vision transformer, Qwen3 decoder, interleaved M-RoPE,
videos as pictures with their times written before them.

Reference: transformers, Qwen3VLForConditionalGeneration and Qwen3VLMoeForConditionalGeneration. Deviations: none.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ..backbones.decoder import Decoder, DecoderConfig
from ..core.config import check, sub, take
from ..core.family import Family, ProcessorFiles, TokenTable
from ..core.weights import Rename, Rule
from ..fusion.deepstack import DeepstackModel
from ..fusion.model import decoder_rules
from ..fusion.names import conversion_names
from ..layers.moe import Moe, MoeConfig, expert_rules
from ..processing.base import Processing
from ..processing.stamped import stamped_processing
from ..towers.qwen3_vit import Qwen3Vit, Qwen3VitConfig, tower_rules


@dataclass(frozen=True)
class Config:
    """moe: the expert layers, None for a dense model. dense: layers without experts in a model that has them."""

    vision: Qwen3VitConfig
    text: DecoderConfig
    moe: MoeConfig | None
    dense: frozenset[int]
    image_token: int
    video_token: int
    marks: tuple[int, int]

    @classmethod
    def from_hf(cls, hf: Mapping[str, Any]) -> Config:
        given = sub(hf, "text_config", "qwen3_vl_text", "qwen3_vl_moe_text", "qwen3_vl", "qwen3_vl_moe")
        bias = take(given, "attention_bias", bool, False)
        windows = (None,) * take(given, "num_hidden_layers", int)
        tied = take(hf, "tie_word_embeddings", bool, take(given, "tie_word_embeddings", bool, False))
        text = DecoderConfig.from_hf(
            {"head_dim": 128, **given}, qk_norm=True, qkv_bias=bias, out_bias=bias, windows=windows, tied=tied
        )
        # the axes alternate whether the file says so or not
        sections = text.rope.sections or (24, 20, 20)
        check(sum(sections) == text.rope.dim // 2, f"mrope_section {sections} must sum to {text.rope.dim // 2}")
        text = replace(text, rope=replace(text.rope, sections=sections, interleaved=True))
        vision = Qwen3VitConfig.from_hf(
            sub(hf, "vision_config", "qwen3_vl_vision", "qwen3_vl_moe_vision", "qwen3_vl", "qwen3_vl_moe")
        )
        check(vision.out_dim == text.dim, "vision out_hidden_size differs from the text's hidden_size")
        check(len(vision.deepstack) <= text.num_layers, "more deepstack levels than layers")
        return cls(
            vision,
            text,
            *_experts(given, text),
            take(hf, "image_token_id", int, 151655),
            take(hf, "video_token_id", int, 151656),
            (take(hf, "vision_start_token_id", int, 151652), take(hf, "vision_end_token_id", int, 151653)),
        )


def _experts(hf: Mapping[str, Any], text: DecoderConfig) -> tuple[MoeConfig | None, frozenset[int]]:
    num_experts = take(hf, "num_experts", int, take(hf, "num_local_experts", int, 0))
    if not num_experts:
        return None, frozenset()
    chosen = take(hf, "num_experts_per_tok", int, 8)
    check(0 < chosen <= num_experts, f"num_experts_per_tok {chosen} of {num_experts} experts")
    step = take(hf, "decoder_sparse_step", int, 1)
    dense = set(take(hf, "mlp_only_layers", list, []))
    dense |= {layer for layer in range(text.num_layers) if (layer + 1) % step}
    config = MoeConfig(num_experts, chosen, text.dim, take(hf, "moe_intermediate_size", int, 1408), text.act)
    return config, frozenset(dense)


class Model(DeepstackModel):
    def __init__(self, config: Config) -> None:
        super().__init__()
        self.num_levels = len(config.vision.deepstack)
        self.visual = Qwen3Vit(config.vision)
        moe = {} if config.moe is None else dict.fromkeys(set(range(config.text.num_layers)) - config.dense, config.moe)
        self.language_model = Decoder(config.text, lambda layer: Moe(moe[layer]) if layer in moe else None)


def weights(config: Config) -> Sequence[Rule]:
    """Published: model.visual.*, model.language_model.*, lm_head. MLX: vision_tower.*, language_model.model.*, switch_mlp."""
    return (*tower_rules(), *decoder_rules(tied=config.text.tied), *(expert_rules() if config.moe else ()))


def mlx_names(config: Config) -> Sequence[Rule]:
    return (
        Rename("visual.*.fc#.*", "visual.*.linear_fc#.*"),
        *conversion_names(config.vision.channels, config.vision.frames, config.vision.patch),
        Rename("*.mlp.experts.*", "*.mlp.switch_mlp.*"),
    )


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
    name="qwen3_vl",
    config=Config.from_hf,
    model=Model,
    weights=weights,
    processing=processing,
    modalities=("image", "video"),
    keep_full=("visual.*",),
    mlx_names=mlx_names,
)
