"""Encoded media, kept by content: later turns about the same picture skip its encoder."""

from __future__ import annotations

import threading
from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..errors import OptionError

if TYPE_CHECKING:
    from vlm_models import Features


@dataclass(frozen=True)
class CacheStats:
    """What a cache holds and did. hits, misses: look-ups; evictions: entries dropped for room."""

    entries: int
    bytes: int
    hits: int
    misses: int
    evictions: int


class VisionFeatureCache:
    """Features by content digest, least recently used out first. Safe to share between threads and models.

    Args:
        max_entries: most items kept; 0 keeps none.
        max_bytes: most bytes kept; an item larger than this is not kept.
    """

    def __init__(self, max_entries: int = 8, max_bytes: int = 1 << 30) -> None:
        for name, value in (("max_entries", max_entries), ("max_bytes", max_bytes)):
            if isinstance(value, bool) or not isinstance(value, int) or value < 0:
                raise OptionError(f"{name}: expected a whole number of at least 0, got {value!r}")
        self.max_entries, self.max_bytes = max_entries, max_bytes
        self._entries: OrderedDict[tuple[str, str], Features] = OrderedDict()
        self._bytes = self._hits = self._misses = self._evictions = 0
        self._lock = threading.Lock()

    def get(self, model_key: str, digest: str) -> Features | None:
        """Features of the medium with this digest, as this model encodes it."""
        with self._lock:
            found = self._entries.get((model_key, digest))
            if found is None:
                self._misses += 1
                return None
            self._hits += 1
            self._entries.move_to_end((model_key, digest))
            return found

    def put(self, model_key: str, digest: str, features: Features) -> None:
        """Keep features; their arrays must be evaluated already."""
        size = features.num_bytes
        with self._lock:
            self._drop((model_key, digest))
            if size > self.max_bytes or self.max_entries == 0:
                return
            self._entries[model_key, digest] = features
            self._bytes += size
            while len(self._entries) > self.max_entries or self._bytes > self.max_bytes:
                self._drop(next(iter(self._entries)))
                self._evictions += 1

    def clear(self, model_key: str | None = None) -> None:
        """Forget everything, or what belongs to one model."""
        with self._lock:
            for key in [k for k in self._entries if model_key is None or k[0] == model_key]:
                self._drop(key)

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, digest: str) -> bool:
        with self._lock:
            return any(key[1] == digest for key in self._entries)

    @property
    def stats(self) -> CacheStats:
        with self._lock:
            return CacheStats(len(self._entries), self._bytes, self._hits, self._misses, self._evictions)

    def _drop(self, key: tuple[str, str]) -> None:
        features = self._entries.pop(key, None)
        if features is not None:
            self._bytes -= features.num_bytes
