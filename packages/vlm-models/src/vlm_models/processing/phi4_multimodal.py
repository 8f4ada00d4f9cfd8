"""Processing of Phi-4 Multimodal: pictures in masked crops, sounds as filter banks, and a branch for each prompt."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from ..core.family import TokenTable
from ..core.inputs import MediaItem, MediaKind, Prompt
from ..errors import PlaceholderError, ProcessingError
from .audio.fbank import FilterBank
from .base import MediaOptions, Processing
from .image.crops import CropStrategy
from .image.fixed import reshaped
from .shapes import check_shapes

# numbers in published placeholders: <|image_1|>, <|audio_2|>
MOST_NUMBERED = 64


class PhiProcessing(Processing):
    """Pictures hold `pixels` [1 + crops, 3, side, side] and `mask` [1 + crops, patches, patches], grids count crops; sounds hold
    `frames` [T, mels]. A prompt runs through the branch `vision` where it has pictures, `speech` where it has sounds alone.

    trained: most tokens of a text that turns by the short rotary factors; None: there are no others."""

    unpack_names = frozenset(
        {
            "image_pixel_values",
            "image_sizes",
            "image_attention_mask",
            "audio_input_features",
            "audio_embed_sizes",
            "audio_attention_mask",
        }
    )

    def __init__(
        self,
        token_ids: Mapping[MediaKind, int],
        images: CropStrategy,
        sounds: FilterBank,
        trained: int | None,
        table: TokenTable | None = None,
    ) -> None:
        super().__init__(table)
        self.token_ids, self.images, self.sounds, self.trained = token_ids, images, sounds, trained

    def image(self, rgb: np.ndarray, options: MediaOptions) -> MediaItem:
        rgb = reshaped(rgb, options)
        return self._seen(*self.images(rgb), self.images.grid(*rgb.shape[:2]))

    @property
    def sample_rate(self) -> int:
        return self.sounds.rate

    def audio(self, pcm: np.ndarray, rate: int, options: MediaOptions) -> MediaItem:
        if rate != self.sounds.rate:
            raise ProcessingError(f"sounds must have {self.sounds.rate} samples a second, got {rate}")
        return self._heard(self.sounds(pcm))

    @property
    def spellings(self) -> Mapping[str, MediaKind]:
        """The feature tokens, and numbered as the published prompts have them."""
        numbered = {f"<|{kind}_{number}|>": kind for kind in self.token_ids for number in range(1, MOST_NUMBERED + 1)}
        return {**super().spellings, **numbered}

    def in_order(self, pieces: Sequence[str], items: Sequence[MediaItem]) -> list[MediaItem]:
        counts = dict.fromkeys(self.kinds, 0)
        for mark in (match.group() for piece in pieces for match in self._marks().finditer(piece)):
            kind = self.spellings[mark]
            counts[kind] += 1
            if mark != self.placeholder(kind) and mark != f"<|{kind}_{counts[kind]}|>":
                raise PlaceholderError(f"{mark} is {kind} {counts[kind]} of the prompt; number media as they come")
        return super().in_order(pieces, items)

    def prompt(self, tokens: Sequence[int] | np.ndarray, items: Sequence[MediaItem]) -> Prompt:
        kinds = {item.kind for item in items}
        if "image" in kinds:
            items = [_beside_pictures(item) if item.kind == "audio" else item for item in items]
        prompt = super().prompt(tokens, items)
        names = ["vision"] if "image" in kinds else ["speech"] if kinds else []
        short = "+".join(names) or None
        if self.trained is None:
            return replace(prompt, adapter=short)
        prompt = replace(prompt, adapter=short, limit=self.trained, beyond="+".join([*names, "long"]))
        return replace(prompt, adapter=prompt.adapter_at(len(prompt)))

    def unpack(self, arrays: Mapping[str, np.ndarray]) -> list[MediaItem]:
        items: list[MediaItem] = []
        if "image_pixel_values" in arrays:
            pixels, sizes = arrays["image_pixel_values"], self._beside(arrays, "image_sizes", "image_pixel_values")
            side = self.images.side
            cells = side // self.images.patch
            check_shapes(
                arrays,
                {
                    "image_pixel_values": (None, None, 3, side, side),
                    "image_sizes": (len(pixels), 2),
                    "image_attention_mask": (*pixels.shape[:2], cells, cells),
                },
            )
            masks = arrays.get("image_attention_mask", np.ones((*pixels.shape[:2], cells, cells), bool))
            for views, mask, (height, width) in zip(pixels, masks, sizes.astype(int).tolist(), strict=True):
                grid = (height // side, width // side)
                used = 1 + grid[0] * grid[1]
                if not 1 < used <= len(views) or (height % side, width % side) != (0, 0):
                    raise ProcessingError(
                        f"image_sizes: {height}x{width} is not the size of {len(views) - 1} crops of {side}"
                    )
                items.append(self._seen(views[:used], mask[:used].astype(bool), grid))
        if "audio_input_features" in arrays:
            frames, counts = (
                arrays["audio_input_features"],
                self._beside(arrays, "audio_embed_sizes", "audio_input_features"),
            )
            check_shapes(
                arrays,
                {
                    "audio_input_features": (None, None, self.sounds.num_mels),
                    "audio_embed_sizes": (len(frames),),
                    "audio_attention_mask": frames.shape[:2],
                },
            )
            valid = arrays.get("audio_attention_mask")
            for index, count in enumerate(counts.astype(int).tolist()):
                facts = {} if valid is None else {"num_frames": int(valid[index].sum())}
                heard = self._heard(frames[index])
                if not 0 < count <= heard.num_tokens:
                    raise ProcessingError(f"audio_embed_sizes: {count} is not between 1 and {heard.num_tokens} tokens")
                items.append(replace(heard, num_tokens=count, facts=facts))
        return items

    def _beside(self, arrays: Mapping[str, np.ndarray], name: str, other: str) -> np.ndarray:
        if name not in arrays:
            raise ProcessingError(f"{other} and {name} belong together; only one was given")
        return arrays[name]

    def _seen(self, pixels: np.ndarray, mask: np.ndarray, grid: tuple[int, int]) -> MediaItem:
        """A row of cells (two patches a side) ends in a separator, in the whole as in the crops; one more stands between."""
        cells = -(-mask.shape[1] // 2)
        rows, columns = useful(mask, grid)
        count = rows * (columns + 1) + 1 + cells * (cells + 1)
        return MediaItem("image", {"pixels": pixels, "mask": mask}, count, grid)

    def _heard(self, frames: np.ndarray) -> MediaItem:
        return MediaItem("audio", {"frames": frames}, -(-len(frames) // self.sounds.thinning))


def useful(mask: np.ndarray, grid: tuple[int, int]) -> tuple[int, int]:
    """Rows and columns of cells that hold picture, over all crops. mask: bool [1 + crops, patches, patches]."""
    coarse = mask[1:, ::2, ::2].reshape(*grid, -1, mask[:, ::2].shape[1])
    return int(coarse[:, 0, :, 0].sum()), int(coarse[0, :, 0, :].sum())


def _beside_pictures(item: MediaItem) -> MediaItem:
    """The sound as it is encoded where a prompt has pictures too, under a key of its own."""
    facts: dict[str, Any] = {**item.facts, "beside_pictures": True}
    return replace(item, facts=facts, digest=f"{item.digest}+pictures" if item.digest else "")
