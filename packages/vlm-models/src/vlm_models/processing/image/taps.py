"""Resizing without smoothing, as torch's interpolate does it: each new sample is taken from its two or four nearest."""

from __future__ import annotations

from typing import Literal

import numpy as np

# the sharpness that torch gives Keys' cubic kernel
_KEYS = -0.75


def resample(picture: np.ndarray, height: int, width: int, filter: Literal["linear", "cubic"]) -> np.ndarray:
    """[H, W, C] -> float32 [height, width, C]. Taps beyond the edge take the edge."""
    picture = picture.astype(np.float32, copy=False)
    if picture.shape[1] != width:
        picture = _along(picture.swapaxes(0, 1), width, filter).swapaxes(0, 1)
    return picture if picture.shape[0] == height else _along(picture, height, filter)


def _along(rows: np.ndarray, size: int, filter: str) -> np.ndarray:
    """New rows between the old."""
    have = len(rows)
    source = (np.arange(size, dtype=np.float32) + np.float32(0.5)) * np.float32(have / size) - np.float32(0.5)
    if filter == "linear":
        source = np.maximum(source, 0)
    floor = np.floor(source)
    result = np.zeros((size, *rows.shape[1:]), np.float32)
    for offset in (0, 1) if filter == "linear" else (-1, 0, 1, 2):
        distance = np.abs(source - floor - offset)
        weights = 1 - distance if filter == "linear" else _cubic(distance)
        nearest = np.clip(floor.astype(int) + offset, 0, have - 1)
        result += rows[nearest] * weights.astype(np.float32)[:, None, None]
    return result


def _cubic(distance: np.ndarray) -> np.ndarray:
    near = ((_KEYS + 2) * distance - (_KEYS + 3)) * distance * distance + 1
    far = ((_KEYS * distance - 5 * _KEYS) * distance + 8 * _KEYS) * distance - 4 * _KEYS
    return np.where(distance <= 1, near, far)
