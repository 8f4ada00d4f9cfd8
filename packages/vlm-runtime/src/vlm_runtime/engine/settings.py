"""What an engine is told, and what it tells of itself."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from ..cache import CacheOptions, CacheStats
from ..scheduler import Limits
from .speculation import Drafter


@dataclass(frozen=True)
class EngineOptions:
    """limits: of the scheduler. cache: form of the caches. prefix_bytes: budget of caches kept for later prompts; 0 keeps none.
    max_context: most tokens of prompt and answer; None: no limit. drafter: makes the engine's drafter, on its thread; None: no
    speculation. runs_ahead: queue a step before the last one's tokens are read; None: on a GPU, while the caches are small.
    compiles: trace decoding into graphs; None: on a GPU."""

    limits: Limits = field(default_factory=Limits)
    cache: CacheOptions = field(default_factory=CacheOptions)
    prefix_bytes: int = 1 << 30
    max_context: int | None = None
    drafter: Callable[[], Drafter] | None = None
    runs_ahead: bool | None = None
    compiles: bool | None = None


@dataclass(frozen=True)
class EngineLoad:
    """Requests that wait and that run, and the cache of earlier prompts."""

    waiting: int = 0
    running: int = 0
    prefix: CacheStats = field(default_factory=lambda: CacheStats(0, 0, 0, 0, 0))


@dataclass(frozen=True)
class EngineStats:
    """What the engine holds now, and what its caches did. drafted, accepted: tokens guessed, and those that were right.
    cache_bytes: of all rows, room for tokens to come included. bytes_per_token: that one more token takes in the layers that keep
    every token, norms and scales included; plain_bytes_per_token: that it would take unquantized."""

    waiting: int
    running: int
    cache_bytes: int
    prefix: CacheStats
    vision: CacheStats
    drafted: int = 0
    accepted: int = 0
    bytes_per_token: float = 0.0
    plain_bytes_per_token: float = 0.0

    @property
    def cache_ratio(self) -> float | None:
        """Bytes of a token to those of an unquantized one; None where no layer keeps every token."""
        return self.bytes_per_token / self.plain_bytes_per_token if self.plain_bytes_per_token else None
