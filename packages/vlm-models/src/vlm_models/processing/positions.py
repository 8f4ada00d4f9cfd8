"""Positions of tokens with media in place. M-RoPE: arXiv:2409.12191, section 2.1."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def grid_coordinates(times: np.ndarray, height: int, width: int) -> np.ndarray:
    """int32 [3, t * height * width]: time, row and column of each cell, in row-major order. times: [t]."""
    t, h, w = np.meshgrid(np.asarray(times), np.arange(height), np.arange(width), indexing="ij")
    return np.stack([t.ravel(), h.ravel(), w.ravel()]).astype(np.int32)


def mrope(length: int, media: Sequence[tuple[int, np.ndarray, int]]) -> tuple[np.ndarray, int]:
    """Positions [3, length] and the delta for what follows.

    media: (first index, coordinates [3, n], advance) of each run, in order. The text behind a run goes on `advance` after the
    run's first position, whatever its time coordinates reached; what is generated goes on behind the largest position of all.

        a b [0,0,0 0,0,1 0,1,0 0,1,1] c     ->  time 0 1 2 2 2 2 4;  row 0 1 2 2 3 3 4;  column 0 1 2 3 2 3 4   (advance 2)
    """
    positions = np.zeros((3, length), np.int32)
    at, following = 0, 0
    for start, coordinates, advance in media:
        positions[:, at:start] = following + np.arange(start - at)
        following += start - at
        stop = start + coordinates.shape[1]
        positions[:, start:stop] = following + coordinates
        following += advance
        at = stop
    positions[:, at:] = following + np.arange(length - at)
    return positions, int(positions.max(initial=-1)) + 1 - length
