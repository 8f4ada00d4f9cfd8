"""A head that a checkpoint stores beside the table it is tied to."""

from __future__ import annotations

import mlx.core as mx
import pytest

from vlm_models.core.weights import DropCopy
from vlm_models.errors import WeightError

RULE = DropCopy("head", "table")


def test_a_copy_falls_away() -> None:
    table = mx.arange(6).reshape(2, 3)
    assert set(RULE.apply({"head.weight": table + 0, "table.weight": table}, {}, False)) == {"table.weight"}
    assert set(RULE.apply({"table.weight": table}, {}, False)) == {"table.weight"}


def test_a_head_of_its_own_is_an_error() -> None:
    table = mx.arange(6).reshape(2, 3)
    for other in (table + 1, table[:1]):
        with pytest.raises(WeightError, match="tie_word_embeddings"):
            RULE.apply({"head.weight": other, "table.weight": table}, {}, False)
