"""Log mel spectrograms of the Universal Speech Model (arXiv:2303.01037), as Gemma hears."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from ...errors import ProcessingError
from ..base import pick


def mel_filters(num_bins: int, num_mels: int, low: float, high: float, rate: int) -> np.ndarray:
    """float64 [num_bins, num_mels]: triangles of equal height, equally wide on HTK's mel scale."""

    def mel(hertz: float) -> float:
        return 2595.0 * np.log10(1.0 + hertz / 700.0)

    corners = 700.0 * (10.0 ** (np.linspace(mel(low), mel(high), num_mels + 2) / 2595.0) - 1.0)
    bins = np.linspace(0, rate // 2, num_bins)[:, None]
    rising = (bins - corners[:-2]) / np.diff(corners)[:-1]
    falling = (corners[2:] - bins) / np.diff(corners)[1:]
    return np.maximum(0, np.minimum(rising, falling))


@dataclass(frozen=True)
class LogMel:
    """Sizes in samples, frequencies in hertz. lead: samples of silence in front. multiple: silence behind fills up to one of it.
    preemphasis: share of the sample before that is taken off. mean, deviation: per mel bin. adds_floor: the floor is added to
    each bin; else it is the least that a bin counts."""

    num_mels: int
    rate: int
    frame: int
    hop: int
    fft: int
    low: float
    high: float
    floor: float
    lead: int
    preemphasis: float = 0.0
    mean: tuple[float, ...] | None = None
    deviation: tuple[float, ...] | None = None
    scale: float = 1.0
    longest: int = 480_000
    multiple: int = 1
    adds_floor: bool = True

    @classmethod
    def from_files(cls, files: Mapping[str, Any]) -> LogMel:
        """From the feature extractor's file; absent keys as Gemma 4 has them. Raises ProcessingError."""
        if pick(files, "dither", 0.0):
            raise ProcessingError("preprocessor: dither is not supported; set it to 0")
        if not pick(files, "preemphasis_htk_flavor", True):
            raise ProcessingError("preprocessor: preemphasis_htk_flavor false is not supported")
        frame = int(pick(files, "frame_length", 320))
        mean, deviation = files.get("per_bin_mean"), files.get("per_bin_stddev")
        return cls(
            num_mels=int(pick(files, "feature_size", 128)),
            rate=int(pick(files, "sampling_rate", 16_000)),
            frame=frame,
            hop=int(pick(files, "hop_length", 160)),
            fft=int(pick(files, "fft_length", 512)),
            low=float(pick(files, "min_frequency", 0.0)),
            high=float(pick(files, "max_frequency", 8000.0)),
            floor=float(pick(files, "mel_floor", 1e-3)),
            lead=frame // 2,
            preemphasis=float(pick(files, "preemphasis", 0.0)),
            mean=None if mean is None else tuple(mean),
            deviation=None if deviation is None else tuple(deviation),
            scale=float(pick(files, "input_scale_factor", 1.0)),
        )

    @cached_property
    def _filters(self) -> np.ndarray:
        return mel_filters(self.fft // 2 + 1, self.num_mels, self.low, self.high, self.rate)

    @cached_property
    def _window(self) -> np.ndarray:
        return (0.5 - 0.5 * np.cos(2 * np.pi * np.arange(self.frame) / self.frame)).astype(np.float32)

    def __call__(self, pcm: np.ndarray) -> np.ndarray:
        """float32 [samples] -> float32 [frames, num_mels]. Raises ProcessingError for sounds too short or too long."""
        if len(pcm) > self.longest:
            raise ProcessingError(
                f"a sound of {len(pcm) / self.rate:.1f} s is longer than the model's {self.longest / self.rate:.0f} s; cut it"
            )
        padded = np.pad(pcm * np.float32(self.scale), (self.lead, -len(pcm) % self.multiple))
        # a frame is cut with one sample more, which pre-emphasis needs
        if len(padded) < self.frame + 1:
            raise ProcessingError(f"a sound of {len(pcm)} samples is too short for one frame")
        cut = np.lib.stride_tricks.sliding_window_view(padded, self.frame + 1)[:: self.hop]
        frames = cut[:, :-1]
        if self.preemphasis:
            first = frames[:, :1] * (1 - self.preemphasis)
            frames = np.concatenate([first, frames[:, 1:] - self.preemphasis * frames[:, :-1]], axis=1)
        mel = np.abs(np.fft.rfft(frames * self._window, n=self.fft)) @ self._filters
        log = np.log(mel + self.floor if self.adds_floor else np.maximum(mel, self.floor))
        if self.mean is not None:
            log = log - np.asarray(self.mean)
        if self.deviation is not None:
            log = log / np.asarray(self.deviation)
        return log.astype(np.float32)
