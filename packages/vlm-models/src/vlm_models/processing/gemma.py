"""Processing of Gemma 3 and PaliGemma: pictures of one size, crops of long ones; who sees whom in both directions."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ..core.family import TokenTable
from ..core.inputs import MediaItem, MediaKind, Prompt, Span
from ..errors import ModalityError, ProcessingError
from .base import MediaOptions, pick
from .image.fixed import FixedStrategy, reshaped
from .pictures import FixedPictures


@dataclass(frozen=True)
class PanAndScan:
    """A long picture is shown whole and in 2 to `most` crops along its longer side. least: pixels of a crop's shorter side.
    ratio: of the sides from which a picture counts as long."""

    least: int = 256
    most: int = 4
    ratio: float = 1.2

    @classmethod
    def from_files(cls, files: Mapping[str, Any]) -> PanAndScan | None:
        """From preprocessor_config.json; None where it is off. Raises ProcessingError for a number that is not positive."""
        if not pick(files, "do_pan_and_scan", False):
            return None
        least, most, ratio = (
            pick(files, f"pan_and_scan_{key}", default)
            for key, default in (("min_crop_size", 256), ("max_num_crops", 4), ("min_ratio_to_activate", 1.2))
        )
        if min(least, most, ratio) <= 0:
            raise ProcessingError("preprocessor: the numbers of pan and scan must be positive")
        return cls(int(least), int(most), float(ratio))

    def crops(self, rgb: np.ndarray) -> list[np.ndarray]:
        """uint8 [H, W, 3] -> crops from the start of the longer side, the last one what is left; none of a picture that is not
        long, or whose crops would be too small."""
        axis = 1 if rgb.shape[1] >= rgb.shape[0] else 0
        long, short = rgb.shape[axis], rgb.shape[1 - axis]
        if long / short < self.ratio:
            return []
        count = min(self.most, max(2, min(long // self.least, math.floor(long / short + 0.5))))
        size = -(-long // count)
        if min(size, short) < self.least:
            return []
        return [rgb[:, at : at + size] if axis else rgb[at : at + size] for at in range(0, size * count, size)]


class BracketedPictures(FixedPictures):
    """A picture stands as its begin token in a prompt and becomes begin, features, end between blank lines; its features see
    each other in both directions. With crops it becomes a sentence that shows the whole picture and each of them; items hold
    `pixels` [1 + crops, 3, H, W]."""

    def __init__(
        self,
        image_token: int,
        brackets: tuple[int, int],
        strategy: FixedStrategy,
        num_tokens: int,
        table: TokenTable | None = None,
        *,
        scan: PanAndScan | None = None,
    ) -> None:
        super().__init__(image_token, strategy, num_tokens, table)
        self.brackets, self.scan = brackets, scan

    def image(self, rgb: np.ndarray, options: MediaOptions) -> MediaItem:
        whole = reshaped(rgb, options)
        shown = [whole, *(self.scan.crops(whole) if self.scan else ())]
        pixels = np.stack([self.strategy(part) for part in shown])
        return MediaItem("image", {"pixels": pixels}, self.num_tokens * len(shown))

    def placeholder(self, kind: MediaKind) -> str:
        if kind != "image":
            raise ModalityError(f"this family takes no {kind}")
        return self._text(self.brackets[0])

    def replacement(self, item: MediaItem) -> str:
        begin, end = (self._text(token) for token in self.brackets)
        one = f"\n\n{begin}{self._text(self.token_ids['image']) * self.num_tokens}{end}\n\n"
        crops = item.num_tokens // self.num_tokens - 1
        if not crops:
            return one
        # the sentence is the reference's, word for word
        return f"Here is the original image {one} and here are some crops to help you see better " + " ".join(
            [one] * crops
        )

    def blocks(
        self, tokens: np.ndarray, items: Sequence[MediaItem], spans: Sequence[Span]
    ) -> tuple[tuple[int, int], ...]:
        return tuple((span.start, span.stop) for span in spans)


class PrefixPictures(FixedPictures):
    """The whole prompt sees itself in both directions; positions count from one (PaliGemma).

    begin: the token between the pictures and the text."""

    def __init__(
        self, image_token: int, begin: int, strategy: FixedStrategy, num_tokens: int, table: TokenTable | None = None
    ) -> None:
        super().__init__(image_token, strategy, num_tokens, table)
        self.begin = begin

    def expand(self, pieces: Sequence[str], items: Sequence[MediaItem]) -> list[str]:
        """Pictures, the begin token, the text, a line end: the last two are put where the prompt lacks them."""
        expanded = super().expand(pieces, items)
        begin, image = self._text(self.begin), self._text(self.token_ids["image"])
        if not any(begin in piece for piece in expanded):
            last = max((i for i, piece in enumerate(expanded) if image in piece), default=0)
            at = expanded[last].rfind(image) + len(image) if image in expanded[last] else 0
            expanded[last] = expanded[last][:at] + begin + expanded[last][at:]
        if not expanded[-1].endswith("\n"):
            expanded[-1] += "\n"
        return expanded

    def positions(
        self, tokens: np.ndarray, items: Sequence[MediaItem], spans: Sequence[Span]
    ) -> tuple[np.ndarray, int]:
        return np.arange(1, len(tokens) + 1, dtype=np.int32)[None], 1

    def blocks(
        self, tokens: np.ndarray, items: Sequence[MediaItem], spans: Sequence[Span]
    ) -> tuple[tuple[int, int], ...]:
        return ((0, len(tokens)),)

    def typed(self, prompt: Prompt, type_ids: np.ndarray) -> Prompt:
        """Type 0 is what sees itself in both directions, type 1 an answer behind it."""
        prefix = int((type_ids == 0).sum())
        if not np.array_equal(type_ids, np.arange(len(prompt)) >= prefix):
            raise ProcessingError("token_type_ids must be zeros (the prompt), then ones (the answer)")
        return replace(prompt, blocks=((0, prefix),))
