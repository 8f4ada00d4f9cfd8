"""Log mel filter banks as Kaldi computes them, as Phi-4 hears (arXiv:2503.01743, appendix A)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from ...errors import ProcessingError
from ..base import pick

# samples of 16 bits, which the filters were made for
FULL_SCALE = 32768


@dataclass(frozen=True)
class FilterBank:
    """frame, hop: samples. low, high: hertz. preemphasis: share of the sample before that is taken off, within a frame.
    thinning: frames to a token."""

    num_mels: int = 80
    rate: int = 16_000
    frame: int = 400
    hop: int = 160
    fft: int = 512
    low: float = 0.0
    high: float = 7690.0
    preemphasis: float = 0.97
    thinning: int = 8

    @classmethod
    def from_files(cls, files: Mapping[str, Any], num_mels: int, thinning: int) -> FilterBank:
        """From the feature extractor's file; absent keys as published. Raises ProcessingError."""
        for key in ("audio_downsample_rate", "audio_feat_stride"):
            if pick(files, key, 1) != 1:
                raise ProcessingError(f"preprocessor: {key} {files[key]!r} is not supported (1)")
        bank = cls(
            num_mels=int(pick(files, "feature_size", num_mels)),
            rate=int(pick(files, "sampling_rate", cls.rate)),
            frame=int(pick(files, "win_length", cls.frame)),
            hop=int(pick(files, "hop_length", cls.hop)),
            fft=int(pick(files, "n_fft", cls.fft)),
            low=float(pick(files, "mel_min_frequency", cls.low)),
            high=float(pick(files, "mel_max_frequency", cls.high)),
            preemphasis=float(pick(files, "preemphasis", cls.preemphasis)),
            thinning=int(pick(files, "audio_compression_rate", thinning)),
        )
        if (bank.num_mels, bank.thinning) != (num_mels, thinning):
            raise ProcessingError(
                f"preprocessor: {bank.num_mels} mels thinned by {bank.thinning} do not fit the model's {num_mels} by {thinning}"
            )
        return bank

    @cached_property
    def _filters(self) -> np.ndarray:
        """[bins, mels]: triangles, equally wide and straight on the mel scale."""

        def mel(hertz: np.ndarray | float) -> np.ndarray:
            return 1127.0 * np.log(1.0 + np.asarray(hertz) / 700.0)

        bins = mel(np.arange(self.fft // 2 + 1) * self.rate / self.fft)[:, None]
        corners = np.linspace(mel(self.low), mel(self.high), self.num_mels + 2)
        rising = (bins - corners[:-2]) / np.diff(corners)[:-1]
        falling = (corners[2:] - bins) / np.diff(corners)[1:]
        return np.maximum(0, np.minimum(rising, falling)).astype(np.float32)

    def __call__(self, pcm: np.ndarray) -> np.ndarray:
        """float32 [samples] -> float32 [frames, num_mels]; a rest shorter than a frame falls away. Raises ProcessingError."""
        if len(pcm) < self.frame:
            raise ProcessingError(f"a sound of {len(pcm)} samples is shorter than one frame of {self.frame}")
        frames = np.lib.stride_tricks.sliding_window_view(pcm.astype(np.float32), self.frame)[:: self.hop]
        before = np.concatenate([frames[:, :1], frames[:, :-1]], axis=1)
        sharp = (frames - np.float32(self.preemphasis) * before) * np.float32(FULL_SCALE)
        spectrum = np.fft.rfft(sharp * np.hamming(self.frame), n=self.fft).astype(np.complex64)
        power = np.abs(spectrum) ** 2
        return np.log(np.maximum(power @ self._filters, np.float32(1)))
