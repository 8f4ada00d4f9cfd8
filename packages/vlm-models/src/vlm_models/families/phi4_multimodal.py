"""Phi-4 Multimodal (arXiv:2503.01743): a SigLIP tower over masked crops, a conformer for sounds, a Phi-3 decoder with one low-rank
branch for prompts with pictures and one for prompts with sounds alone.

Reference: transformers, Phi4MultimodalForCausalLM; it has no branches, so theirs were merged for the comparison. Deviations: sounds
are never filled up to each other's length, and are projected by what their own prompt holds (the reference: the whole batch).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from ..backbones.phi import PhiConfig, PhiDecoder
from ..core.attention import Attention
from ..core.cache import CacheSpec
from ..core.config import check, expect, sub, take
from ..core.family import Family, ProcessorFiles, TokenTable
from ..core.inputs import Features, Inputs, MediaItem, MediaKind, Output, Span
from ..core.model import Model as BaseModel
from ..core.model import Select
from ..core.weights import Drop, DropCopy, Flatten, Rename, Rule
from ..fusion.scatter import scatter
from ..layers.activation import gelu
from ..layers.encoder import Encoder
from ..layers.linear import Linear
from ..processing.audio.fbank import FilterBank
from ..processing.base import Processing
from ..processing.image.crops import CropStrategy
from ..processing.phi4_multimodal import PhiProcessing, useful
from ..towers.phi_audio import PhiAudio, PhiAudioConfig, audio_rules
from ..towers.siglip import SiglipConfig, SiglipEmbeddings, bucket_positions

# the published tower, whose sizes its checkpoint leaves to code
_TOWER = {"hidden_size": 1152, "intermediate_size": 4304, "num_hidden_layers": 27, "num_attention_heads": 16}
_TOWER |= {"image_size": 448, "patch_size": 14}
_BRANCHES = {"vision": "vision_lora", "speech": "speech_lora"}
# texts of the feature tokens: of checkpoints that transformers wrote, and as published
_MARKS: dict[MediaKind, tuple[str, ...]] = {
    "image": ("<|image|>", "<|endoftext10|>"),
    "audio": ("<|audio|>", "<|endoftext11|>"),
}


@dataclass(frozen=True)
class Config:
    """feature_layer: state of the tower that is read, counted from the embeddings. tokens: ids where the tokenizer names none."""

    vision: SiglipConfig
    feature_layer: int
    audio: PhiAudioConfig
    text: PhiConfig
    tokens: Mapping[MediaKind, int]

    @classmethod
    def from_hf(cls, hf: Mapping[str, Any]) -> Config:
        if expect(hf, "model_type", "phi4_multimodal", "phi4mm") == "phi4mm":
            return cls._published(hf)
        vision, audio = sub(hf, "vision_config"), sub(hf, "audio_config")
        return cls._made(hf, vision, PhiAudioConfig.from_hf(audio), audio)

    @classmethod
    def _published(cls, hf: Mapping[str, Any]) -> Config:
        layers = sub(hf, "embd_layer")
        expect(layers, "embedding_cls", "image_audio")
        pictures, sounds = sub(layers, "image_embd_layer"), sub(layers, "audio_embd_layer")
        expect(pictures, "hd_transform_order", "sub_glb")
        expect(pictures, "use_hd_transform", True)
        expect(pictures, "with_learnable_separator", True)
        expect(pictures, "image_token_compression_cls", "avg_pool_2d")
        for part in (pictures, sounds):
            expect(part, "projection_cls", "mlp")
        expect(sounds, "use_qformer", False)
        expect(sounds, "use_conv_downsample", False)
        expect(sounds, "downsample_rate", 1)
        audio = PhiAudioConfig.from_published(sub(sub(hf, "audio_processor"), "config"))
        vision = {**(hf.get("img_processor") or {}), "crop_size": pictures.get("crop_size")}
        return cls._made(hf, vision, audio, {})

    @classmethod
    def _made(
        cls, hf: Mapping[str, Any], vision: Mapping[str, Any], audio: PhiAudioConfig, heard: Mapping[str, Any]
    ) -> Config:
        tower = SiglipConfig.from_hf(vision, **_TOWER)
        layer, crop = take(vision, "feature_layer", int, -2), take(vision, "crop_size", int, 448)
        check(crop == tower.image, f"crop_size {crop} differs from the tower's image_size {tower.image}")
        check(-tower.depth - 1 <= layer <= tower.depth, f"feature_layer {layer} is none of {tower.depth} layers")
        layer = layer % (tower.depth + 1)
        tokens: dict[MediaKind, int] = {
            "image": take(vision, "image_token_id", int, 200_010),
            "audio": take(heard, "audio_token_id", int, 200_011),
        }
        # layers behind the one that is read are in the checkpoint, and are left there
        return cls(replace(tower, depth=layer), layer, audio, PhiConfig.from_hf(hf, _BRANCHES), tokens)


class Tower(nn.Module):
    def __init__(self, config: SiglipConfig) -> None:
        super().__init__()
        self.side = config.side
        self.embeddings = SiglipEmbeddings(config)
        self.encoder = Encoder(config.depth, config.dim, config.num_heads, config.hidden, config.act, config.norm_eps)

    def __call__(self, pixels: mx.array, mask: np.ndarray) -> mx.array:
        """pixels: [n, 3, side, side]. mask: bool [n, patches a side, patches a side]. Returns the last state as a map."""
        positions = np.zeros(mask.shape, np.int32)
        for place, seen in zip(positions, mask, strict=True):
            rows, columns = int(seen[:, 0].sum()), int(seen[0].sum())
            if rows and columns:
                buckets = np.array(bucket_positions(rows, columns, self.side)).reshape(rows, columns)
                place[:rows, :columns] = buckets
        x = self.embeddings(pixels, mx.array(positions.reshape(len(mask), -1)))
        keys = None if mask.all() else mx.array(mask.reshape(len(mask), 1, 1, -1))
        return self.encoder(x, keys)[-1].reshape(*mask.shape, -1)


class ImageEmbed(nn.Module):
    """Crops as one map without its filling, a separator after each row, one more, then the whole in the same way."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        width, dim = config.vision.dim, config.text.dim
        self.img_processor = Tower(config.vision)
        self.img_projection_up, self.img_projection_down = Linear(width, dim), Linear(dim, dim)
        self.global_img_feature_extensor = mx.zeros((1, 1, width))
        self.sub_img_feature_extensor = mx.zeros((1, 1, 1, width))

    def __call__(self, item: MediaItem) -> mx.array:
        mask = item.arrays["mask"]
        cells = _quartered(self.img_processor(mx.array(item.arrays["pixels"]), mask))
        rows, columns = useful(mask, (item.grid[0], item.grid[1]))
        count, width = cells.shape[1], cells.shape[-1]
        canvas = cells[1:].reshape(*item.grid, count, count, width).swapaxes(1, 2)
        canvas = canvas.reshape(item.grid[0] * count, item.grid[1] * count, width)[:rows, :columns]
        between = self.global_img_feature_extensor[0].astype(cells.dtype)
        joined = mx.concatenate([self._lines(canvas), between, self._lines(cells[0])])
        return self.img_projection_down(gelu(self.img_projection_up(joined)))

    def _lines(self, cells: mx.array) -> mx.array:
        """[rows, columns, width] -> [rows * (columns + 1), width]."""
        ends = mx.broadcast_to(self.sub_img_feature_extensor[0], (cells.shape[0], 1, cells.shape[-1]))
        return mx.concatenate([cells, ends.astype(cells.dtype)], axis=1).reshape(-1, cells.shape[-1])


