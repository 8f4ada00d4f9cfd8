"""All layers' caches of a batch as one thing: rows join, leave, and are taken out whole."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Protocol, Self

import mlx.core as mx


class LayerCache(Protocol):
    """What the runtime asks of a layer's cache, beside what the layer itself may call."""

    extent: int

    def reserve(self, batch: int, length: int) -> None:
        """Make room for so many rows and tokens; what is stored stays."""

    def join(self, row: int, single: Self, length: int) -> None:
        """Copy the first `length` tokens of a cache of one row into a row."""

    def keep_rows(self, rows: list[int]) -> None:
        """Keep only these rows, in this order."""

    def extract(self, row: int, length: int) -> Self:
        """A cache of one row with the first `length` tokens of a row."""

    def copy(self) -> Self:
        """A cache with the same content that changes on its own; arrays are copied only once one of them writes."""

    def can_trim(self, length: int, to: int) -> bool:
        """Whether a row of `length` tokens can be taken back to `to`."""

    def trim(self, to: int) -> None:
        """Forget tokens from index `to` on."""

    def settle(self) -> None:
        """A model call is over."""

    def arrays(self) -> list[mx.array]: ...

    def load(self, arrays: list[mx.array]) -> None:
        """Put back arrays in the order of `arrays()`."""

    @property
    def nbytes(self) -> int: ...


Entry = LayerCache | Mapping[str, LayerCache]


class CacheSet:
    """The caches of all layers. `layers` is what the model gets: one entry per layer, shared ones repeated."""

    def __init__(self, layers: Sequence[Entry]) -> None:
        self.layers = list(layers)
        self.leaves = list(_leaves(self.layers))

    def reserve(self, batch: int, length: int) -> None:
        for leaf in self.leaves:
            leaf.reserve(batch, length)

    def set_extent(self, length: int) -> None:
        """Rows at different lengths look at so many tokens; at least the longest row's after the coming call."""
        for leaf in self.leaves:
            leaf.extent = length

    def join(self, row: int, single: CacheSet, length: int) -> None:
        for leaf, source in zip(self.leaves, single.leaves, strict=True):
            leaf.join(row, source, length)

    def keep_rows(self, rows: list[int]) -> None:
        for leaf in self.leaves:
            leaf.keep_rows(rows)

    def extract(self, row: int, length: int) -> CacheSet:
        return self._map({id(leaf): leaf.extract(row, length) for leaf in self.leaves})

    def copy(self) -> CacheSet:
        return self._map({id(leaf): leaf.copy() for leaf in self.leaves})

    def can_trim(self, length: int, to: int) -> bool:
        return all(leaf.can_trim(length, to) for leaf in self.leaves)

    def trim(self, to: int) -> None:
        for leaf in self.leaves:
            leaf.trim(to)

    def settle(self) -> None:
        for leaf in self.leaves:
            leaf.settle()

    def arrays(self) -> list[mx.array]:
        return [array for leaf in self.leaves for array in leaf.arrays()]

    def load(self, arrays: Sequence[mx.array]) -> None:
        """Put back arrays in the order of `arrays()`."""
        at = 0
        for leaf in self.leaves:
            count = len(leaf.arrays())
            leaf.load(list(arrays[at : at + count]))
            at += count

    @property
    def nbytes(self) -> int:
        return sum(leaf.nbytes for leaf in self.leaves)

    def _map(self, new: Mapping[int, LayerCache]) -> CacheSet:
        return CacheSet(
            [
                {name: new[id(part)] for name, part in layer.items()} if isinstance(layer, Mapping) else new[id(layer)]
                for layer in self.layers
            ]
        )


def _leaves(layers: Sequence[Entry]) -> Iterator[LayerCache]:
    seen: set[int] = set()
    for layer in layers:
        for leaf in layer.values() if isinstance(layer, Mapping) else (layer,):
            if id(leaf) not in seen:
                seen.add(id(leaf))
                yield leaf
