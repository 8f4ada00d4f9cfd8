"""A part of a resized picture is what resizing the whole and cutting gives."""

from __future__ import annotations

import numpy as np
import pytest

from vlm_models.processing.image.fixed import FixedStrategy
from vlm_models.processing.image.pixels import BICUBIC, BILINEAR, resize, resize_part


@pytest.mark.parametrize("resample", [BICUBIC, BILINEAR])
def test_a_part_equals_the_cut_of_the_whole(resample: int) -> None:
    rng = np.random.default_rng(0)
    for _ in range(100):
        height, width, big, wide = (int(rng.integers(1, most)) for most in (60, 400, 200, 900))
        rgb = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
        part = (int(rng.integers(1, big + 1)), int(rng.integers(1, wide + 1)))
        top, left = (big - part[0]) // 2, (wide - part[1]) // 2
        whole = resize(rgb, big, wide, resample)[top : top + part[0], left : left + part[1]]
        cut = resize_part(rgb, (big, wide), (top, left), part, resample)
        difference = np.abs(whole.astype(int) - cut)  # Pillow rounds a box to float32
        assert difference.max() <= 2 and difference.mean() < 0.5


def test_a_line_of_pixels_needs_no_gigabytes() -> None:
    line = np.random.default_rng(0).integers(0, 256, (1, 3937, 3), dtype=np.uint8)
    strategy = FixedStrategy(shortest=336, crop=(336, 336))
    pixels = strategy(line)  # 336 x 1322832 before the crop
    assert pixels.shape == (3, 336, 336)
    assert np.array_equal(pixels, strategy(line.swapaxes(0, 1)).swapaxes(1, 2))
    middle = strategy.normalize(line[0, 1968][None])[0]
    assert np.abs(pixels[:, 168, 168] - middle).max() < 0.05
