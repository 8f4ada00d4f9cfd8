"""Processing of Idefics2, Idefics3 and SmolVLM: runs of image tokens between fake tokens, tiles named by row and column."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import numpy as np

from ..core.family import TokenTable
from ..core.inputs import MediaItem, MediaKind
from ..errors import ProcessingError
from .base import MediaOptions, Processing
from .image.fixed import reshaped
from .image.splits import QuartersStrategy, SplitStrategy

FAKE = "<fake_token_around_image>"


def real_pictures(arrays: Mapping[str, np.ndarray]) -> list[np.ndarray]:
    """Pictures [3, h, w] of pixel_values [B, N, 3, H, W] in order: those that fill up ragged rows (all zero) left out, and each
    cut to what pixel_attention_mask says is real."""
    if "pixel_values" not in arrays:
        if arrays:
            raise ProcessingError("pixel_attention_mask was given without pixel_values")
        return []
    pixels = arrays["pixel_values"]
    flat = pixels.reshape(-1, *pixels.shape[2:])
    masks = arrays.get("pixel_attention_mask", np.ones((*pixels.shape[:2], *pixels.shape[3:]), np.int32))
    masks = masks.reshape(-1, *masks.shape[2:]).astype(bool)
    return [p[:, : m[:, 0].sum(), : m[0].sum()] for p, m in zip(flat, masks, strict=True) if p.any()]


class QuarterPictures(Processing):
    """Idefics2: every picture or quarter is `num_latents` features. Items hold `pixels0` [1, 3, h, w], `pixels1`...
    The tower leaves out patches that a picture does not fill."""

    unpack_names = frozenset({"pixel_values", "pixel_attention_mask"})

    def __init__(
        self, image_token: int, strategy: QuartersStrategy, num_latents: int, table: TokenTable | None
    ) -> None:
        super().__init__(table)
        self.token_ids = {"image": image_token}
        self.strategy, self.num_latents = strategy, num_latents

    def image(self, rgb: np.ndarray, options: MediaOptions) -> MediaItem:
        return self._item(self.strategy(reshaped(rgb, options)))

    def replacement(self, item: MediaItem) -> str:
        run = self._text(self.token_ids["image"]) * self.num_latents
        return FAKE + (run + FAKE) * len(item.arrays)

    def expand(self, pieces: Sequence[str], items: Sequence[MediaItem]) -> list[str]:
        """Neighbouring pictures share the token between them, and a word that follows directly is set off by a blank."""
        merged = [piece.replace(FAKE + FAKE, FAKE) for piece in super().expand(pieces, items)]
        return [re.sub(rf"{FAKE}(?=[^\s<])", f"{FAKE} ", piece) for piece in merged]

    def unpack(self, arrays: Mapping[str, np.ndarray]) -> list[MediaItem]:
        pictures, count = real_pictures(arrays), 5 if self.strategy.split else 1
        if len(pictures) % count:
            raise ProcessingError(f"pixel_values hold {len(pictures)} pictures, which are no groups of {count}")
        return [self._item(pictures[at : at + count]) for at in range(0, len(pictures), count)]

    def _item(self, parts: Sequence[np.ndarray]) -> MediaItem:
        arrays = {f"pixels{index}": part[None] for index, part in enumerate(parts)}
        return MediaItem("image", arrays, len(parts) * self.num_latents)


class SplitPictures(Processing):
    """Idefics3: a token for `span` x `span` pixels of every tile. Items hold `pixels` [tiles, 3, tile, tile]; grids count tiles,
    (0, 0) for one alone. Unpacked arrays do not say which tiles make a picture: there every tile is an item."""

    unpack_names = frozenset({"pixel_values", "pixel_attention_mask"})

    def __init__(self, image_token: int, strategy: SplitStrategy, span: int, table: TokenTable | None) -> None:
        super().__init__(table)
        self.token_ids: dict[MediaKind, int] = {"image": image_token}
        self.strategy, self.span, self.per_tile = strategy, span, (strategy.tile // span) ** 2

    def image(self, rgb: np.ndarray, options: MediaOptions) -> MediaItem:
        rgb = reshaped(rgb, options)
        pixels = self.strategy(rgb)
        grid = self.strategy.grid(rgb.shape[0], rgb.shape[1])
        return MediaItem("image", {"pixels": pixels}, len(pixels) * self.per_tile, grid)

    def replacement(self, item: MediaItem) -> str:
        run = self._text(self.token_ids["image"]) * self.per_tile
        rows, columns = item.grid
        tiles = [
            "".join(f"{FAKE}<row_{row + 1}_col_{column + 1}>{run}" for column in range(columns)) + "\n"
            for row in range(rows)
        ]
        return "".join([*tiles, "\n" if tiles else "", self._whole()])

    def _whole(self) -> str:
        """The text of a picture or frame in one tile."""
        return f"{FAKE}<global-img>{self._text(self.token_ids['image']) * self.per_tile}{FAKE}"

    def unpack(self, arrays: Mapping[str, np.ndarray]) -> list[MediaItem]:
        return [self._tile(picture) for picture in real_pictures(arrays)]

    def _tile(self, picture: np.ndarray) -> MediaItem:
        count = (picture.shape[1] // self.span) * (picture.shape[2] // self.span)
        return MediaItem("image", {"pixels": picture[None]}, count, (0, 0))
