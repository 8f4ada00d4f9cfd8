"""Models in memory: loaded on demand off the event loop, drained before they go."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field
from typing import Any

import vlm_runtime
from vlm_models import named_parameters
from vlm_runtime import AsyncEngine
from vlm_runtime.scheduler import Limits

from .errors import ApiError
from .settings import Settings

# the engine's own limit, asked before anything is fetched or decoded: what waits for that is bounded too
MOST_REQUESTS = Limits().max_running + Limits().max_waiting


@dataclass(eq=False)
class Resident:
    """One loaded model. num_bytes: of its weights. used: when a request last asked for it."""

    name: str
    model: Any
    processor: Any
    engine: AsyncEngine
    num_bytes: int
    created: int = field(default_factory=lambda: int(time.time()))
    used: float = field(default_factory=time.monotonic)
    in_use: int = 0
    is_leaving: bool = False
    longest_token: int = 1

    def enter(self) -> None:
        """A request begins; the model stays until it `leave`s. Raises ApiError where it is leaving, or too busy."""
        if self.is_leaving:
            raise ApiError(503, f"model: {self.name} is being unloaded; try again", param="model", code="unloading")
        if self.in_use >= MOST_REQUESTS:
            raise ApiError(429, f"{self.in_use} requests are under way, the limit; try again later", code="capacity")
        self.in_use += 1
        self.used = time.monotonic()

    def leave(self) -> None:
        """A request is over."""
        self.in_use -= 1


class Residents:
    """Loads, holds and unloads models. Used from the event loop alone."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._by_name: dict[tuple[str, str | None], Resident] = {}
        self._lock = asyncio.Lock()

    @property
    def all(self) -> list[Resident]:
        return sorted(self._by_name.values(), key=lambda resident: -resident.used)

    async def get(self, name: str | None, adapter_path: str | None = None) -> Resident:
        """The model of that name, loaded if need be. Raises ApiError, and what loading raises."""
        name = name or self.settings.model
        if name is None:
            raise ApiError(400, "model: expected a model's name; the server was started without one", param="model")
        adapter = adapter_path or (self.settings.adapter_path if name == self.settings.model else None)
        key = (name, adapter)
        resident = self._by_name.get(key)
        if resident is not None and not resident.is_leaving:
            return resident
        async with self._lock:
            resident = self._by_name.get(key)
            if resident is None or resident.is_leaving:
                resident = await asyncio.to_thread(self._load, name, adapter)
                await self._make_room(resident)
                self._by_name[key] = resident
        return resident

    def _load(self, name: str, adapter: str | None) -> Resident:
        model, processor = vlm_runtime.load(
            name,
            adapter,
            trust_remote_code=self.settings.trust_remote_code,
            offline=None if self.settings.downloads else True,
        )
        size = sum(value.nbytes for _, value in named_parameters(model))
        longest = max(map(len, processor.tokenizer.backend.get_vocab(with_added_tokens=True)), default=1)
        engine = AsyncEngine(model, processor, **self.settings.options)
        return Resident(name, model, processor, engine, size, longest_token=longest)

    async def _make_room(self, coming: Resident) -> None:
        """Unload idle models, least recently used first, until the newcomer fits. Raises ApiError where it cannot."""
        limit = self.settings.max_resident_bytes
        if limit is None:
            return
        if coming.num_bytes > limit:
            raise ApiError(
                503, f"model: {coming.name} has {coming.num_bytes} bytes, the limit is {limit}", param="model"
            )
        while sum(resident.num_bytes for resident in self._by_name.values()) + coming.num_bytes > limit:
            idle = [resident for resident in self.all if not resident.in_use]
            if not idle:
                raise ApiError(503, "model: no room for another model while the others are busy", param="model")
            await self._drop(idle[-1])

    async def unload(self, name: str | None) -> list[str]:
        """Drain and unload one model, or all. Raises ApiError where it is not resident."""
        leaving = [resident for resident in self.all if name is None or resident.name == name]
        if name is not None and not leaving:
            raise ApiError(404, f"model: {name} is not resident", param="model", code="model_not_found")
        for resident in leaving:
            await self._drop(resident)
        return [resident.name for resident in leaving]

    async def _drop(self, resident: Resident) -> None:
        resident.is_leaving = True
        deadline = time.monotonic() + self.settings.drain_seconds
        while resident.in_use and time.monotonic() < deadline:
            await asyncio.sleep(0.02)
        self._by_name = {key: kept for key, kept in self._by_name.items() if kept is not resident}
        await asyncio.to_thread(vlm_runtime.unload, resident.processor)

    async def close(self) -> None:
        """Unload everything."""
        await self.unload(None)
