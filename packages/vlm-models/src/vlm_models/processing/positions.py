"""Positions of tokens with media in place. M-RoPE: arXiv:2409.12191, section 2.1."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def grid_coordinates(times: np.ndarray, height: int, width: int) -> np.ndarray:
    """int32 [3, t * height * width]: time, row and column of each cell, in row-major order. times: [t]."""
    t, h, w = np.meshgrid(np.asarray(times), np.arange(height), np.arange(width), indexing="ij")
    return np.stack([t.ravel(), h.ravel(), w.ravel()]).astype(np.int32)


def mrope(length: int, media: Sequence[tuple[int, np.ndarray]]) -> tuple[np.ndarray, int]:
    """Positions [3, length] and the delta for what follows.

    media: (first index, coordinates [3, n]) of each run, in order. Text counts on from the largest position so far + 1:

        a b [0,0,0 0,0,1 0,1,0 0,1,1] c     ->  time 0 1 2 2 2 2 4;  row 0 1 2 2 3 3 4;  column 0 1 2 3 2 3 4
    """
    positions = np.zeros((3, length), np.int32)
    at, following = 0, 0
    for start, coordinates in media:
        positions[:, at:start] = following + np.arange(start - at)
        following += start - at
        stop = start + coordinates.shape[1]
        positions[:, start:stop] = following + coordinates
        following += int(coordinates.max()) + 1
        at = stop
    positions[:, at:] = following + np.arange(length - at)
    following += length - at
    return positions, following - length
