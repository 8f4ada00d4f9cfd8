"""Processing of Gemma 4: pictures that fill a budget of tokens, videos as stamped pictures, sounds as frames.

picture   <boi> tokens <eoi>                 items hold pixels [1, patches, 3 patch^2], grid (1, rows, columns)
video     00:02 <boi> tokens <eoi> 00:04...  [frames, patches, 3 patch^2], grid (frames, rows, columns)
sound     <boa> tokens <eoa>                 frames [frames, size]
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from ..core.config import take
from ..core.family import TokenTable
from ..core.inputs import MediaItem, MediaKind, Span
from ..errors import ProcessingError
from .base import MediaOptions, Processing
from .image.budget import BudgetStrategy
from .video.sampling import check_video


@dataclass(frozen=True)
class Gemma4Tokens:
    """Ids: what stands for a row of features by kind of media, and what is put around pictures and sounds. reserved: all that
    never stand for text, that of sounds among them even in models that do not hear."""

    features: Mapping[MediaKind, int]
    picture: tuple[int, int]
    sound: tuple[int, int]
    reserved: tuple[int, ...]

    @classmethod
    def from_hf(cls, hf: Mapping[str, Any], *, hears: bool) -> Gemma4Tokens:
        """From config.json. Raises ConfigError."""
        seen: dict[MediaKind, int] = {
            "image": take(hf, "image_token_id", int, 258_880),
            "video": take(hf, "video_token_id", int, 258_884),
        }
        heard: dict[MediaKind, int] = {"audio": take(hf, "audio_token_id", int, 258_881)}
        return cls(
            seen | heard if hears else seen,
            (take(hf, "boi_token_id", int, 255_999), take(hf, "eoi_token_id", int, 258_882)),
            (take(hf, "boa_token_id", int, 256_000), take(hf, "eoa_token_index", int, 258_883)),
            (*seen.values(), *heard.values()),
        )


class Sounds(Protocol):
    """float32 [samples] at `rate` a second -> float32 [frames, size]."""

    @property
    def rate(self) -> int: ...

    def __call__(self, pcm: np.ndarray) -> np.ndarray: ...


class Gemma4Processing(Processing):
    """sounds: None where the model does not hear. thinning: frames of a sound to a token, a power of two. blocks_seen: whether
    pictures see themselves in both directions."""

    unpack_names = frozenset(
        {
            "pixel_values",
            "image_position_ids",
            "pixel_values_videos",
            "video_position_ids",
            "num_frames_per_video",
            "input_features",
            "input_features_mask",
        }
    )

    def __init__(
        self,
        tokens: Gemma4Tokens,
        images: BudgetStrategy,
        videos: BudgetStrategy,
        num_frames: int,
        sounds: Sounds | None,
        *,
        thinning: int = 4,
        blocks_seen: bool,
        table: TokenTable | None = None,
    ) -> None:
        super().__init__(table)
        self.tokens, self.token_ids = tokens, tokens.features
        self.images, self.videos, self.num_frames, self.sounds = images, videos, num_frames, sounds
        self.thinning, self.blocks_seen = thinning, blocks_seen

    def image(self, rgb: np.ndarray, options: MediaOptions) -> MediaItem:
        patches, grid = self.images(rgb, options)
        return self._seen("image", patches[None], grid)

    def video(self, frames: np.ndarray, timestamps: Sequence[float], options: MediaOptions) -> MediaItem:
        cut = [self.videos(frame, options) for frame in frames]
        return self._seen("video", np.stack([patches for patches, _ in cut]), cut[0][1], tuple(timestamps))

    def sample(self, total: int, rate: float, options: MediaOptions) -> np.ndarray:
        """The first frame of each of 32 equal stretches, or of as many as fps asks for."""
        check_video(total, rate, options)
        count = self.num_frames if options.fps is None else max(int(total / rate * options.fps), 1)
        if options.max_frames is not None:
            count = min(count, options.max_frames)
        count = min(count, total)
        return np.arange(count, dtype=np.int64) * total // count

    @property
    def sample_rate(self) -> int:
        return super().sample_rate if self.sounds is None else self.sounds.rate

    def audio(self, pcm: np.ndarray, rate: int, options: MediaOptions) -> MediaItem:
        if self.sounds is None:
            return super().audio(pcm, rate, options)
        if rate != self.sounds.rate:
            raise ProcessingError(f"sounds must have {self.sounds.rate} samples a second, got {rate}")
        return self._heard(self.sounds(pcm))

    def replacement(self, item: MediaItem) -> str:
        opening, closing = (
            self._text(token) for token in (self.tokens.sound if item.kind == "audio" else self.tokens.picture)
        )
        if item.kind != "video":
            return f"{opening}{super().replacement(item)}{closing}"
        frame = self._text(self.token_ids["video"]) * (item.num_tokens // item.grid[0])
        times = [int(time) for time in item.facts["timestamps"]]
        return " ".join(f"{time // 60:02d}:{time % 60:02d} {opening}{frame}{closing}" for time in times)

    def blocks(
        self, tokens: np.ndarray, items: Sequence[MediaItem], spans: Sequence[Span]
    ) -> tuple[tuple[int, int], ...]:
        """Runs of feature tokens of pictures and frames; neighbours are one run."""
        runs: list[tuple[int, int]] = []
        for span in spans:
            if not self.blocks_seen or items[span.item].kind == "audio":
                continue
            if runs and runs[-1][1] == span.start:
                runs[-1] = (runs[-1][0], span.stop)
            else:
                runs.append((span.start, span.stop))
        return tuple(runs)

    def unpack(self, arrays: Mapping[str, np.ndarray]) -> list[MediaItem]:
        items = [self._unpadded("image", *one) for one in _pairs(arrays, "pixel_values", "image_position_ids", 1)]
        counts = arrays.get("num_frames_per_video", np.zeros(0, int))
        items += [
            self._unpadded("video", *one)
            for one in _pairs(arrays, "pixel_values_videos", "video_position_ids", counts.astype(int).tolist())
        ]
        heard = _pairs(arrays, "input_features", "input_features_mask", 1)
        if heard and self.sounds is None:
            raise ProcessingError("input_features were given to a model that does not hear")
        return items + [self._heard(frames[0, : int(mask.sum())]) for frames, mask in heard]

    def _unpadded(self, kind: MediaKind, patches: np.ndarray, places: np.ndarray) -> MediaItem:
        """Frames of one shape [n, L, D] whose places [n, L, 2] are (x, y), -1 for padding."""
        rows, columns = int(places[0, :, 1].max()) + 1, int(places[0, :, 0].max()) + 1
        return self._seen(kind, patches[:, : rows * columns], (rows, columns))

    def _seen(
        self, kind: MediaKind, patches: np.ndarray, grid: tuple[int, int], times: tuple[float, ...] = ()
    ) -> MediaItem:
        count = len(patches) * (grid[0] * grid[1] // self.images.pool**2)
        return MediaItem(
            kind, {"pixels": patches}, count, (len(patches), *grid), {"timestamps": times} if times else {}
        )

    def _heard(self, frames: np.ndarray) -> MediaItem:
        return MediaItem("audio", {"frames": frames}, -(-len(frames) // self.thinning))


def _pairs(
    arrays: Mapping[str, np.ndarray], name: str, other: str, counts: int | Sequence[int]
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Two arrays that go together, cut along their first axis into parts of `counts`. Raises ProcessingError."""
    if (name in arrays) != (other in arrays):
        raise ProcessingError(f"{name} and {other} belong together; only one was given")
    if name not in arrays:
        return []
    sizes = [counts] * (len(arrays[name]) // counts) if isinstance(counts, int) else list(counts)
    if sum(sizes) != len(arrays[name]):
        raise ProcessingError(f"{name} has {len(arrays[name])} frames, num_frames_per_video says {sum(sizes)}")
    ends = np.cumsum(sizes)[:-1]
    return list(zip(np.split(arrays[name], ends), np.split(arrays[other], ends), strict=True))
