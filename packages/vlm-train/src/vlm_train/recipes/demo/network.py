"""The demo model on MLX as training sees it: whole batches, losses at the answers, a head on the patches.

The parts are those of `vlm_models`' Qwen2-VL; only the vision tower is run here in rows of padded pictures, since its own
call takes one picture at a time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from vlm_kernels import attention, rope
from vlm_models import Attention, Inputs, ModelConfig, plain_caches, resolve
from vlm_train.recipes.demo import layout
from vlm_train.recipes.demo.encoding import IMAGE_ID, NUM_PATCH_CLASSES, PAD_ID, Encoded
from vlm_train.recipes.demo.parameters import named, tree_of
from vlm_train.recipes.demo.preprocessing import patch_positions

EMPTY_PATCH_WEIGHT = (0.2, 0.2, 0.05, 0.05)  # most patches show nothing
_FRAMES = 2  # a picture is a pair of equal frames
_VISION_THETA = 10000.0


@dataclass(frozen=True)
class Batch:
    """Samples padded to common sizes: N pictures of P patches, B conversations of L tokens, T targets.

    pixels: uint8 [N, P, 588]. places: int32 [N, P, 2], rows and columns of patches. real: bool [N, P]. shown: int32
    [N, P, 4], what each patch shows. tokens: int32 [B, L]. positions: int32 [3, B, L]. source: int32 [B * L], the row of
    (token embeddings, then merged patches) each token takes. target_index: int32 [T], rows of B * L that predict `target`.
    weight: float32 [T], `total_weight` their sum. `num_samples` counts the conversations.
    """

    pixels: mx.array
    places: mx.array
    real: mx.array
    shown: mx.array
    tokens: mx.array
    positions: mx.array
    source: mx.array
    target_index: mx.array
    target: mx.array
    weight: mx.array
    total_weight: float
    num_samples: int


def _round_up(value: int, step: int) -> int:
    return -(-value // step) * step


def collate(items: Sequence[Encoded]) -> Batch:
    """Pad encoded samples into a batch."""
    patches = [p for item in items for p in item.patches]
    grids = [grid for item in items for grid in item.grids]
    classes = [c for item in items for c in item.patch_classes]
    num_patches = _round_up(max((len(p) for p in patches), default=4), 64)
    num_images = max(1, len(patches))
    pixels = np.zeros((num_images, num_patches, 588), np.uint8)
    places = np.zeros((num_images, num_patches, 2), np.int32)
    real = np.zeros((num_images, num_patches), bool)
    real[:, 0] = True  # a row of padding alone must see something
    shown = np.zeros((num_images, num_patches, 4), np.int32)
    for row, (patch, grid, kind) in enumerate(zip(patches, grids, classes, strict=True)):
        count = len(patch)
        pixels[row, :count], shown[row, :count], real[row, :count] = patch, kind, True
        places[row, :count] = patch_positions(grid[0] * layout.PATCH_SIZE, grid[1] * layout.PATCH_SIZE)
    length = _round_up(max(len(item.tokens) for item in items), 16)
    tokens = np.full((len(items), length), PAD_ID, np.int32)
    positions = np.zeros((3, len(items), length), np.int32)
    source = np.arange(len(items) * length, dtype=np.int32)
    target_index, target, weight = [], [], []
    image = 0
    for row, item in enumerate(items):
        count = len(item.tokens)
        tokens[row, :count] = item.tokens
        positions[:, row, :count] = item.positions
        rows = [
            len(source) + (image + number) * (num_patches // 4) + np.arange(len(p) // 4)
            for number, p in enumerate(item.patches)
        ]
        if rows:
            source[row * length + np.flatnonzero(item.tokens == IMAGE_ID)] = np.concatenate(rows)
        image += len(item.patches)
        asked = np.flatnonzero(item.weights)
        target_index.append(row * length + asked - 1)
        target.append(item.tokens[asked])
        weight.append(item.weights[asked])
    weights = np.concatenate(weight)
    return Batch(
        pixels=mx.array(pixels),
        places=mx.array(places),
        real=mx.array(real),
        shown=mx.array(shown),
        tokens=mx.array(tokens),
        positions=mx.array(positions),
        source=mx.array(source),
        target_index=mx.array(np.concatenate(target_index).astype(np.int32)),
        target=mx.array(np.concatenate(target)),
        weight=mx.array(weights),
        total_weight=float(weights.sum()),
        num_samples=len(items),
    )


class Network(nn.Module):
    """Qwen2-VL of a configuration (the parsed config.json) with the training-only head on patches."""

    def __init__(self, config: dict[str, Any], seed: int = 0) -> None:
        super().__init__()
        family = resolve(ModelConfig(config))
        self.model = family.model(family.config(config))
        vision = config["vision_config"]
        self.patch_head = nn.Linear(vision["embed_dim"], 4 * NUM_PATCH_CLASSES)
        self._mean = mx.array(np.repeat(np.array(layout.IMAGE_MEAN, np.float32), layout.PATCH_SIZE**2))
        self._std = mx.array(np.repeat(np.array(layout.IMAGE_STD, np.float32), layout.PATCH_SIZE**2))
        self._heads = vision["num_heads"]
        self._head_size = vision["embed_dim"] // vision["num_heads"]
        self._initialise(seed)

    def _initialise(self, seed: int) -> None:
        generator = np.random.default_rng(seed)
        drawn = []
        self.patch_head.bias = mx.zeros_like(self.patch_head.bias)  # nn.Linear draws it from MLX's global state
        for name, value in named(self.parameters()):
            if value.ndim < 2:
                continue
            spread = 0.02 if "embed_tokens" in name else value.shape[-1] ** -0.5
            if name.endswith(("attn.proj.weight", "fc2.weight", "o_proj.weight", "down_proj.weight")):
                spread *= 0.4
            if name.startswith("patch_head"):
                spread = 0.0
            drawn.append((name, mx.array(generator.normal(0, spread, value.shape).astype(np.float32))))
        self.update(tree_of(drawn))

    def encode(self, batch: Batch, dtype: mx.Dtype) -> tuple[mx.array, mx.array]:
        """Merged features [N * P / 4, hidden] and the patches' own, normalised: [N, P, dim]."""
        visual = self.model.visual
        colors = ((batch.pixels.astype(mx.float32) / 255 - self._mean) / self._std).astype(dtype)
        rows, count, _ = colors.shape
        channels = colors.reshape(rows, count, 3, 1, -1)
        x = visual.patch_embed(mx.repeat(channels, _FRAMES, axis=3).reshape(rows, count, -1))
        quarter = self._head_size // 4
        base = mx.array((_VISION_THETA ** (-np.arange(quarter) / quarter)).astype(np.float32))
        angles = (batch.places.astype(mx.float32)[..., None] * base).reshape(rows, count, -1)
        cos, sin = mx.cos(angles), mx.sin(angles)
        mask = batch.real[:, None, None, :]
        for block in visual.blocks:
            joint = block.attn.qkv(block.norm1(x)).reshape(rows, count, 3, self._heads, self._head_size)
            q, k, v = joint.transpose(2, 0, 3, 1, 4)
            q, k = rope(q, cos, sin), rope(k, cos, sin)
            mixed = attention(q, k, v, scale=self._head_size**-0.5, mask=mask)
            x = x + block.attn.proj(mixed.transpose(0, 2, 1, 3).reshape(rows, count, -1))
            x = x + block.mlp(block.norm2(x))
        return visual.merger(x), visual.merger.ln_q(x)

    def __call__(self, batch: Batch, dtype: mx.Dtype) -> tuple[mx.array, mx.array]:
        """Logits at the targets [T, vocabulary] and of what each patch shows [N, P, 4, classes], float32."""
        text = self.model.language_model
        features, patches = self.encode(batch, dtype)
        embedded = text.embed_tokens(batch.tokens)
        rows, length, size = embedded.shape
        table = mx.concatenate([embedded.reshape(-1, size), features.astype(embedded.dtype)])
        inputs = Inputs(table[batch.source].reshape(rows, length, size))
        caches = plain_caches(self.model.cache_spec(), dtype=dtype, batch=rows)
        plan = Attention.at(0, length, batch=rows)
        hidden = self.model(inputs, batch.positions, plan, caches, select=slice(0, 1)).hidden
        logits = text.head(hidden.reshape(-1, size)[batch.target_index]).astype(mx.float32)
        return logits, self.patch_head(patches).astype(mx.float32).reshape(*patches.shape[:2], 4, -1)


def losses(network: Network, batch: Batch, dtype: mx.Dtype) -> tuple[mx.array, mx.array, mx.array, mx.array]:
    """Sums over the batch: answer loss, its weight; patch loss, its weight."""
    logits, shown = network(batch, dtype)
    answers = (nn.losses.cross_entropy(logits, batch.target) * batch.weight).sum()
    empty = mx.array(EMPTY_PATCH_WEIGHT)
    weight = mx.where(batch.shown == 0, empty, 1.0) * batch.real[..., None]
    patches = (nn.losses.cross_entropy(shown, batch.shown) * weight).sum()
    return answers, batch.weight.sum(), patches, weight.sum()


def checkpoint(network: Network, dtype: mx.Dtype) -> dict[str, mx.array]:
    """The weights under the names and in the shapes of the Hugging Face checkpoint."""
    weights = {}
    for name, value in named(network.model.parameters()):
        if name == "visual.patch_embed.proj.weight":
            value = value.reshape(value.shape[0], 3, _FRAMES, layout.PATCH_SIZE, layout.PATCH_SIZE)
        weights[name.replace("language_model.", "model.", 1)] = value.astype(dtype)
    return weights
