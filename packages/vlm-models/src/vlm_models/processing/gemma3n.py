"""Processing of Gemma 3n: pictures of one size and sounds of up to 30 seconds, each a fixed number of tokens.

picture   blank line <start_of_image> 256 tokens <end_of_image> blank line     items hold pixels [1, 3, H, W]
sound     blank line <start_of_audio> 188 tokens <end_of_audio> blank line     frames [frames, bins], grid (frames that count,)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ..core.config import take
from ..core.family import TokenTable
from ..core.inputs import MediaItem, MediaKind, Prompt
from ..errors import ProcessingError
from .audio.mel import LogMel
from .base import MediaOptions, Processing
from .image.fixed import FixedStrategy, reshaped
from .shapes import check_shapes

# the tower makes one of four frames and looks up to this many ahead
_THINNING, _AHEAD = 4, 7


@dataclass(frozen=True)
class MediaTokens:
    """Of one kind of media: the token of a row of features, those around them, and how many rows."""

    feature: int
    brackets: tuple[int, int]
    count: int

    @classmethod
    def from_hf(cls, hf: Mapping[str, Any], names: tuple[str, str, str, str], default: MediaTokens) -> MediaTokens:
        """names: of the configuration's keys for token, brackets and count. Raises ConfigError."""
        token, opening, closing, count = names
        return cls(
            take(hf, token, int, default.feature),
            (take(hf, opening, int, default.brackets[0]), take(hf, closing, int, default.brackets[1])),
            take(hf, count, int, default.count),
        )


def mel_of(files: Mapping[str, Any], bins: int) -> LogMel:
    """From the feature extractor's file; absent keys as Gemma 3n has them. bins: of the model. Raises ProcessingError."""
    if files.get("feature_size") not in (None, bins):
        raise ProcessingError(f"preprocessor: feature_size must be the model's {bins}, found {files['feature_size']!r}")
    usual = {
        "feature_size": bins,
        "fft_length": 1024,
        "frame_length": 512,
        "min_frequency": 125.0,
        "max_frequency": 7600.0,
    }
    usual |= {"preemphasis": 0.97, "mel_floor": 1e-5}
    read = LogMel.from_files(usual | {key: value for key, value in files.items() if value is not None})
    return replace(read, lead=0, multiple=128, adds_floor=False)


class Gemma3nProcessing(Processing):
    """reduction: frames that leave the tower's convolutions to a token of sound."""

    unpack_names = frozenset({"pixel_values", "input_features", "input_features_mask"})

    def __init__(
        self,
        tokens: Mapping[MediaKind, MediaTokens],
        images: FixedStrategy,
        sounds: LogMel,
        reduction: int,
        table: TokenTable | None = None,
    ) -> None:
        super().__init__(table)
        self.tokens, self.token_ids = tokens, {kind: own.feature for kind, own in tokens.items()}
        self.images, self.sounds, self.reduction = images, sounds, reduction

    def image(self, rgb: np.ndarray, options: MediaOptions) -> MediaItem:
        return self._seen(self.images(reshaped(rgb, options)))

    @property
    def sample_rate(self) -> int:
        return self.sounds.rate

    def audio(self, pcm: np.ndarray, rate: int, options: MediaOptions) -> MediaItem:
        if rate != self.sounds.rate:
            raise ProcessingError(f"sounds must have {self.sounds.rate} samples a second, got {rate}")
        frames = self.sounds(pcm)
        return self._heard(frames, len(frames))

    def replacement(self, item: MediaItem) -> str:
        opening, closing = (self._text(token) for token in self.tokens[item.kind].brackets)
        return f"\n\n{opening}{super().replacement(item)}{closing}\n\n"

    def typed(self, prompt: Prompt, type_ids: np.ndarray) -> Prompt:
        kinds: dict[MediaKind, int] = {"image": 1, "audio": 3}
        if not np.array_equal(type_ids, sum((prompt.tokens == self.token_ids[k]) * n for k, n in kinds.items())):
            raise ProcessingError("token_type_ids must be 1 at image tokens, 3 at audio tokens and 0 elsewhere")
        return prompt

    def unpack(self, arrays: Mapping[str, np.ndarray]) -> list[MediaItem]:
        if ("input_features" in arrays) != ("input_features_mask" in arrays):
            raise ProcessingError("input_features and input_features_mask belong together; only one was given")
        features = arrays["input_features"].shape[:2] if "input_features" in arrays else ()
        check_shapes(
            arrays,
            {
                "pixel_values": (None, 3, None, None),
                "input_features": (None, None, self.sounds.num_mels),
                "input_features_mask": features,
            },
        )
        sounds = zip(arrays.get("input_features", ()), arrays.get("input_features_mask", ()), strict=True)
        return [
            *(self._seen(pixels) for pixels in arrays.get("pixel_values", ())),
            *(self._heard(frames, int(mask.sum())) for frames, mask in sounds),
        ]

    def _seen(self, pixels: np.ndarray) -> MediaItem:
        return MediaItem("image", {"pixels": pixels[None]}, self.tokens["image"].count)

    def _heard(self, frames: np.ndarray, count: int) -> MediaItem:
        """count: frames that are not padding; of the others those stay that the tower sees while it looks ahead."""
        kept, rows = -(-count // _THINNING), self.tokens["audio"].count
        if -(-kept // self.reduction) > rows:
            raise ProcessingError(f"a sound of {count} frames is longer than the model's {rows} tokens; cut it")
        frames = frames[: _THINNING * (kept - 1) + _AHEAD]
        return MediaItem("audio", {"frames": frames}, rows, (kept,))
