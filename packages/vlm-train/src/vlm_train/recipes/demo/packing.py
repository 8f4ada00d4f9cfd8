"""Batches of one fixed shape: pictures and conversations of any size laid end to end."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vlm_train.recipes.demo.encoding import IMAGE_ID, PAD_ID, Encoded, mrope_positions

_PAD_IMAGE = 256  # patches
_PAD_TEXT = 256  # tokens


@dataclass(frozen=True)
class Capacity:
    """Sizes of a packed batch; `patches` is a multiple of 4."""

    patches: int = 65536
    tokens: int = 27648
    images: int = 704
    sequences: int = 832
    targets: int = 5632

    def layout(self) -> dict[str, tuple[tuple[int, ...], str]]:
        """Name -> shape and dtype of every array of a batch.

        pixels, patch_positions, patch_classes and image_ends go by patch; tokens, positions and sequence_ends by token;
        image_index says where in `tokens` each merged patch goes; target_index is the token that predicts `target`,
        target_sample the number of the sample it belongs to.
        The ends start with 0 and repeat the last value where there are fewer segments than room.
        """
        return {
            "pixels": ((self.patches, 588), "uint8"),
            "patch_positions": ((self.patches, 2), "int32"),
            "patch_classes": ((self.patches, 4), "int16"),
            "image_ends": ((self.images + 1,), "int32"),
            "tokens": ((self.tokens,), "int32"),
            "positions": ((3, self.tokens), "int32"),
            "sequence_ends": ((self.sequences + 1,), "int32"),
            "image_index": ((self.patches // 4,), "int32"),
            "target_index": ((self.targets,), "int32"),
            "target": ((self.targets,), "int32"),
            "weight": ((self.targets,), "float32"),
            "target_sample": ((self.targets,), "int32"),
            "num_samples": ((1,), "int32"),
        }


Arrays = dict[str, NDArray]


def pack(draw: Callable[[random.Random], Encoded], capacity: Capacity, rng: random.Random, arrays: Arrays) -> None:
    """Fill `arrays` (see `Capacity.layout`) with samples from `draw` until the next one does not fit, then with padding."""
    filler = _Filler(capacity, arrays)
    while filler.add(draw(rng)):
        pass
    filler.finish()


def pack_all(items: Sequence[Encoded], capacity: Capacity, arrays: Arrays) -> None:
    """Fill `arrays` with these samples, then with padding.

    Raises:
        ValueError: they do not fit.
    """
    filler = _Filler(capacity, arrays)
    for number, item in enumerate(items):
        if not filler.add(item):
            raise ValueError(f"expected room for {len(items)} samples, it ends after {number}; raise the capacity")
    filler.finish()


class _Filler:
    def __init__(self, capacity: Capacity, arrays: Arrays) -> None:
        self.capacity, self.arrays = capacity, arrays
        self.patches = self.tokens = self.images = self.sequences = self.targets = self.samples = 0
        self.index_end = 0
        for name in ("patch_classes", "target_index", "target", "weight", "target_sample"):
            arrays[name][...] = 0
        arrays["image_ends"][0] = arrays["sequence_ends"][0] = 0

    def add(self, item: Encoded) -> bool:
        """Append a sample; False and nothing done if there is no room for it."""
        capacity = self.capacity
        num_patches = sum(len(patches) for patches in item.patches)
        targets = np.flatnonzero(item.weights)
        rest = capacity.patches - self.patches - num_patches
        spare_segments = rest // _PAD_IMAGE + 2
        if (
            rest < 0
            or self.tokens + len(item.tokens) + rest // 4 > capacity.tokens
            or self.images + len(item.patches) + spare_segments > capacity.images
            or self.sequences + 1 + capacity.tokens // _PAD_TEXT + spare_segments > capacity.sequences
            or self.targets + len(targets) > capacity.targets
        ):
            return False
        for patches, grid, classes in zip(item.patches, item.grids, item.patch_classes, strict=True):
            self._image(patches, grid, classes)
        start, end = self.targets, self.targets + len(targets)
        self.arrays["target_index"][start:end] = self.tokens + targets - 1
        self.arrays["target"][start:end] = item.tokens[targets]
        self.arrays["weight"][start:end] = item.weights[targets]
        self.arrays["target_sample"][start:end] = self.samples
        self.targets = end
        self._sequence(item.tokens, item.positions)
        self.samples += 1
        return True

    def finish(self) -> None:
        """Pad patches and tokens to the full size with segments of their own that nothing is asked about."""
        while self.patches < self.capacity.patches:
            size = min(_PAD_IMAGE, self.capacity.patches - self.patches)
            self._image(np.zeros((size, 588), np.uint8), (2, size // 2), np.zeros((size, 4), np.int16))
            tokens = np.full(size // 4, IMAGE_ID, np.int32)
            self._sequence(tokens, mrope_positions(tokens, ((2, size // 2),)))
        while self.tokens < self.capacity.tokens:
            size = min(_PAD_TEXT, self.capacity.tokens - self.tokens)
            tokens = np.full(size, PAD_ID, np.int32)
            self._sequence(tokens, mrope_positions(tokens, ()))
        self.arrays["image_ends"][self.images + 1 :] = self.patches
        self.arrays["sequence_ends"][self.sequences + 1 :] = self.tokens
        self.arrays["num_samples"][0] = self.samples

    def _image(self, patches: NDArray[np.uint8], grid: tuple[int, int], classes: NDArray[np.int16]) -> None:
        start, end = self.patches, self.patches + len(patches)
        rows, columns = grid
        places = np.stack(np.meshgrid(np.arange(rows), np.arange(columns), indexing="ij"), axis=-1)
        blocks = places.reshape(rows // 2, 2, columns // 2, 2, 2).transpose(0, 2, 1, 3, 4)
        self.arrays["pixels"][start:end] = patches
        self.arrays["patch_positions"][start:end] = blocks.reshape(-1, 2)
        self.arrays["patch_classes"][start:end] = classes
        self.patches = end
        self.images += 1
        self.arrays["image_ends"][self.images] = end

    def _sequence(self, tokens: NDArray[np.int32], positions: NDArray[np.int32]) -> None:
        start, end = self.tokens, self.tokens + len(tokens)
        self.arrays["tokens"][start:end] = tokens
        self.arrays["positions"][:, start:end] = positions
        images = start + np.flatnonzero(tokens == IMAGE_ID)
        self.arrays["image_index"][self.index_end : self.index_end + len(images)] = images
        self.index_end += len(images)
        self.tokens = end
        self.sequences += 1
        self.arrays["sequence_ends"][self.sequences] = end
