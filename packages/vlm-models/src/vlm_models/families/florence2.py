"""Florence-2 (arXiv:2311.06242): a DaViT tower in front of BART; tasks are asked by name and answered with text and places.

Reference: transformers, Florence2ForConditionalGeneration; layouts of florence-community and of the original repository.
Deviations: none.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from ..backbones.bart import Bart, BartConfig
from ..core.attention import Attention
from ..core.cache import CacheSpec
from ..core.config import check, expect, sub, take
from ..core.family import Family, ProcessorFiles, TokenTable
from ..core.inputs import Features, Inputs, MediaItem, Output, Prompt, Span
from ..core.model import Model as BaseModel
from ..core.model import Select
from ..core.weights import Apply, Drop, DropCopy, Rename, Rule, Transpose
from ..errors import WeightError
from ..fusion.scatter import scatter
from ..layers.linear import Embedding, Linear
from ..layers.norm import LayerNorm
from ..processing.base import Processing
from ..processing.florence import FlorencePictures
from ..processing.image.fixed import FixedStrategy
from ..processing.image.pixels import IMAGENET_MEAN, IMAGENET_STD, Normalize
from ..towers.davit import Davit, DavitConfig

SIDE = 768
# the published checkpoints answer one question about one picture
TEMPLATE = (
    "{% for message in messages if message['role'] == 'user' %}{% if not loop.last %}"
    "{{ raise_exception('Florence-2 answers one question; give one user message') }}{% endif %}"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for part in message['content'] if part['type'] == 'image' %}<image>{% endfor %}"
    "{% for part in message['content'] if part['type'] == 'text' %}{{ part['text'] }}{% endfor %}{% endif %}{% endfor %}"
)


@dataclass(frozen=True)
class Config:
    """positions: cells a side that have positions of their own; times: rows of the table of frames."""

    vision: DavitConfig
    text: BartConfig
    positions: int
    times: int
    image_token: int

    @classmethod
    def from_hf(cls, hf: Mapping[str, Any]) -> Config:
        vision, text = sub(hf, "vision_config"), sub(hf, "text_config")
        is_original = expect(vision, "model_type", "florence_vision", "davit") == "davit"
        expect(text, "model_type", "bart", "florence2_language")
        bart = BartConfig.from_hf(text, tied=take(hf, "tie_word_embeddings", bool, True))
        if is_original:
            places, times = sub(vision, "image_pos_embed"), sub(vision, "visual_temporal_embedding")
            expect(places, "type", "learned_abs_2d")
            expect(times, "type", "COSINE")
            source = vision.get("image_feature_source")
            check(
                source == ["spatial_avg_pool", "temporal_avg_pool"], f"image_feature_source {source!r} is not supported"
            )
            sizes = take(places, "max_pos_embeddings", int, 50), take(times, "max_temporal_embeddings", int, 100)
        else:
            sizes = take(vision, "max_position_embeddings", int, 50), take(vision, "max_temporal_embeddings", int, 100)
        check(
            take(vision, "projection_dim", int, 1024) == bart.dim,
            "vision projection_dim differs from the text's d_model",
        )
        # the original tokenizer has no token for features: the first id behind the vocabulary stands for them
        token = take(hf, "image_token_id", int, bart.vocab_size if is_original else 51289)
        return cls(DavitConfig.from_hf(vision), bart, *sizes, token)


class Positions(nn.Module):
    """Learnt positions: the first half of the features by column, the second by row."""

    def __init__(self, count: int, dim: int) -> None:
        super().__init__()
        self.row_embeddings = Embedding(count, dim // 2)
        self.column_embeddings = Embedding(count, dim - dim // 2)

    def __call__(self, height: int, width: int) -> mx.array:
        """[height, width, dim]."""
        columns = self.column_embeddings(mx.arange(width))[None]
        rows = self.row_embeddings(mx.arange(height))[:, None]
        parts = [mx.broadcast_to(part, (height, width, part.shape[-1])) for part in (columns, rows)]
        return mx.concatenate(parts, axis=-1)


class Times(nn.Module):
    """A stored table of frame positions, of which a picture takes the first."""

    def __init__(self, count: int, dim: int) -> None:
        super().__init__()
        self.pos_idx_to_embed = mx.zeros((count, dim))


class Projector(nn.Module):
    """The map with positions, its mean in front, to the decoder's width."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        dim = config.vision.stages[-1].dim
        self.image_projection = Linear(dim, config.text.dim, bias=False)
        self.image_proj_norm = LayerNorm(config.text.dim)
        self.image_position_embed = Positions(config.positions, dim)
        self.visual_temporal_embed = Times(config.times, dim)

    def __call__(self, grid: mx.array) -> mx.array:
        """[1, h, w, dim] -> [1 + h * w, text dim]."""
        _, height, width, dim = grid.shape
        cells = (grid[0] + self.image_position_embed(height, width)).reshape(-1, dim)
        cells = cells + self.visual_temporal_embed.pos_idx_to_embed[0]
        joined = mx.concatenate([cells.mean(axis=0, keepdims=True), cells])
        return self.image_proj_norm(self.image_projection(joined))


