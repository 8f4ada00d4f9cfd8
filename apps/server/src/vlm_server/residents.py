"""Models in memory: loaded on demand off the event loop within a budget, drained before they go, back where a swap fails."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import vlm_runtime
from vlm_models import named_parameters
from vlm_runtime import AsyncEngine, ModelName, ModelPool, resolve_checkpoint
from vlm_runtime.errors import CapacityError
from vlm_runtime.pool import Lease, safetensors_bytes
from vlm_runtime.scheduler import Limits

from .errors import ApiError
from .settings import Settings

# the engine's own limit, asked before anything is fetched or decoded: what waits for that is bounded too
MOST_REQUESTS = Limits().max_running + Limits().max_waiting
# models that are loaded or unloaded at the same time; the pool's budget may let fewer
LOADERS = 8


@dataclass(eq=False)
class Resident:
    """One loaded model. longest_token: characters of its longest token. in_use: requests it is answering."""

    key: ModelName
    model: Any
    processor: Any
    engine: AsyncEngine
    longest_token: int
    created: int = field(default_factory=lambda: int(time.time()))
    in_use: int = 0

    @property
    def name(self) -> str:
        return self.key.name


class Use:
    """A model and one request's claim on it: it stays in memory until `leave`."""

    def __init__(self, resident: Resident, release: Callable[[], None]) -> None:
        self.resident, self._release = resident, release
        self._is_over = False
        resident.in_use += 1

    def leave(self) -> None:
        """The request is over; a second call does nothing."""
        if not self._is_over:
            self._is_over = True
            self.resident.in_use -= 1
            self._release()


