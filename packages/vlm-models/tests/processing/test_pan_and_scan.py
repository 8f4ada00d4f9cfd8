"""Crops of long pictures, as Gemma 3's reference cuts them."""

from __future__ import annotations

import numpy as np
import pytest

from vlm_models import ProcessingError
from vlm_models.processing.gemma import PanAndScan


@pytest.mark.parametrize(
    ("height", "width", "crops"),
    [
        (300, 359, []),
        (255, 640, []),
        (300, 360, []),
        (256, 640, [(256, 320)] * 2),
        (300, 750, [(300, 375)] * 2),
        (641, 257, [(321, 257), (320, 257)]),
        (1000, 300, [(334, 300), (334, 300), (332, 300)]),
        (800, 2800, [(800, 700)] * 4),
        (4000, 256, [(1000, 256)] * 4),
    ],
)
def test_crops_are_those_of_the_reference(height: int, width: int, crops: list[tuple[int, int]]) -> None:
    picture = np.arange(height * width * 3, dtype=np.uint32).reshape(height, width, 3).astype(np.uint8)
    cut = PanAndScan().crops(picture)
    assert [part.shape[:2] for part in cut] == crops
    if cut:
        assert np.array_equal(np.concatenate(cut, axis=1 if width >= height else 0), picture)


def test_it_is_off_unless_asked_for() -> None:
    assert PanAndScan.from_files({}) is None
    assert PanAndScan.from_files({"do_pan_and_scan": None}) is None
    assert PanAndScan.from_files({"do_pan_and_scan": True, "pan_and_scan_max_num_crops": 3}) == PanAndScan(most=3)
    with pytest.raises(ProcessingError, match="positive"):
        PanAndScan.from_files({"do_pan_and_scan": True, "pan_and_scan_min_crop_size": 0})
