"""Resizing and normalising pixels. Pillow resizes; the rest is numpy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from ..base import pick

# PIL's numbering, which preprocessor_config.json uses too
NEAREST, LANCZOS, BILINEAR, BICUBIC = 0, 1, 2, 3


def resize(rgb: np.ndarray, height: int, width: int, resample: int = BICUBIC) -> np.ndarray:
    """uint8 [H, W, 3] -> uint8 [height, width, 3]."""
    if rgb.shape[:2] == (height, width):
        return rgb
    return np.asarray(Image.fromarray(rgb).resize((width, height), Image.Resampling(resample)))


def resize_part(
    rgb: np.ndarray, size: tuple[int, int], corner: tuple[int, int], part: tuple[int, int], resample: int = BICUBIC
) -> np.ndarray:
    """resize(rgb, *size)[top : top + h, left : left + w] for corner (top, left) and part (h, w), without the rest of it: very long
    pictures may be gigabytes at their full size."""
    (height, width), kind = rgb.shape[:2], Image.Resampling(resample)
    down, across = height / size[0], width / size[1]
    rows = (corner[0] * down, min((corner[0] + part[0]) * down, height))
    columns = (corner[1] * across, min((corner[1] + part[1]) * across, width))

    def along_rows(image: Image.Image) -> Image.Image:
        return image.resize((part[1], image.height), kind, box=(columns[0], 0, columns[1], image.height))

    def along_columns(image: Image.Image) -> Image.Image:
        return image.resize((image.width, part[0]), kind, box=(0, rows[0], image.width, rows[1]))

    image = Image.fromarray(rgb)
    # Pillow's order of the two passes, between which it rounds
    if size[0] < height and size[1] > width:
        return np.asarray(along_rows(along_columns(image)))
    return np.asarray(along_columns(along_rows(image)))


@dataclass(frozen=True)
class Normalize:
    """(pixel * factor - mean) / std, per channel; None leaves a step out."""

    factor: float | None = 1 / 255
    mean: tuple[float, ...] | None = (0.5, 0.5, 0.5)
    std: tuple[float, ...] | None = (0.5, 0.5, 0.5)

    @classmethod
    def from_files(cls, files: Mapping[str, Any], mean: Sequence[float], std: Sequence[float]) -> Normalize:
        """From preprocessor_config.json, with the family's defaults."""
        rescales, normalizes = pick(files, "do_rescale", True), pick(files, "do_normalize", True)
        return cls(
            float(pick(files, "rescale_factor", 1 / 255)) if rescales else None,
            tuple(pick(files, "image_mean", mean)) if normalizes else None,
            tuple(pick(files, "image_std", std)) if normalizes else None,
        )

    def __call__(self, rgb: np.ndarray) -> np.ndarray:
        """[..., 3] -> float32 [..., 3]."""
        x: np.ndarray = rgb.astype(np.float32)
        if self.factor is not None:
            x = x * np.float32(self.factor)
        if self.mean is not None and self.std is not None:
            x = (x - np.asarray(self.mean, np.float32)) / np.asarray(self.std, np.float32)
        return x


CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
HALF_MEAN, HALF_STD = (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)
