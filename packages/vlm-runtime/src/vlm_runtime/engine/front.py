"""The engine's thread and the door to it, for any thread.

All MLX work of a model's requests happens on one thread, which this module starts; others hand it requests and read events.
"""

from __future__ import annotations

import atexit
import queue
import threading
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from itertools import count
from typing import Any, TypeVar

import mlx.core as mx

from vlm_models import Model

from ..cache import VisionFeatureCache
from ..errors import CapacityError, ContextError, OptionError, RequestCancelled
from ..request import Event, Request
from .core import EngineCore
from .settings import EngineLoad, EngineOptions, EngineStats

T = TypeVar("T")
Listener = Callable[[Event], None]
_Command = Callable[["_Service"], None]


class _Service:
    """What lives on the engine's thread: the step loop's state and who listens to which request."""

    def __init__(self, make: Callable[[], EngineCore]) -> None:
        self._make = make
        self._core: EngineCore | None = None
        self.listeners: dict[int, Listener] = {}

    @property
    def core(self) -> EngineCore:
        if self._core is None:
            self._core = self._make()  # on the engine's thread: arrays made here belong to it
        return self._core

    @property
    def started(self) -> EngineCore | None:
        """The core, if it was made; others than the engine's thread may only look at its counts."""
        return self._core

    @property
    def has_work(self) -> bool:
        return self._core is not None and self._core.has_work

    def add(self, request_id: int, request: Request, listener: Listener) -> None:
        self.listeners[request_id] = listener
        try:
            self.core.add(request_id, request)
        except Exception as error:  # noqa: BLE001 - told to whoever asked, whatever it is
            self.send(
                [Event(request_id, index, finish_reason="error", error=error) for index in range(request.params.n)]
            )

    def cancel(self, request_id: int) -> None:
        self.send(self.core.cancel(request_id))

    def do(self, command: _Command) -> None:
        """What another thread asked for."""
        try:
            command(self)
        except Exception as error:  # noqa: BLE001 - a thread that died would leave every caller waiting
            self.send(self.core.abort(error))

    def step(self) -> None:
        try:
            events = self.core.step()
        except Exception as error:  # noqa: BLE001 - a broken step ends the requests in it; the thread serves the next ones
            events = self.core.abort(error)
        self.send(events)

    def send(self, events: list[Event]) -> None:
        for event in events:
            listener = self.listeners.get(event.request_id)
            if listener is None:
                continue
            try:
                listener(event)
            except Exception:  # noqa: BLE001 - who cannot be told (a closed event loop) is gone; the others are not
                self.forget(event.request_id)
                self.core.cancel(event.request_id)

    def forget(self, request_id: int) -> None:
        self.listeners.pop(request_id, None)

    def stop(self) -> None:
        if self._core is not None:
            self.send(self._core.abort(RequestCancelled("the engine was closed")))
        self.listeners.clear()
        self._core = None


def _serve(reference: weakref.ref[_Service], inbox: queue.SimpleQueue[_Command | None]) -> None:
    """The thread: holds nothing of the engine while it waits, so that an unused engine can be collected."""
    try:
        _loop(reference, inbox)
    finally:
        # its streams are its own; left to the end of the process, a GPU's worker threads would outlive what they wait for
        mx.synchronize()
        mx.clear_streams()


def _loop(reference: weakref.ref[_Service], inbox: queue.SimpleQueue[_Command | None]) -> None:
    while True:
        command = inbox.get()
        service = reference()
        if command is None or service is None:
            if service is not None:
                service.stop()
            return
        service.do(command)
        while service.has_work:
            while True:
                try:
                    command = inbox.get_nowait()
                except queue.Empty:
                    break
                if command is None:
                    service.stop()
                    return
                service.do(command)
            service.step()
        del service, command


