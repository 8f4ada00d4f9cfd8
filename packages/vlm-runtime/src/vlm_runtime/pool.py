"""Several models resident under a memory budget: loaded on demand, drained before they go, back if a swap fails.

Knows names, sizes and leases. Does not know requests. Loading blocks the calling thread; call it off the event loop.

    absent --acquire--> loading --> ready <--lease/release--> ready --no room, ttl, unload--> draining --> absent
"""

from __future__ import annotations

import gc
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from .errors import CapacityError, LoadError

State = Literal["loading", "ready", "draining"]
Loader = Callable[["ModelName"], tuple[Any, Any]]


@dataclass(frozen=True)
class ModelName:
    """What identifies a loaded model: its name, revision and adapter."""

    name: str
    revision: str | None = None
    adapter_path: str | None = None

    def __str__(self) -> str:
        return self.name if self.adapter_path is None else f"{self.name} + {self.adapter_path}"


@dataclass(frozen=True)
class Resident:
    """A model in memory. leases: how many use it now. idle: seconds since the last one."""

    name: ModelName
    state: State
    num_bytes: int
    leases: int
    is_pinned: bool
    idle: float


@dataclass(eq=False)
class _Entry:
    name: ModelName
    state: State = "loading"
    model: Any = None
    processor: Any = None
    num_bytes: int = 0
    leases: int = 0
    used: float = 0.0


@dataclass(frozen=True)
class Lease:
    """A model that stays loaded until `release`."""

    model: Any
    processor: Any
    _release: Callable[[], None] = field(repr=False)
    _share: Callable[[], Lease] = field(repr=False)

    def release(self) -> None:
        self._release()

    def share(self) -> Lease:
        """Another lease, while this one is held; given even where the model is draining."""
        return self._share()


