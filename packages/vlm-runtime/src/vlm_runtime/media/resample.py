"""Change the sample rate of audio with a band-limited polyphase filter."""

from __future__ import annotations

import math

import numpy as np

ZEROS = 48  # zero crossings of the sinc on each side
ROLLOFF = 0.935  # cut-off over the lower Nyquist frequency; the stop band begins at Nyquist
BETA = 10.0  # Kaiser window: stop band about 100 dB down
_BLOCK = 1 << 20  # products held at once


def resample(pcm: np.ndarray, rate: int, new_rate: int) -> np.ndarray:
    """Audio at another rate, without delay and with unit gain at 0 Hz; samples outside count as zero.

    Args:
        pcm: float32 [samples].
        rate: Samples per second of `pcm`.
        new_rate: Samples per second wanted.

    Returns:
        float32 [ceil(samples * new_rate / rate)]. Output n stands at time n / new_rate.
    """
    if rate == new_rate:
        return pcm
    divisor = math.gcd(rate, new_rate)
    up, down = new_rate // divisor, rate // divisor
    length = -(-len(pcm) * up // down)
    cutoff = ROLLOFF * min(1.0, up / down)  # in units of the input's Nyquist frequency
    reach = math.ceil(ZEROS / cutoff)
    padded = np.concatenate([np.zeros(reach, np.float32), pcm, np.zeros(reach + 1, np.float32)])
    windows = np.lib.stride_tricks.sliding_window_view(padded, 2 * reach + 1)
    result = np.empty(length, np.float32)
    # Output n lies `down * n / up` input samples in: outputs `up` apart share their place between two samples.
    rows = max(1, _BLOCK // (2 * reach + 1))
    for phase in range(min(up, length)):
        start, place = divmod(phase * down, up)
        taps = _taps(place / up, cutoff, reach)
        count = len(range(phase, length, up))
        for first in range(0, count, rows):
            last = min(first + rows, count)
            block = windows[start + first * down : start + (last - 1) * down + 1 : down]
            result[phase + first * up : phase + (last - 1) * up + 1 : up] = block @ taps
    return result


def _taps(offset: float, cutoff: float, reach: int) -> np.ndarray:
    """Weights of the input samples around a place `offset` (0 to 1) after the middle one. float32 [2 * reach + 1]."""
    distance = np.arange(-reach, reach + 1) - offset
    window = np.i0(BETA * np.sqrt(np.clip(1.0 - (distance / (reach + 1)) ** 2, 0.0, None)))
    taps = np.sinc(cutoff * distance) * window
    return (taps / taps.sum()).astype(np.float32)
