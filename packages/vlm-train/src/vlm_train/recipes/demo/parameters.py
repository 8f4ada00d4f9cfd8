"""Trees of parameters as named arrays and back."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, cast

import mlx.core as mx
from mlx.utils import tree_flatten, tree_unflatten


def named(tree: Any) -> list[tuple[str, mx.array]]:
    """Every array of a tree with its dotted name."""
    return cast(list[tuple[str, mx.array]], tree_flatten(tree))


def tree_of(arrays: Iterable[tuple[str, mx.array]]) -> Any:
    """The tree that `named` would flatten into `arrays`."""
    return tree_unflatten(list(arrays))


def added(first: Any, second: Any) -> Any:
    """The sum of two trees of the same shape."""
    other = dict(named(second))
    return tree_of((name, value + other[name]) for name, value in named(first))


def cast_to(tree: Any, dtype: mx.Dtype) -> Any:
    """The tree's arrays in another type."""
    return tree_of((name, value.astype(dtype)) for name, value in named(tree))
