"""Processing of Molmo 2: pictures in overlapping views, clips of frames with their times, and one block that sees itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ..core.family import TokenTable
from ..core.inputs import MediaItem, MediaKind, Prompt, Span
from ..errors import ModalityError, ProcessingError
from .base import MediaOptions, Processing, pick
from .image.fixed import reshaped
from .image.overlap import OverlapStrategy
from .shapes import check_shapes
from .video.sampling import check_video

PLACEHOLDERS: dict[str, MediaKind] = {"<|image|>": "image", "<|video|>": "video"}


@dataclass(frozen=True)
class MolmoTokens:
    """begin: what every prompt starts with, empty for nothing. marks: all ids that stand for pictures and frames: patches, starts,
    ends, columns."""

    patch: int
    begin: str
    marks: frozenset[int]


@dataclass(frozen=True)
class MolmoLayout:
    """How views are written: whether rows of cells end in a column token, which tokens enclose a whole view and a frame."""

    columns: bool = True
    low_columns: bool = True
    frame_columns: bool = False
    low_start: str = "<low_res_im_start>"
    frame: tuple[str, str] = ("<frame_start>", "<frame_end>")

    @classmethod
    def from_files(cls, files: Mapping[str, Any]) -> MolmoLayout:
        """From processor_config.json."""
        columns = bool(pick(files, "image_use_col_tokens", True))
        return cls(
            columns,
            bool(pick(files, "use_single_crop_col_tokens", columns)),
            bool(pick(files, "video_use_col_tokens", False)),
            cls.low_start if pick(files, "use_single_crop_start_token", True) else "<im_start>",
            cls.frame if pick(files, "use_frame_special_tokens", True) else ("<im_start>", "<im_end>"),
        )

    def picture(self, grid: tuple[int, ...]) -> str:
        low = self._rows(grid[0], grid[1], self.low_columns)
        return f"{self.low_start}{low}<im_end><im_start>{self._rows(grid[2], grid[3], self.columns)}<im_end>"

    def clip(self, grid: tuple[int, ...], times: Sequence[float]) -> str:
        frame = f"{self.frame[0]}{self._rows(grid[1], grid[2], self.frame_columns)}{self.frame[1]}"
        return " ".join(f"{time:.1f} {frame}" for time in times)

    def _rows(self, rows: int, columns: int, closed: bool) -> str:
        return ("<im_patch>" * columns + ("<im_col>" if closed else "")) * rows


class MolmoProcessing(Processing):
    """Items hold `patches` [views, patches, patch^2 * 3] and `cells` [tokens, pool]; grids are (rows, columns) of cells of the
    whole and of the canvas, or (frames, rows, columns). num_frames: most frames of a clip. max_rate: most a second."""

    unpack_names = frozenset(
        {
            "pixel_values",
            "image_token_pooling",
            "image_grids",
            "image_num_crops",
            "pixel_values_videos",
            "video_token_pooling",
            "video_grids",
        }
    )

    def __init__(
        self,
        tokens: MolmoTokens,
        images: OverlapStrategy,
        videos: OverlapStrategy,
        layout: MolmoLayout,
        num_frames: int,
        max_rate: float,
        table: TokenTable | None = None,
    ) -> None:
        super().__init__(table)
        self.tokens, self.token_ids = tokens, {"image": tokens.patch, "video": tokens.patch}
        self.images, self.videos, self.layout = images, videos, layout
        self.num_frames, self.max_rate = num_frames, max_rate

    def image(self, rgb: np.ndarray, options: MediaOptions) -> MediaItem:
        return self._item("image", *self.images(reshaped(rgb, options)))

    def video(self, frames: np.ndarray, timestamps: Sequence[float], options: MediaOptions) -> MediaItem:
        patches = np.concatenate([self.videos.whole(reshaped(frame, options)) for frame in frames])
        cells, grid = self.videos.whole_cells()
        offsets = np.arange(len(frames))[:, None, None] * patches.shape[1]
        numbered = np.where(cells >= 0, cells + offsets, -1).reshape(-1, cells.shape[1]).astype(np.int32)
        item = self._item("video", patches, numbered, (len(frames), *grid))
        return replace(item, facts={"timestamps": tuple(timestamps)})

    def sample(self, total: int, rate: float, options: MediaOptions) -> np.ndarray:
        """Starts of equal stretches: 64 of them, fewer where that were more than two a second; or as many as fps asks for."""
        check_video(total, rate, options)
        if options.fps is not None:
            count = int(total / rate * options.fps)
        else:
            count = (
                self.num_frames if rate <= self.max_rate else min(self.num_frames, int(total / rate * self.max_rate))
            )
        if options.max_frames is not None:
            count = min(count, options.max_frames)
        step = total / max(min(count, total), 1)
        # in float32 as the reference counts, before it cuts off
        return np.arange(0, total, step).astype(np.float32).astype(np.int64)

    def placeholder(self, kind: MediaKind) -> str:
        if kind not in self.token_ids:
            return super().placeholder(kind)  # refuses
        return next(text for text, named in PLACEHOLDERS.items() if named == kind)

    def replacement(self, item: MediaItem) -> str:
        if item.kind == "image":
            return self.layout.picture(item.grid)
        return self.layout.clip(item.grid, item.facts["timestamps"])

    def expand(self, pieces: Sequence[str], items: Sequence[MediaItem]) -> list[str]:
        """A prompt starts with the begin token, which is put where it lacks it."""
        expanded = super().expand(pieces, items)
        if expanded and not expanded[0].startswith(self.tokens.begin):
            expanded[0] = self.tokens.begin + expanded[0]
        return expanded

    def prompt(self, tokens: Sequence[int] | np.ndarray, items: Sequence[MediaItem]) -> Prompt:
        kinds = [item.kind for item in items]
        if "video" in kinds and len(kinds) > 1:
            raise ModalityError(f"Molmo 2 takes pictures, or one video, in a prompt; got {', '.join(kinds)}")
        prompt = super().prompt(tokens, items)
        return replace(prompt, apart=np.flatnonzero(self.type_ids(prompt.tokens) == 0)) if prompt.blocks else prompt

    def type_ids(self, tokens: np.ndarray) -> np.ndarray:
        return np.isin(tokens, list(self.tokens.marks)).astype(int)

    def blocks(
        self, tokens: np.ndarray, items: Sequence[MediaItem], spans: Sequence[Span]
    ) -> tuple[tuple[int, int], ...]:
        """All pictures and frames are one block, the text between them apart."""
        where = np.flatnonzero(self.type_ids(tokens))
        return ((int(where[0]), int(where[-1]) + 1),) if len(where) else ()

    def unpack(self, arrays: Mapping[str, np.ndarray]) -> list[MediaItem]:
        return [
            *self._unpacked("image", arrays, "pixel_values", "image_token_pooling", "image_grids"),
            *self._unpacked("video", arrays, "pixel_values_videos", "video_token_pooling", "video_grids"),
        ]

    def _unpacked(self, kind: MediaKind, arrays: Mapping[str, np.ndarray], *names: str) -> list[MediaItem]:
        given = [arrays[name] for name in names if name in arrays]
        if not given:
            return []
        if len(given) < len(names):
            raise ProcessingError(f"{', '.join(names)} belong together; only some were given")
        side = self.images.side // self.images.patch
        shapes = ((None, side * side, 3 * self.images.patch**2), (None, None), (None, 4 if kind == "image" else 3))
        check_shapes(arrays, dict(zip(names, shapes, strict=True)))
        patches, cells, grids = given[0], given[1].astype(np.int32), [tuple(g) for g in given[2].astype(int).tolist()]
        counts = [g[0] * g[1] + g[2] * g[3] if kind == "image" else g[0] * g[1] * g[2] for g in grids]
        if sum(counts) != len(cells):
            raise ProcessingError(f"{names[2]} describes {sum(counts)} tokens, {names[1]} has {len(cells)}")
        if (cells >= patches.shape[0] * side * side).any() or (cells < 0).all(axis=1).any():
            raise ProcessingError(f"{names[1]} names patches that {names[0]} lacks, or a token without any")
        parts = np.split(cells, np.cumsum(counts)[:-1])
        # the first patch of an item is in one of its cells
        starts = [int(part[part >= 0].min()) // patches.shape[1] for part in parts] + [len(patches)]
        crops = arrays.get("image_num_crops") if kind == "image" else None
        if crops is not None and not np.array_equal(crops, np.diff(starts)):
            raise ProcessingError(
                f"image_num_crops {crops.tolist()} differ from the views that are pooled: {np.diff(starts)}"
            )
        return [
            self._item(
                kind,
                patches[start:stop],
                np.where(part >= 0, part - start * patches.shape[1], -1).astype(np.int32),
                grid,
            )
            for part, grid, start, stop in zip(parts, grids, starts[:-1], starts[1:], strict=True)
        ]

    def _item(self, kind: MediaKind, patches: np.ndarray, cells: np.ndarray, grid: tuple[int, ...]) -> MediaItem:
        return MediaItem(kind, {"patches": patches, "cells": cells}, len(cells), grid)
