"""Windows of Qwen2.5-VL's tower."""

from __future__ import annotations

import numpy as np
import pytest

from vlm_models.towers.qwen25_vit import window_order


@pytest.mark.parametrize(
    ("height", "width", "side"), [(1, 1, 4), (4, 4, 4), (9, 6, 4), (3, 17, 4), (8, 8, 1), (5, 5, 9)]
)
def test_each_window_is_a_rectangle_and_each_cell_stands_once(height: int, width: int, side: int) -> None:
    order, counts = window_order(height, width, side)
    assert sorted(order.tolist()) == list(range(height * width)) and sum(counts) == height * width
    assert list(counts) == sorted(counts, reverse=True)
    seen = set()
    for cells in np.split(order, np.cumsum(counts)[:-1]):
        rows, columns = np.divmod(cells, width)
        corner = (rows[0] // side, columns[0] // side)
        assert set(zip((rows // side).tolist(), (columns // side).tolist(), strict=True)) == {corner}
        assert np.array_equal(cells, np.sort(cells))
        seen.add(corner)
    assert len(seen) == -(-height // side) * -(-width // side) == len(counts)
