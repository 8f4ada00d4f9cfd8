"""Qwen2-VL's image processing in numpy and Pillow, so that pictures are prepared where they are drawn."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from vlm_train.recipes.demo.layout import MAX_PIXELS, MERGE_SIZE, MIN_PIXELS, PATCH_SIZE

FACTOR = PATCH_SIZE * MERGE_SIZE


def resized(height: int, width: int) -> tuple[int, int]:
    """Height and width after resizing: multiples of 28 within the pixel limits, aspect kept as well as may be.

    Raises:
        ValueError: the aspect is over 200:1.
    """
    if max(height, width) > 200 * min(height, width):
        raise ValueError(f"expected an aspect of at most 200:1, got {width}x{height}; crop the image")
    rows, columns = round(height / FACTOR) * FACTOR, round(width / FACTOR) * FACTOR
    if rows * columns > MAX_PIXELS:
        scale = math.sqrt(height * width / MAX_PIXELS)
        rows = max(FACTOR, math.floor(height / scale / FACTOR) * FACTOR)
        columns = max(FACTOR, math.floor(width / scale / FACTOR) * FACTOR)
    elif rows * columns < MIN_PIXELS:
        scale = math.sqrt(MIN_PIXELS / (height * width))
        rows, columns = math.ceil(height * scale / FACTOR) * FACTOR, math.ceil(width * scale / FACTOR) * FACTOR
    return rows, columns


def resize(image: Image.Image) -> NDArray[np.uint8]:
    """The image, resized (bicubic): `[height, width, 3]`."""
    height, width = resized(image.height, image.width)
    if (width, height) != image.size:
        image = image.resize((width, height), Image.Resampling.BICUBIC)
    return np.asarray(image)


def patches(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """`[height, width, 3]` -> `[num_patches, 3 * 14 * 14]`, merged 2x2 blocks together, as the model takes them."""
    height, width, channels = pixels.shape
    rows, columns = height // FACTOR, width // FACTOR
    blocks = pixels.reshape(rows, MERGE_SIZE, PATCH_SIZE, columns, MERGE_SIZE, PATCH_SIZE, channels)
    ordered = blocks.transpose(0, 3, 1, 4, 6, 2, 5)
    return np.ascontiguousarray(ordered).reshape(-1, channels * PATCH_SIZE * PATCH_SIZE)


def patch_positions(height: int, width: int) -> NDArray[np.int32]:
    """Row and column of every patch, in the order of `patches`: `[num_patches, 2]`."""
    rows, columns = height // PATCH_SIZE, width // PATCH_SIZE
    grid = np.stack(np.meshgrid(np.arange(rows), np.arange(columns), indexing="ij"), axis=-1)
    blocks = grid.reshape(rows // MERGE_SIZE, MERGE_SIZE, columns // MERGE_SIZE, MERGE_SIZE, 2)
    return blocks.transpose(0, 2, 1, 3, 4).reshape(-1, 2).astype(np.int32)