class Stream:
    """Events of one request as they come; iterate from any one thread. `close` or leaving a `with` cancels what is left."""

    def __init__(self, num_answers: int) -> None:
        self._events: queue.SimpleQueue[Event] = queue.SimpleQueue()
        self._left = num_answers
        self._cancel: Callable[[], None] = lambda: None

    def put(self, event: Event) -> None:
        self._events.put(event)

    def __iter__(self) -> Iterator[Event]:
        return self

    def __next__(self) -> Event:
        if self._left == 0:
            raise StopIteration
        event = self._events.get()
        if event.finish_reason is not None:
            self._left -= 1
        return event

    def close(self) -> None:
        if self._left:
            self._left = 0
            self._cancel()

    def __enter__(self) -> Stream:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Engine:
    """Serves requests to one model on a thread of its own.

    Args:
        model: its weights must be in memory.
        options: limits and caches.
        vision_cache: features by content; None: one of the default size.
        model_key: names the model in a vision cache that several models share.
    """

    def __init__(
        self,
        model: Model,
        options: EngineOptions | None = None,
        *,
        vision_cache: VisionFeatureCache | None = None,
        model_key: str = "",
    ) -> None:
        self.options = options or EngineOptions()
        self.vision_cache = vision_cache if vision_cache is not None else VisionFeatureCache()
        settings, features = self.options, self.vision_cache
        self._service = _Service(lambda: EngineCore(model, settings, vision_cache=features, model_key=model_key))
        self._inbox: queue.SimpleQueue[_Command | None] = queue.SimpleQueue()
        self._ids = count()
        self._lock = threading.Lock()
        self._open: set[int] = set()
        self._is_closed = False
        self._thread = threading.Thread(
            target=_serve, args=(weakref.ref(self._service), self._inbox), name="vlm-engine", daemon=True
        )
        self._thread.start()
        # at interpreter exit the thread must be gone before MLX is torn down
        self._finalizer = weakref.finalize(self, _shut_down, self._inbox, self._thread)
        _live.add(self)

    def submit(self, request: Request, listener: Listener | None = None) -> Stream:
        """Queue a request; safe from any thread.

        Args:
            request: what to answer.
            listener: called on the engine's thread with each event instead of filling the stream; must return at once.

        Raises:
            ContextError: the prompt leaves no room in the model's context.
            CapacityError: the queue is full, or the engine is closed.
        """
        self.check(request)
        stream = Stream(request.params.n)
        most = self.options.limits.max_running + self.options.limits.max_waiting
        request_id = next(self._ids)
        stream._cancel = self._canceller(request_id)
        tell = listener or stream.put
        left = [request.params.n]

        def on_event(event: Event) -> None:
            if event.finish_reason is not None:
                left[0] -= 1
                if left[0] == 0:
                    self._close_request(request_id)
            tell(event)

        with self._lock:
            if len(self._open) >= most:
                raise CapacityError(f"{len(self._open)} requests are running or waiting, the limit; try again later")
            self._put(lambda service: service.add(request_id, request, on_event))
            self._open.add(request_id)
        return stream

    def check(self, request: Request) -> None:
        """Raise what `submit` would raise about the request itself."""
        length, most = len(request.prompt), self.options.max_context
        if length == 0:
            raise ContextError("the prompt is empty; give text or media")
        if most is not None and length >= most:
            raise ContextError(f"the prompt has {length} tokens, the model's context holds {most}; shorten it")
        if request.params.n > self.options.limits.max_running:
            raise OptionError(f"n: expected at most {self.options.limits.max_running}, got {request.params.n}")

    def call(self, action: Callable[[EngineCore], T]) -> T:
        """Run something on the engine's thread, between steps, and wait for its result."""
        future: Future[T] = Future()

        def command(service: _Service) -> None:
            try:
                future.set_result(action(service.core))
            except Exception as error:  # noqa: BLE001 - raised in the caller's thread
                future.set_exception(error)

        with self._lock:
            self._put(command)
        return future.result()

    def _put(self, command: _Command) -> None:
        """Hand a command to the thread; called with the lock held, so that none comes behind the end and is never done."""
        if self._is_closed:
            raise CapacityError("the engine is closed; load the model again")
        self._inbox.put(command)

    @property
    def stats(self) -> EngineStats:
        return self.call(lambda core: core.stats)

    @property
    def load(self) -> EngineLoad:
        """As of now, about; unlike `stats` it never waits for the engine's thread."""
        core = self._service.started
        if core is None:
            return EngineLoad()
        return EngineLoad(core.scheduler.num_waiting, core.scheduler.num_running, core.prefixes.stats)

    @property
    def num_open(self) -> int:
        """Requests submitted and not finished."""
        return len(self._open)

    def clear_caches(self) -> None:
        """Forget earlier prompts and encoded media."""
        self.call(lambda core: core.clear_caches())

    def close(self) -> None:
        """End all requests and the thread."""
        with self._lock:
            if self._is_closed:
                return
            self._is_closed = True
        self._finalizer()

    def _canceller(self, request_id: int) -> Callable[[], None]:
        inbox = self._inbox
        return lambda: inbox.put(lambda service: service.cancel(request_id))

    def _close_request(self, request_id: int) -> None:
        with self._lock:
            self._open.discard(request_id)
        self._inbox.put(lambda service: service.forget(request_id))

    def __enter__(self) -> Engine:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


_live: weakref.WeakSet[Engine] = weakref.WeakSet()


@atexit.register
def _close_all() -> None:
    for engine in list(_live):
        engine.close()


def _shut_down(inbox: queue.SimpleQueue[Any], thread: threading.Thread) -> None:
    inbox.put(None)
    if thread is not threading.current_thread():
        thread.join(timeout=30)
