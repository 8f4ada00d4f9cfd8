"""Molmo 2: a SigLIP-like tower over overlapping views, pooling by attention, features that are added to the embeddings of their
tokens, a Qwen3 or OLMo decoder in which all pictures of a prompt see each other.

Reference: transformers, Molmo2ForConditionalGeneration. Deviations: none.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import mlx.core as mx

from ..backbones.molmo2 import MolmoConfig, MolmoDecoder
from ..core.config import check, expect, sub, take
from ..core.family import Family, ProcessorFiles, TokenTable
from ..core.inputs import Features, Inputs, MediaItem, Span
from ..core.weights import Drop, Join, Rename, Rule, Split
from ..fusion.model import DecoderModel
from ..fusion.scatter import scatter
from ..processing.base import Processing, pick
from ..processing.image.overlap import OverlapStrategy
from ..processing.molmo2 import MolmoLayout, MolmoProcessing, MolmoTokens
from ..towers.molmo2_vit import MolmoVit, MolmoVitConfig, Pooling, PoolingConfig

# ids of the configuration whose tokens mark pictures and frames, with their defaults
_MARKS = {
    "image_start_token_id": 151936,
    "image_end_token_id": 151937,
    "image_patch_id": 151938,
    "low_res_image_start_token_id": 151940,
    "frame_start_token_id": 151943,
    "frame_end_token_id": 151944,
}
# texts of those that no configuration names, and how far behind `image_patch_id` they are published
_UNNAMED = {"<im_col>": 1, "<im_low>": 4}


@dataclass(frozen=True)
class Config:
    """marks: ids that the configuration names. begin: the token that prompts start with, if the tokenizer does not say."""

    vision: MolmoVitConfig
    pooling: PoolingConfig
    text: MolmoConfig
    patch: int
    marks: frozenset[int]
    begin: int | None

    @classmethod
    def from_hf(cls, hf: Mapping[str, Any]) -> Config:
        expect(hf, "tie_word_embeddings", False)
        adapter, text = sub(hf, "adapter_config"), sub(hf, "text_config")
        layers = adapter.get("vit_layers") or adapter.get("vision_feature_layer") or [24, 18]
        vision = MolmoVitConfig.from_hf(sub(hf, "vit_config" if hf.get("vit_config") else "vision_config"), layers)
        pooling, decoder = PoolingConfig.from_hf(adapter, len(layers)), MolmoConfig.from_hf(text)
        check(pooling.attention.dim == vision.attention.dim, "the adapter's hidden_size differs from the tower's")
        check(pooling.out == decoder.decoder.dim, "text_hidden_size differs from the text's hidden_size")
        marks = {key: take(hf, key, int, default) for key, default in _MARKS.items()}
        ends = next(
            (hf[key] for hf in (hf, text) for key in ("bos_token_id", "eos_token_id") if hf.get(key) is not None), None
        )
        begin = ends[0] if isinstance(ends, list) else ends
        return cls(vision, pooling, decoder, marks["image_patch_id"], frozenset(marks.values()), begin)


class Model(DecoderModel):
    def __init__(self, config: Config) -> None:
        super().__init__()
        self.vision_tower = MolmoVit(config.vision)
        self.multi_modal_projector = Pooling(config.pooling)
        self.language_model = MolmoDecoder(config.text)

    def encode(self, items: Sequence[MediaItem]) -> list[Features]:
        return [
            Features(
                self.multi_modal_projector(
                    self.vision_tower(mx.array(item.arrays["patches"])), mx.array(item.arrays["cells"])
                )
            )
            for item in items
        ]

    def embed(self, tokens: mx.array, features: Sequence[Features], spans: Sequence[Span]) -> Inputs:
        embeds = self.language_model.embed_tokens(tokens)
        return Inputs(embeds + scatter(mx.zeros_like(embeds), features, spans) if spans else embeds)


def weights(config: Config) -> Sequence[Rule]:
    """Published and saved by transformers 5: model.transformer.*, model.vision_backbone.*, with fused projections and the embedding
    table in two; in memory: model.language_model.*, model.vision_tower.*, model.multi_modal_projector.*. MLX:
    language_model.model.*, vision_tower.image_*, whose blocks have numbers alone."""
    shape = config.text.decoder.attention(0)
    sizes = tuple(heads * shape.head_dim for heads in (shape.num_heads, shape.num_kv_heads, shape.num_kv_heads))
    layer, block = "language_model.layers.#", "vision_tower.layers.#"
    renames = [
        Rename("language_model.model.*", "model.transformer.*"),
        Rename("vision_tower.image_*", "model.vision_backbone.image_*"),
        Rename("model.vision_backbone.image_vit.transformer.#.*", "vision_tower.layers.#.*"),
    ]
    renames += [
        Rename(f"model.{part}.*", f"{part}.*") for part in ("language_model", "vision_tower", "multi_modal_projector")
    ]
    for name in ("image_pooling_2d", "image_projector"):
        renames.append(Rename(f"model.vision_backbone.{name}.*", f"multi_modal_projector.{name}.*"))
    renames += [
        Rename("model.vision_backbone.image_vit.transformer.resblocks.*", "vision_tower.layers.*"),
        Rename("model.vision_backbone.image_vit.*", "vision_tower.*"),
        Rename("model.transformer.blocks.*", "language_model.layers.*"),
        Rename("model.transformer.ln_f.*", "language_model.norm.*"),
        Rename("model.transformer.wte.*", "language_model.wte.*"),
        Rename("lm_head.*", "language_model.lm_head.*"),
    ]
    inner = {
        f"{block}.attention_norm": f"{block}.layer_norm1",
        f"{block}.ffn_norm": f"{block}.layer_norm2",
        f"{block}.feed_forward.w1": f"{block}.mlp.fc1",
        f"{block}.feed_forward.w2": f"{block}.mlp.fc2",
        f"{layer}.attn_norm": f"{layer}.input_layernorm",
        f"{layer}.ff_norm": f"{layer}.post_attention_layernorm",
        f"{layer}.self_attn.attn_out": f"{layer}.self_attn.o_proj",
        f"{layer}.mlp.ff_out": f"{layer}.mlp.down_proj",
    }
    for old, new in zip(("w1", "w2", "w3"), ("gate_proj", "down_proj", "up_proj"), strict=True):
        inner[f"multi_modal_projector.image_projector.{old}"] = f"multi_modal_projector.image_projector.{new}"
    for part in "qkvo":
        inner[f"multi_modal_projector.image_pooling_2d.w{part}"] = f"multi_modal_projector.image_pooling_2d.{part}_proj"
        inner[f"{block}.attention.w{part}"] = f"{block}.self_attn.{part}_proj"
    renames += [Rename(f"{old}.*", f"{new}.*") for old, new in inner.items()]
    projections = tuple(f"{layer}.self_attn.{part}_proj.*" for part in "qkv")
    return (
        *renames,
        *(Drop(f"vision_tower.layers.{at}.*") for at in range(config.vision.depth, config.vision.depth + 64)),
        Join(
            ("language_model.wte.embedding", "language_model.wte.new_embedding"), "language_model.embed_tokens.weight"
        ),
        Split(f"{layer}.self_attn.att_proj.*", projections, sizes=sizes),
        # up comes first
        Split(f"{layer}.mlp.ff_proj.*", (f"{layer}.mlp.up_proj.*", f"{layer}.mlp.gate_proj.*")),
    )


def _begin(config: Config, files: ProcessorFiles, table: TokenTable | None) -> str:
    """The tokenizer's begin token, its end token where it has none."""
    for key in ("bos_token", "eos_token"):
        token = files.tokenizer.get(key)
        text = token.get("content") if isinstance(token, Mapping) else token
        if text:
            return str(text)
    return "" if table is None or config.begin is None else table.text(config.begin)


def processing(config: Config, files: ProcessorFiles, table: TokenTable | None) -> Processing:
    vision = config.vision

    def token(text: str) -> int | None:
        return table.id(text) if table is not None else files.added_tokens.get(text)

    found = {text: token(text) for text in _UNNAMED}
    # the reference leaves frames as they are unless the file says otherwise; the published files do
    video = {"do_rescale": False, "do_normalize": False, **files.video} if files.video else {}
    unnamed = {config.patch + _UNNAMED[text] if known is None else known for text, known in found.items()}
    return MolmoProcessing(
        MolmoTokens(config.patch, _begin(config, files, table), config.marks | unnamed),
        OverlapStrategy.from_files(files.image, vision.image, vision.patch, (2, 2)),
        OverlapStrategy.from_files(video, vision.image, vision.patch, (3, 3)),
        MolmoLayout.from_files(files.processor),
        int(pick(files.video, "num_frames", 64)),
        float(pick(files.video, "max_fps", 2)),
        table,
    )


FAMILY = Family(
    name="molmo2",
    config=Config.from_hf,
    model=Model,
    weights=weights,
    processing=processing,
    modalities=("image", "video"),
    keep_full=("vision_tower.*", "multi_modal_projector.*"),
)
