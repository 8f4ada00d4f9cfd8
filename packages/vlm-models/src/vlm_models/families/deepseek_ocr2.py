"""DeepSeek-OCR 2 (arXiv:2601.20552): SAM's encoder, a Qwen2 stack in which queries read its map one behind the other, a
DeepSeek V2 decoder of experts with plain attention.

Reference: transformers, DeepseekOcr2ForConditionalGeneration. Deviations: none.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from vlm_kernels import attention

from ..backbones.decoder import Decoder, DecoderConfig, DecoderLayer
from ..core.attention import Attention, AttentionRules
from ..core.config import check, expect, sub, take
from ..core.family import Family, ProcessorFiles, TokenTable
from ..core.inputs import Features, MediaItem
from ..core.weights import Rename, Rule
from ..errors import ProcessingError
from ..fusion.model import DecoderModel, decoder_rules
from ..layers.linear import Embedding, Linear
from ..layers.mlp import GatedMlp
from ..layers.moe import Moe, MoeConfig, expert_rules
from ..layers.norm import RMSNorm
from ..layers.rope import Rope
from ..processing.base import Processing
from ..processing.views import ViewProcessing, ViewStrategy
from ..towers.sam import Sam, SamConfig, sam_rules

# learned queries: for maps of at most so many cells, and for larger ones
_FEW, _MANY = 144, 256
TEMPLATE = (
    "{% for message in messages %}{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for part in message['content'] %}{% if part['type'] == 'image' %}{{ '<image>\\n' }}"
    "{% elif part['type'] == 'text' %}{{ part['text'] }}{% endif %}{% endfor %}{% endif %}{% endfor %}"
)


@dataclass(frozen=True)
class Config:
    """sparse: layers of the decoder that have experts."""

    sam: SamConfig
    encoder: DecoderConfig
    text: DecoderConfig
    moe: MoeConfig
    sparse: frozenset[int]
    image_token: int

    @classmethod
    def from_hf(cls, hf: Mapping[str, Any]) -> Config:
        vision, given = sub(hf, "vision_config", "deepseek_ocr2_vision"), sub(hf, "text_config", "deepseek_ocr2_text")
        sam = SamConfig.from_hf(sub(vision, "sam_config", "deepseek_ocr2_sam_vision_model"))
        encoder = DecoderConfig.from_hf(
            {"vocab_size": 1, "use_sliding_window": False, **sub(vision, "encoder_config", "deepseek_ocr2_encoder")},
            qkv_bias=True,
            tied=True,
        )
        check(encoder.dim == sam.widths[1], f"encoder of {encoder.dim} channels behind a map of {sam.widths[1]}")
        bias = take(given, "attention_bias", bool, False)
        tied = take(hf, "tie_word_embeddings", bool, take(given, "tie_word_embeddings", bool, False))
        num_heads = take(given, "num_attention_heads", int)
        text = DecoderConfig.from_hf(
            {**given, "head_dim": take(given, "hidden_size", int) // num_heads},
            qkv_bias=bias,
            out_bias=bias,
            mlp_bias=take(given, "mlp_bias", bool, False),
            tied=tied,
        )
        return cls(
            sam, encoder, text, _experts(given, text), _sparse(given, text), take(hf, "image_token_id", int, 128815)
        )

    def tokens(self, image: int) -> int:
        """Rows that a square picture of `image` pixels a side yields."""
        return _FEW if self.sam.num_tokens(image) <= _FEW else _MANY


def _experts(hf: Mapping[str, Any], text: DecoderConfig) -> MoeConfig:
    expect(hf, "topk_method", "greedy")
    num_experts, chosen = take(hf, "n_routed_experts", int, 64), take(hf, "num_experts_per_tok", int)
    check(0 < chosen <= num_experts, f"num_experts_per_tok {chosen} of {num_experts} experts")
    hidden = take(hf, "moe_intermediate_size", int, 1407)
    return MoeConfig(
        num_experts,
        chosen,
        text.dim,
        hidden,
        text.act,
        renormalize=False,
        shared=hidden * take(hf, "n_shared_experts", int, 2),
        shared_gate=False,
        scale=take(hf, "routed_scaling_factor", float, 1.0),
    )


def _sparse(hf: Mapping[str, Any], text: DecoderConfig) -> frozenset[int]:
    kinds = take(hf, "mlp_layer_types", list, None)
    if kinds is None:
        return frozenset(range(take(hf, "first_k_dense_replace", int, 0), text.num_layers))
    check(len(kinds) == text.num_layers, f"mlp_layer_types names {len(kinds)} layers of {text.num_layers}")
    for kind in set(kinds):
        expect({"mlp_layer_types": kind}, "mlp_layer_types", "dense", "sparse")
    return frozenset(layer for layer, kind in enumerate(kinds) if kind == "sparse")


class Passing:
    """Attention over the keys of this call alone, in the place of a cache."""

    def attend(
        self,
        queries: mx.array,
        keys: mx.array | None,
        values: mx.array | None,
        plan: Attention,
        rules: AttentionRules,
        sinks: mx.array | None = None,
    ) -> mx.array:
        assert keys is not None and values is not None
        return attention(queries, keys, values, scale=rules.scale, mask=plan.mask(keys.shape[2], rules), sinks=sinks)


class QueryReader(nn.Module):
    """Qwen2 layers over [map, queries]: the map sees itself in both directions, a query the map and the queries before it."""

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        self.layers = [
            DecoderLayer(config, layer, GatedMlp(config.dim, config.hidden, config.act))
            for layer in range(config.num_layers)
        ]
        self.norm = RMSNorm(config.dim, config.norm_eps)
        self.query_768 = Embedding(_FEW, config.dim)
        self.query_1024 = Embedding(_MANY, config.dim)
        self._rope = Rope(config.rope.fixed())

    def __call__(self, cells: mx.array) -> mx.array:
        """[n, cells, dim] -> [n, queries, dim]."""
        n, num_cells, dim = cells.shape
        table, count = (self.query_768, _FEW) if num_cells <= _FEW else (self.query_1024, _MANY)
        queries = mx.broadcast_to(table(mx.arange(count)), (n, count, dim))
        x = mx.concatenate([cells, queries.astype(cells.dtype)], axis=1)
        blocks = np.where(np.arange(num_cells + count) < num_cells, 0, -1).astype(np.int32)
        plan = Attention.at(0, num_cells + count, blocks=blocks, batch=n)
        tables = self._rope(mx.arange(num_cells + count)[None, None])
        for layer in self.layers:
            x = layer(x, tables, plan, Passing())
        return self.norm(x[:, num_cells:])


class Model(DecoderModel):
    def __init__(self, config: Config) -> None:
        super().__init__()
        self.sam_model = Sam(config.sam)
        self.qwen2_model = QueryReader(config.encoder)
        self.projector = Linear(config.encoder.dim, config.text.dim)
        self.view_separator = mx.zeros((config.text.dim,))
        self.language_model = Decoder(config.text, lambda layer: Moe(config.moe) if layer in config.sparse else None)

    def encode(self, items: Sequence[MediaItem]) -> list[Features]:
        return [self._encode(item) for item in items]

    def _encode(self, item: MediaItem) -> Features:
        parts = [self._read(item.arrays[name]) for name in ("tiles", "pixels") if len(item.arrays[name])]
        return Features(mx.concatenate([*parts, self.view_separator[None]]))

    def _read(self, pixels: np.ndarray) -> mx.array:
        rows = self.projector(self.qwen2_model(self.sam_model(mx.array(pixels))))
        return rows.reshape(-1, rows.shape[-1])


def weights(config: Config) -> Sequence[Rule]:
    """Published, and save_pretrained too: model.sam_model.*, model.qwen2_model.*, model.projector.layers.*, model.layers.*."""
    return (
        Rename("model.sam_model.*", "sam_model.*"),
        Rename("model.qwen2_model.model.model.*", "qwen2_model.*"),
        Rename("model.qwen2_model.*", "qwen2_model.*"),
        Rename("model.projector.layers.*", "projector.*"),
        # the checkpoint's own spelling
        Rename("model.view_seperator", "view_separator"),
        *sam_rules("sam_model"),
        *decoder_rules(tied=config.text.tied),
        Rename("model.*", "language_model.*"),
        Rename("*.shared_experts.*", "*.shared_expert.*"),
        *expert_rules(),
    )


def processing(config: Config, files: ProcessorFiles, table: TokenTable | None) -> Processing:
    strategy = ViewStrategy.from_files(files.image, ViewStrategy())
    view = strategy.view if strategy.cuts else strategy.tile
    for side in {view, strategy.tile}:
        if config.tokens(side) != config.sam.num_tokens(side):
            raise ProcessingError(f"preprocessor: pictures of {side} pixels do not give {_FEW} or {_MANY} cells")
    return ViewProcessing(config.image_token, strategy, config.tokens(view), config.tokens(strategy.tile), table)


FAMILY = Family(
    name="deepseek_ocr2",
    config=Config.from_hf,
    model=Model,
    weights=weights,
    processing=processing,
    modalities=("image",),
    chat_template=TEMPLATE,
    keep_full=("sam_model.*", "qwen2_model.*", "projector.*"),
)
