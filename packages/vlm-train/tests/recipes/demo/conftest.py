from __future__ import annotations

import pytest

from vlm_train.recipes.demo import fonts


@pytest.fixture(scope="session")
def faces() -> tuple[str, ...]:
    """Pillow's own face: the only one every machine has."""
    return (fonts.PILLOW,)