def _quartered(x: mx.array) -> mx.array:
    """Means of 2 x 2 cells of maps [n, side, side, width]; an odd side is first mirrored at its last cell."""
    if x.shape[1] % 2:
        x = mx.concatenate([x, x[:, -2:-1]], axis=1)
        x = mx.concatenate([x, x[:, :, -2:-1]], axis=2)
    n, side, _, width = x.shape
    return x.reshape(n, side // 2, 2, side // 2, 2, width).mean(axis=(2, 4))


class AudioEmbed(nn.Module):
    """Sounds are projected in one way where a prompt has nothing else to perceive, in another beside pictures."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        width, dim = config.audio.dim, config.text.dim
        self.encoder = PhiAudio(config.audio)
        self.up_proj_for_speech, self.down_proj_for_speech = Linear(width, dim), Linear(dim, dim)
        self.up_proj_for_vision_speech, self.down_proj_for_vision_speech = Linear(width, dim), Linear(dim, dim)

    def __call__(self, item: MediaItem) -> mx.array:
        x = self.encoder(mx.array(item.arrays["frames"]), item.facts.get("num_frames"))[: item.num_tokens]
        if item.facts.get("beside_pictures"):
            return self.down_proj_for_vision_speech(gelu(self.up_proj_for_vision_speech(x)))
        return self.down_proj_for_speech(gelu(self.up_proj_for_speech(x)))


class Model(BaseModel):
    def __init__(self, config: Config) -> None:
        super().__init__()
        self.image_embed = ImageEmbed(config)
        self.audio_embed = AudioEmbed(config)
        self.language_model = PhiDecoder(config.text)

    def encode(self, items: Sequence[MediaItem]) -> list[Features]:
        return [Features(self.image_embed(item) if item.kind == "image" else self.audio_embed(item)) for item in items]

    def embed(self, tokens: mx.array, features: Sequence[Features], spans: Sequence[Span]) -> Inputs:
        return Inputs(scatter(self.language_model.embed_tokens(tokens), features, spans))

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
        return self.language_model(inputs, positions, attention, cache, select=select, adapters=adapters)

    def cache_spec(self) -> tuple[CacheSpec, ...]:
        return self.language_model.cache_spec()


def weights(config: Config) -> Sequence[Rule]:
    """transformers 5: model.embed_tokens_extend.{image,audio}_embed.*, model.layers.#.*_proj.weight. Published: base_layer and lora
    matrices, projections as numbered sequences."""
    tower = "image_embed.img_processor"
    renames = [Rename("model.embed_tokens_extend.*", "*"), Rename("model.*", "language_model.*")]
    renames += [
        Rename(f"image_embed.{old}", f"image_embed.{new}")
        for old, new in (
            ("img_projection.0.*", "img_projection_up.*"),
            ("img_projection.2.*", "img_projection_down.*"),
            ("glb_GN", "global_img_feature_extensor"),
            ("sub_GN", "sub_img_feature_extensor"),
        )
    ]
    for old, new in (("speech", "speech"), ("vision", "vision_speech")):
        renames.append(Rename(f"audio_embed.audio_projection.{old}.0.*", f"audio_embed.up_proj_for_{new}.*"))
        renames.append(Rename(f"audio_embed.audio_projection.{old}.2.*", f"audio_embed.down_proj_for_{new}.*"))
    for name in ("self_attn.qkv_proj", "self_attn.o_proj", "mlp.gate_up_proj", "mlp.down_proj"):
        place = f"language_model.layers.#.{name}"
        renames.append(Rename(f"{place}.weight", f"{place}.base_layer.weight"))
    unread = [
        Drop(f"{tower}.encoder.layers.{layer}.*") for layer in range(config.feature_layer, config.feature_layer + 64)
    ]
    return (
        *renames,
        Rename("lm_head.*", "language_model.lm_head.*"),
        *((DropCopy("language_model.lm_head", "language_model.embed_tokens"),) if config.text.tied else ()),
        *unread,
        Drop(f"{tower}.post_layernorm.*"),
        Drop(f"{tower}.head.*"),
        Flatten(f"{tower}.embeddings.patch_embedding.weight"),
        *audio_rules(config.audio, "audio_embed.encoder"),
    )


def processing(config: Config, files: ProcessorFiles, table: TokenTable | None) -> Processing:
    def token(kind: MediaKind) -> int:
        known = [table.id(text) if table is not None else files.added_tokens.get(text) for text in _MARKS[kind]]
        return next((found for found in known if found is not None), config.tokens[kind])

    return PhiProcessing(
        {"image": token("image"), "audio": token("audio")},
        CropStrategy.from_files(files.image, config.vision.image, config.vision.patch),
        FilterBank.from_files(files.audio, config.audio.num_mels, config.audio.thinning),
        config.text.rope.trained,
        table,
    )


FAMILY = Family(
    name="phi4_multimodal",
    config=Config.from_hf,
    model=Model,
    weights=weights,
    processing=processing,
    modalities=("image", "audio"),
    keep_full=("image_embed.*", "audio_embed.*", "*.lora_A.*", "*.lora_B.*"),
)
