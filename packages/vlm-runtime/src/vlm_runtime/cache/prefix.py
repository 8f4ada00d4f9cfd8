"""Caches of earlier prompts, found by the tokens *and* media they begin with.

      stored   A A A A <img 1> B B B        entry: keys of all tokens, the caches of all layers
      asked    A A A A <img 1> B C          match: up to and with the first B, if the caches can be taken back so far
      asked    A A A A <img 2> B B          match: before the picture

A token that takes a feature row is keyed by its medium's digest and the row, never by its placeholder's id.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import mlx.core as mx
import numpy as np

from .features import CacheStats
from .rows import CacheSet

if TYPE_CHECKING:
    from vlm_models import Prompt


def prefix_keys(prompt: Prompt, generated: Sequence[int] = ()) -> np.ndarray:
    """int64 [length]: what each token of a prompt and its answer is, media by content."""
    keys = np.concatenate([prompt.tokens, np.asarray(generated, np.int32)]).astype(np.int64)
    for span in prompt.spans:
        digest = prompt.items[span.item].digest
        # negative, so that no token id is ever mistaken for a feature row
        seed = int.from_bytes(hashlib.blake2b(digest.encode(), digest_size=8).digest(), "little") >> 2
        rows = np.arange(span.offset, span.offset + span.length, dtype=np.int64)
        keys[span.start : span.stop] = -1 - ((seed + rows * 0x9E3779B1) & ((1 << 62) - 1))
    return keys


def can_reuse(prompt: Prompt) -> bool:
    """Whether a prompt's caches depend on nothing but its keys: every medium has a digest, and there is no context."""
    return prompt.context is None and all(item.digest for item in prompt.items)


@dataclass(eq=False)
class Match:
    """length: tokens found. caches: of one row, to be copied before use."""

    length: int
    caches: CacheSet


@dataclass(eq=False)
class _Entry:
    branch: str | None
    keys: np.ndarray
    caches: CacheSet
    num_bytes: int
    used: int


class PrefixIndex:
    """Entries by what they begin with; least recently used out first, within a budget of bytes.

    Used by the engine's thread alone. An entry that a longer one can serve is dropped for it.
    """

    def __init__(self, max_bytes: int, max_entries: int = 256) -> None:
        self.max_bytes, self.max_entries = max_bytes, max_entries
        self._entries: list[_Entry] = []
        self._clock = self._hits = self._misses = self._evictions = 0

    def match(self, branch: str | None, keys: np.ndarray, blocks: Sequence[tuple[int, int]]) -> Match | None:
        """The entry that serves the longest prefix of `keys`, cut where no block is split; at least one token is left over.

        branch: the adapter branch the tokens run through."""
        best: tuple[int, _Entry] | None = None
        for entry in self._entries:
            length = self._usable(entry, branch, keys, blocks)
            if length > 0 and (best is None or length > best[0]):
                best = length, entry
        if best is None:
            self._misses += 1
            return None
        self._hits += 1
        length, entry = best
        entry.used = self._tick()
        return Match(length, entry.caches)

    def insert(self, branch: str | None, keys: np.ndarray, caches: CacheSet) -> None:
        """Keep the caches of one row that hold exactly the tokens `keys`. The index owns them from now on."""
        size = caches.nbytes
        if size > self.max_bytes or len(keys) == 0:
            return
        for entry in list(self._entries):
            if entry.branch != branch:
                continue
            common = _common(entry.keys, keys)
            if common == len(keys) and entry.caches.can_trim(len(entry.keys), common):
                entry.used = self._tick()
                return
            if common == len(entry.keys) and caches.can_trim(len(keys), common):
                self._entries.remove(entry)
        mx.eval(caches.arrays())  # what waits to be copied would keep the whole batch alive
        self._entries.append(_Entry(branch, keys, caches, size, self._tick()))
        while self.num_bytes > self.max_bytes or len(self._entries) > self.max_entries:
            self._entries.remove(min(self._entries, key=lambda e: e.used))
            self._evictions += 1

    def clear(self) -> None:
        self._entries.clear()

    @property
    def num_bytes(self) -> int:
        return sum(entry.num_bytes for entry in list(self._entries))  # a copy: other threads ask too

    @property
    def stats(self) -> CacheStats:
        return CacheStats(len(self._entries), self.num_bytes, self._hits, self._misses, self._evictions)

    def _usable(self, entry: _Entry, branch: str | None, keys: np.ndarray, blocks: Sequence[tuple[int, int]]) -> int:
        if entry.branch != branch:
            return 0
        length = min(_common(entry.keys, keys), len(keys) - 1)
        for start, stop in blocks:
            if start < length < stop:
                length = start
                break
        return length if entry.caches.can_trim(len(entry.keys), length) else 0

    def _tick(self) -> int:
        self._clock += 1
        return self._clock


def _common(a: np.ndarray, b: np.ndarray) -> int:
    """Length of the common prefix."""
    length = min(len(a), len(b))
    differing = np.flatnonzero(a[:length] != b[:length])
    return int(differing[0]) if len(differing) else length
