"""Shapes of arrays that come from a reference's processor, checked before items are cut from them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from ..errors import ProcessingError


def check_shapes(arrays: Mapping[str, np.ndarray], shapes: Mapping[str, Sequence[int | None]]) -> None:
    """shapes: sizes of each axis by the array's name, None for any size; names that `arrays` lacks are passed over. Raises
    ProcessingError."""
    for name, sizes in shapes.items():
        if name not in arrays:
            continue
        found = arrays[name].shape
        if len(found) != len(sizes) or any(size not in (None, own) for size, own in zip(sizes, found, strict=True)):
            wanted = ", ".join("any" if size is None else str(size) for size in sizes)
            raise ProcessingError(f"{name} must be [{wanted}], found {list(found)}")