class Model(BaseModel):
    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        self.vision_tower = Davit(config.vision)
        self.multi_modal_projector = Projector(config)
        self.language_model = Bart(config.text)

    def encode(self, items: Sequence[MediaItem]) -> list[Features]:
        return [
            Features(self.multi_modal_projector(self.vision_tower(mx.array(item.arrays["pixels"])))) for item in items
        ]

    def embed(self, tokens: mx.array, features: Sequence[Features], spans: Sequence[Span]) -> Inputs:
        """Of the decoder's tokens, or of the encoder's with the picture's features in place."""
        # the token of features may lie behind the table
        known = mx.minimum(tokens, self.config.text.vocab_size - 1)
        return Inputs(scatter(self.language_model.embed(known), features, spans))

    def encode_context(self, prompt: Prompt, features: Sequence[Features], cache: Sequence[Any]) -> None:
        inputs = self.embed(mx.array(prompt.tokens[None]), features, prompt.spans)
        self.language_model.read(inputs.embeds, cache)

    def __call__(
        self,
        inputs: Inputs,
        positions: mx.array,
        attention: Attention,
        cache: Sequence[Any],
        *,
        select: Select = None,
        adapters: Sequence[str | None] | None = None,
    ) -> Output:
        return self.language_model(inputs, positions, attention, cache, select=select)

    def cache_spec(self) -> tuple[CacheSpec, ...]:
        return self.language_model.cache_spec()


def _zero(bias: mx.array) -> mx.array:
    """A bias on the logits, which no published checkpoint uses. Raises WeightError where it is not zero."""
    if mx.any(bias != 0).item():
        raise WeightError("final_logits_bias: expected zeros, the checkpoint has others; this is no Florence-2 we know")
    return bias


def weights(config: Config) -> Sequence[Rule]:
    """florence-community and transformers 5: model.*. The original repository and MLX: bare names, layers wrapped in fn, norms
    inside what they stand before, image_projection turned."""
    rules: list[Rule] = [
        Rename("model.vision_tower.*", "vision_tower.*"),
        Rename("model.multi_modal_projector.*", "multi_modal_projector.*"),
        Rename("vision_tower.convs.#.proj.*", "vision_tower.convs.#.conv.*"),
        Rename("vision_tower.*.fn.dw.*", "vision_tower.*.*"),
        Rename("vision_tower.*.ffn.fn.net.*", "vision_tower.*.ffn.*"),
        Rename("vision_tower.*.ffn.norm.*", "vision_tower.*.norm2.*"),
        Apply("image_projection", mx.transpose),
        Rename("image_projection", "multi_modal_projector.image_projection.weight"),
        Rename("image_proj_norm.*", "multi_modal_projector.image_proj_norm.*"),
        Rename("image_pos_embed.*", "multi_modal_projector.image_position_embed.*"),
        Rename("visual_temporal_embed.*", "multi_modal_projector.visual_temporal_embed.*"),
        Rename("model.language_model.*", "language_model.*"),
        Rename("language_model.model.*", "language_model.*"),
        Rename("lm_head.*", "language_model.lm_head.*"),
        # copies of `shared`
        DropCopy("language_model.encoder.embed_tokens", "language_model.shared"),
        DropCopy("language_model.decoder.embed_tokens", "language_model.shared"),
        Apply("language_model.final_logits_bias", _zero),
        Drop("language_model.final_logits_bias"),
        Transpose("vision_tower.*.conv.weight", (0, 2, 3, 1)),
        Transpose("vision_tower.*.conv1.weight", (0, 2, 3, 1)),
        Transpose("vision_tower.*.conv2.weight", (0, 2, 3, 1)),
    ]
    for kind in ("window_attn", "channel_attn"):
        rules.append(Rename(f"vision_tower.*.{kind}.norm.*", "vision_tower.*.norm1.*"))
        rules.append(Rename(f"vision_tower.*.{kind}.fn.*", f"vision_tower.*.{kind}.*"))
    if config.text.tied:
        rules.append(DropCopy("language_model.lm_head", "language_model.shared"))
    return tuple(rules)


def processing(config: Config, files: ProcessorFiles, table: TokenTable | None) -> Processing:
    default = FixedStrategy(size=(SIDE, SIDE), normalize=Normalize(mean=IMAGENET_MEAN, std=IMAGENET_STD))
    strategy = FixedStrategy.from_files(files.image, default)
    side = config.vision.map_side
    return FlorencePictures(
        config.image_token, strategy, lambda h, w: side(h) * side(w) + 1, config.text.start, files.processor, table
    )


FAMILY = Family(
    name="florence2",
    config=Config.from_hf,
    model=Model,
    weights=weights,
    processing=processing,
    modalities=("image",),
    max_images=1,
    chat_template=TEMPLATE,
    keep_full=("vision_tower.*", "multi_modal_projector.*"),
)