class Residents:
    """Loads, holds and unloads models by the runtime's pool. Used from the event loop alone."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.pool = ModelPool(
            self._load,
            size_of=self._size_of,
            unloader=self._unload,
            measure=lambda model: sum(value.nbytes for _, value in named_parameters(model)),
            max_bytes=settings.max_resident_bytes,
            ttl=settings.model_ttl,
            patience=settings.drain_seconds,
        )
        for name in settings.pinned:
            self.pool.pin(self._key(name, None))
        self._known: dict[int, Resident] = {}  # by id of the processor, from its load to its unloading
        self._waiting: dict[ModelName, list[asyncio.Future[Lease]]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._threads = ThreadPoolExecutor(LOADERS, "vlm-load")

    @property
    def all(self) -> list[Resident]:
        """Models that answer now, most recently used first."""
        by_key = {resident.key: resident for resident in self._known.values()}
        return [by_key[held.name] for held in self.pool.residents() if held.state == "ready" and held.name in by_key]

    def num_bytes(self, resident: Resident) -> int:
        """Of its weights."""
        return sum(held.num_bytes for held in self.pool.residents() if held.name == resident.key)

    async def acquire(self, name: str | None, adapter_path: str | None = None) -> Use:
        """The model of that name, loaded if need be, for one request.

        Raises ApiError where there is no room or too many requests are under way, and what loading raises."""
        name = name or self.settings.model
        if name is None:
            raise ApiError(400, "model: expected a model's name; the server was started without one", param="model")
        key = self._key(name, adapter_path)
        lease = self.pool.try_acquire(key) or await self._wait_for(key)
        resident = self._known[id(lease.processor)]
        if resident.in_use >= MOST_REQUESTS:
            lease.release()
            raise _busy(resident.in_use)
        return Use(resident, lease.release)

    def preload(self) -> None:
        """Load the settings' model on this thread, before the event loop runs. Raises what loading raises."""
        if self.settings.model is not None:
            self.pool.acquire(self._key(self.settings.model, None)).release()

    async def unload(self, name: str | None) -> list[str]:
        """Drain and unload one model, or all. Raises ApiError where it is not resident, or still in use."""
        held = [held.name for held in self.pool.residents() if name is None or held.name.name == name]
        if name is not None and not held:
            raise ApiError(404, f"model: {name} is not resident", param="model", code="model_not_found")
        loop = asyncio.get_running_loop()
        work = (loop.run_in_executor(self._threads, self.pool.unload, key) for key in held)
        results = await asyncio.gather(*work, return_exceptions=True)
        for result in results:
            if isinstance(result, CapacityError):
                raise ApiError(503, f"model: {result}", param="model", code="in_use")
            if isinstance(result, BaseException):
                raise result
        return [key.name for key in held]

    async def sweep(self) -> None:
        """Unload what nobody has used for the time that the settings give, again and again; ends by being cancelled."""
        ttl = self.settings.model_ttl
        while ttl is not None:
            await asyncio.sleep(min(max(ttl / 4, 0.05), 30.0))
            await asyncio.get_running_loop().run_in_executor(self._threads, self.pool.sweep)

    async def close(self) -> None:
        """End everything, answers under way too."""
        for task in self._tasks:
            task.cancel()
        for resident in list(self._known.values()):
            await asyncio.to_thread(self._unload, resident.processor)
        self._threads.shutdown(wait=False, cancel_futures=True)

    # loading ---------------------------------------------------------------------------------------------------------

    async def _wait_for(self, key: ModelName) -> Lease:
        """Load a model once for all who ask meanwhile."""
        waiting = self._waiting.get(key)
        if waiting is None:
            waiting = self._waiting[key] = []
            task = asyncio.create_task(self._bring_in(key))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        if len(waiting) >= MOST_REQUESTS:
            raise _busy(len(waiting))
        future: asyncio.Future[Lease] = asyncio.get_running_loop().create_future()
        waiting.append(future)
        try:
            return await future
        except asyncio.CancelledError:
            if future.done() and not future.cancelled() and future.exception() is None:
                future.result().release()  # it came as the asker left
            raise

    async def _bring_in(self, key: ModelName) -> None:
        try:
            lease = await asyncio.get_running_loop().run_in_executor(self._threads, self.pool.acquire, key)
        except CapacityError as error:
            self._tell(key, ApiError(503, f"model: {error}", param="model", code="capacity"))
        except Exception as error:  # noqa: BLE001 - raised where the model was asked for
            self._tell(key, error)
        except asyncio.CancelledError:
            self._tell(key, ApiError(503, "model: the server is shutting down", param="model", code="shutdown"))
            raise
        else:
            for future in self._waiting.pop(key):
                if not future.done():
                    future.set_result(lease.share())
            lease.release()

    def _tell(self, key: ModelName, error: Exception) -> None:
        for future in self._waiting.pop(key):
            if not future.done():
                future.set_exception(error)

    def _key(self, name: str, adapter_path: str | None) -> ModelName:
        adapter = adapter_path or (self.settings.adapter_path if name == self.settings.model else None)
        return ModelName(name, None, adapter)

    # on the pool's threads -------------------------------------------------------------------------------------------

    @property
    def _offline(self) -> bool | None:
        return None if self.settings.downloads else True

    def _size_of(self, key: ModelName) -> int:
        return safetensors_bytes(resolve_checkpoint(key.name, offline=self._offline))

    def _load(self, key: ModelName) -> tuple[Any, Any]:
        model, processor = vlm_runtime.load(
            key.name,
            key.adapter_path,
            trust_remote_code=self.settings.trust_remote_code,
            offline=self._offline,
        )
        longest = max(map(len, processor.tokenizer.backend.get_vocab(with_added_tokens=True)), default=1)
        engine = AsyncEngine(model, processor, **self.settings.options)
        self._known[id(processor)] = Resident(key, model, processor, engine, longest)
        return model, processor

    def _unload(self, processor: Any) -> None:
        self._known.pop(id(processor), None)
        vlm_runtime.unload(processor)


def _busy(count: int) -> ApiError:
    return ApiError(429, f"{count} requests are under way, the limit; try again later", code="capacity")