class ModelPool:
    """Models by name, at most `max_bytes` of weights at a time, least recently used out first.

    Args:
        loader: loads a model and its processor.
        size_of: bytes of a model's weights before it is loaded.
        unloader: ends what a processor's model still serves.
        measure: bytes of a loaded model, where files tell less than memory; None: what `size_of` said.
        max_bytes: budget; None: no limit.
        ttl: seconds after which an unused model may go at the next `sweep`; None: never.
        patience: seconds that a load waits for models in use to become free.
        clock: seconds.
    """

    def __init__(
        self,
        loader: Loader | None = None,
        *,
        size_of: Callable[[ModelName], int] | None = None,
        unloader: Callable[[Any], None] | None = None,
        measure: Callable[[Any], int] | None = None,
        max_bytes: int | None = None,
        ttl: float | None = None,
        patience: float = 600.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._loader, self._size_of = loader or _load, size_of or weight_bytes
        self._unloader, self._measure = unloader or _unload, measure
        self.max_bytes, self.ttl, self.patience = max_bytes, ttl, patience
        self._clock = clock
        self._entries: dict[ModelName, _Entry] = {}
        self._pinned: set[ModelName] = set()
        self._changed = threading.Condition()
        # under a budget one model comes in at a time: two that made room at once would wait for each other
        self._turn = threading.Lock()

    @contextmanager
    def use(self, name: ModelName) -> Iterator[Lease]:
        """`acquire` for the length of a `with` block."""
        lease = self.acquire(name)
        try:
            yield lease
        finally:
            lease.release()

    def acquire(self, name: ModelName) -> Lease:
        """The model, loaded if it is not; it stays until the lease is released.

        Raises:
            CapacityError: the budget cannot hold it, or what is in use did not become free in time.
            LoadError and kin: it cannot be loaded; models that had to go for it are back then.
        """
        deadline = self._clock() + self.patience
        with self._changed:
            while True:
                entry = self._entries.get(name)
                if entry is None:
                    entry = self._entries[name] = _Entry(name)
                    break
                if entry.state == "ready":
                    return self._lease(entry)
                self._wait(deadline, f"{name}: is {entry.state}")
        return self._bring_in(entry, deadline)

    def try_acquire(self, name: ModelName) -> Lease | None:
        """The model if it is ready; never waits."""
        with self._changed:
            entry = self._entries.get(name)
            return self._lease(entry) if entry is not None and entry.state == "ready" else None

    def pin(self, name: ModelName, *, is_pinned: bool = True) -> None:
        """Keep a model in memory once it is there, or allow it to go again."""
        with self._changed:
            if is_pinned:
                self._pinned.add(name)
            else:
                self._pinned.discard(name)

    def residents(self) -> list[Resident]:
        """Models in memory, most recently used first."""
        now = self._clock()
        with self._changed:
            entries = sorted(self._entries.values(), key=lambda e: -e.used)
            return [
                Resident(e.name, e.state, e.num_bytes, e.leases, e.name in self._pinned, max(now - e.used, 0.0))
                for e in entries
            ]

    def unload(self, name: ModelName | None = None, *, patience: float | None = None) -> list[ModelName]:
        """Drain and unload one model, or all; pinned ones too. Returns those that went.

        Raises:
            CapacityError: a model was still in use when patience ended; it stays.
        """
        deadline = self._clock() + (self.patience if patience is None else patience)
        with self._changed:
            names = [n for n in self._entries if name is None or n == name]
        return [n for n in names if self._unload(n, deadline)]

    def sweep(self) -> list[ModelName]:
        """Unload models that nobody has used for `ttl` seconds. Returns those that went."""
        if self.ttl is None:
            return []
        now = self._clock()
        with self._changed:
            old = [
                e
                for e in self._entries.values()
                if e.state == "ready" and e.leases == 0 and e.name not in self._pinned and now - e.used >= self.ttl
            ]
            for entry in old:
                entry.state = "draining"
        for entry in old:
            self._close(entry)
        return [entry.name for entry in old]

    # ------------------------------------------------------------------------------------------------------------------

    def _lease(self, entry: _Entry) -> Lease:
        """One more lease; called with the lock held."""
        entry.leases += 1
        entry.used = self._clock()
        is_held = [True]

        def release() -> None:
            with self._changed:
                if is_held[0]:
                    is_held[0] = False
                    entry.leases -= 1
                    entry.used = self._clock()
                    self._changed.notify_all()

        def share() -> Lease:
            with self._changed:
                if not is_held[0]:
                    raise CapacityError(f"{entry.name}: a lease that was released cannot be shared; acquire the model")
                return self._lease(entry)

        return Lease(entry.model, entry.processor, release, share)

    def _bring_in(self, entry: _Entry, deadline: float) -> Lease:
        """Load what `entry` stands for; on failure it is gone and those that went for it are back."""
        try:
            size = self._size_of(entry.name)
            if self.max_bytes is None:
                self._fill(entry, size)
            else:
                self._take_turn(entry, deadline)
                try:
                    self._swap(entry, size, deadline, self.max_bytes)
                finally:
                    self._turn.release()
        except BaseException:
            with self._changed:
                if self._entries.get(entry.name) is entry:
                    del self._entries[entry.name]
                self._changed.notify_all()
            raise
        with self._changed:
            entry.state = "ready"
            self._changed.notify_all()
            return self._lease(entry)

    def _take_turn(self, entry: _Entry, deadline: float) -> None:
        if not self._turn.acquire(timeout=max(deadline - self._clock(), 0.0)):
            raise CapacityError(f"{entry.name}: other models are being loaded; try again later")

    def _swap(self, entry: _Entry, size: int, deadline: float, most: int) -> None:
        """Make room, load, and make room again where the model is larger than its files."""
        gone: list[ModelName] = []
        entry.num_bytes = size
        try:
            self._make_room(entry, deadline, gone, most)
            self._fill(entry, size)
            self._make_room(entry, deadline, gone, most)
        except BaseException:
            self._empty(entry)
            with self._changed:
                del self._entries[entry.name]
                self._changed.notify_all()
            for name in gone:
                self._restore(name)
            raise

    def _fill(self, entry: _Entry, size: int) -> None:
        entry.model, entry.processor = self._loader(entry.name)
        entry.num_bytes = size if self._measure is None else self._measure(entry.model)

    def _restore(self, name: ModelName) -> None:
        with self._changed:
            if name in self._entries:
                return
            entry = self._entries[name] = _Entry(name)
        try:
            self._fill(entry, self._size_of(name))
        except Exception:  # noqa: BLE001 - the load that failed first is what the caller hears of; this one loads at its next use
            with self._changed:
                del self._entries[name]
                self._changed.notify_all()
            return
        with self._changed:
            entry.state, entry.used = "ready", self._clock()
            self._changed.notify_all()

    def _make_room(self, entry: _Entry, deadline: float, gone: list[ModelName], most: int) -> None:
        """Unload others until `entry` fits; their names are added to `gone`."""
        if entry.num_bytes > most:
            raise CapacityError(f"{entry.name}: needs {entry.num_bytes} bytes, the budget is {most}; raise the budget")
        while True:
            with self._changed:
                victim = self._victim(entry, most)
                if victim is None:
                    return
                if victim.state == "draining":  # on its way out already
                    self._wait(deadline, f"{entry.name}: no room while {victim.name} drains")
                    continue
                # from here on new users of the victim wait, so that it does become free
                victim.state = "draining"
                try:
                    while victim.leases:
                        self._wait(deadline, f"{entry.name}: no room while {victim.name} is in use")
                except CapacityError:
                    victim.state = "ready"
                    self._changed.notify_all()
                    raise
            self._close(victim)
            gone.append(victim.name)

    def _victim(self, entry: _Entry, most: int) -> _Entry | None:
        """The model to unload next, or one that is leaving; None if `entry` fits. Raises CapacityError if there is none."""
        others = [e for e in self._entries.values() if e is not entry]
        if sum(e.num_bytes for e in others) + entry.num_bytes <= most:
            return None
        leaving = [e for e in others if e.state == "draining"]
        free = [e for e in others if e.state == "ready" and e.name not in self._pinned]
        if leaving or free:
            return leaving[0] if leaving else min(free, key=lambda e: (e.leases > 0, e.used))
        held = ", ".join(str(e.name) for e in others)
        raise CapacityError(f"{entry.name}: no room in {most} bytes beside {held}; unpin one or raise the budget")

    def _unload(self, name: ModelName, deadline: float) -> bool:
        with self._changed:
            while (entry := self._entries.get(name)) is not None and entry.state != "ready":
                self._wait(deadline, f"{name}: is {entry.state}")
            if entry is None:
                return False
            entry.state = "draining"
            try:
                while entry.leases:
                    self._wait(deadline, f"{name}: is in use")
            except CapacityError:
                entry.state = "ready"
                self._changed.notify_all()
                raise
        self._close(entry)
        return True

    def _close(self, entry: _Entry) -> None:
        """Give back a drained model's memory."""
        try:
            self._empty(entry)
        finally:
            with self._changed:
                del self._entries[entry.name]
                self._changed.notify_all()

    def _empty(self, entry: _Entry) -> None:
        processor, entry.model, entry.processor = entry.processor, None, None
        if processor is not None:
            self._unloader(processor)
            del processor
            gc.collect()  # model and engine refer to each other
            _give_back()

    def _wait(self, deadline: float, reason: str) -> None:
        left = deadline - self._clock()
        if left <= 0 or not self._changed.wait(timeout=left):
            raise CapacityError(f"{reason}; waited {self.patience:g} s; try again later")


def weight_bytes(name: ModelName) -> int:
    """Bytes of a checkpoint's safetensors files. Raises LoadError."""
    from .loading.hub import resolve  # huggingface_hub, paid only when a model is loaded

    return safetensors_bytes(resolve(name.name, revision=name.revision))


def safetensors_bytes(folder: Path) -> int:
    """Bytes of the weights in a checkpoint's folder. Raises LoadError where there are none."""
    files = [path for path in folder.glob("*.safetensors") if path.is_file()]
    # some repositories carry the same weights a second time in their makers' own layout
    own = [path for path in files if not path.name.startswith("consolidated")]
    size = sum(path.stat().st_size for path in own or files)
    if size == 0:
        raise LoadError(f"{folder}: has no *.safetensors; is the download complete?")
    return size


def _load(name: ModelName) -> tuple[Any, Any]:
    from .api import load  # as above

    return load(name.name, revision=name.revision, adapter_path=name.adapter_path)


def _unload(processor: Any) -> None:
    from .api import unload  # as above

    unload(processor)


def _give_back() -> None:
    import mlx.core as mx  # as above

    mx.clear_cache()
