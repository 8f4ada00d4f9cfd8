"""Processing of families that see pictures of one size, or of any size in rows of patches."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ..core.family import TokenTable
from ..core.inputs import MediaItem
from ..errors import ProcessingError
from .base import MediaOptions, Processing, pick
from .image.fixed import FixedStrategy, reshaped
from .image.longest_edge import LongestEdgeStrategy


class FixedPictures(Processing):
    """Every picture is `num_tokens` rows of features. Items hold `pixels` [1, 3, H, W]."""

    unpack_names = frozenset({"pixel_values"})

    def __init__(
        self, image_token: int, strategy: FixedStrategy, num_tokens: int, table: TokenTable | None = None
    ) -> None:
        super().__init__(table)
        self.token_ids = {"image": image_token}
        self.strategy, self.num_tokens = strategy, num_tokens

    def image(self, rgb: np.ndarray, options: MediaOptions) -> MediaItem:
        return MediaItem("image", {"pixels": self.strategy(reshaped(rgb, options))[None]}, self.num_tokens)

    def unpack(self, arrays: Mapping[str, np.ndarray]) -> list[MediaItem]:
        if not arrays:
            return []
        return [MediaItem("image", {"pixels": picture[None]}, self.num_tokens) for picture in arrays["pixel_values"]]


class RowPictures(Processing):
    """A picture is rows of image tokens, each row closed by a break token and the last by an end token (Pixtral).

    processor: processor_config.json, which may name the two tokens. Items hold `pixels` [1, 3, H, W]; a token stands for a
    square of `strategy.patch` pixels, and grids count tokens.
    """

    unpack_names = frozenset({"pixel_values", "image_sizes"})

    def __init__(
        self,
        image_token: int,
        strategy: LongestEdgeStrategy,
        processor: Mapping[str, Any],
        table: TokenTable | None = None,
    ) -> None:
        super().__init__(table)
        self.token_ids = {"image": image_token}
        self.strategy = strategy
        self.break_text: str = pick(processor, "image_break_token", "[IMG_BREAK]")
        self.end_text: str = pick(processor, "image_end_token", "[IMG_END]")

    def image(self, rgb: np.ndarray, options: MediaOptions) -> MediaItem:
        return self._item(self.strategy(reshaped(rgb, options)))

    def replacement(self, item: MediaItem) -> str:
        rows, columns = item.grid
        row = self._text(self.token_ids["image"]) * columns
        return self.break_text.join([row] * rows) + self.end_text

    def unpack(self, arrays: Mapping[str, np.ndarray]) -> list[MediaItem]:
        if not arrays:
            return []
        if set(arrays) != self.unpack_names:
            raise ProcessingError("pixel_values and image_sizes belong together; only one was given")
        sizes = arrays["image_sizes"].astype(int).tolist()
        return [self._item(p[:, :h, :w]) for p, (h, w) in zip(arrays["pixel_values"], sizes, strict=True)]

    def _item(self, pixels: np.ndarray) -> MediaItem:
        patch = self.strategy.patch
        rows, columns = pixels.shape[1] // patch, pixels.shape[2] // patch
        return MediaItem("image", {"pixels": pixels[None]}, rows * columns, (rows, columns))
