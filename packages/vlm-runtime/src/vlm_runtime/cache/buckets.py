"""Sizes that grow by about a quarter, so that arrays of few shapes serve every length. Integers only."""

from __future__ import annotations

from functools import lru_cache

TOKEN_STEP = 64
# a quarter of a very long row would be memory that nobody uses
LARGEST_STEP = 4096


@lru_cache(maxsize=4096)
def capacity_bucket(length: int) -> int:
    """Tokens to make room for: the smallest step >= `length` of a ladder of multiples of 64 that grows by a quarter, by
    4096 at most."""
    size = TOKEN_STEP
    while size < length:
        step = min(max(TOKEN_STEP, size // 4), LARGEST_STEP)
        size += -(-step // TOKEN_STEP) * TOKEN_STEP
    return size


@lru_cache(maxsize=1024)
def batch_bucket(rows: int) -> int:
    """Rows to make room for: 1, 2, 3, 4, 5, 7, 9, 12, 15, 19, 24, ..."""
    size = 1
    while size < rows:
        size = max(size + 1, -(-size * 5 // 4))
    return size
