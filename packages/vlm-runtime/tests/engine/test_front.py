"""The engine's thread and its door, from many threads."""

from __future__ import annotations

import gc
import threading
import time
import weakref

import numpy as np
import pytest
from fakes import FakeModel, greedy, picture, prompt

from vlm_runtime.engine.core import EngineCore
from vlm_runtime.engine.front import Engine
from vlm_runtime.engine.settings import EngineOptions
from vlm_runtime.errors import CapacityError, ContextError
from vlm_runtime.request import Request, SamplingParams
from vlm_runtime.scheduler import Limits


def words(seed: int, count: int) -> list[int]:
    return np.random.default_rng(seed).integers(0, 50, count).tolist()


def test_many_threads_get_their_own_answers() -> None:
    model = FakeModel(("full", "window"))
    given = [prompt(words(i, 5 + i), [(1, picture(i % 3))]) for i in range(8)]
    expected = [greedy(model, p, 10) for p in given]
    answers: dict[int, list[int | None]] = {}
    with Engine(model) as engine:

        def ask(index: int) -> None:
            stream = engine.submit(Request(given[index], SamplingParams(max_tokens=10)))
            answers[index] = [event.token for event in stream]

        threads = [threading.Thread(target=ask, args=(i,)) for i in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert engine.num_open == 0
    assert [answers[i] for i in range(8)] == expected


def test_a_closed_stream_cancels_its_request() -> None:
    with Engine(FakeModel()) as engine:
        with engine.submit(Request(prompt(words(1, 5)), SamplingParams(max_tokens=100_000))) as stream:
            next(stream)
        deadline = time.monotonic() + 10
        while engine.num_open and time.monotonic() < deadline:
            time.sleep(0.01)
        assert engine.num_open == 0 and engine.stats.running == 0
        assert next(engine.submit(Request(prompt(words(1, 5))))).token is not None


def test_what_cannot_be_served_is_said_at_once() -> None:
    options = EngineOptions(Limits(max_running=1, max_waiting=1), max_context=8)
    with Engine(FakeModel(), options) as engine:
        with pytest.raises(ContextError, match="8"):
            engine.submit(Request(prompt(words(1, 8))))
        hold = threading.Event()
        streams = [
            engine.submit(
                Request(prompt(words(1, 4)), SamplingParams(max_tokens=3)), lambda event: hold.wait(10) and None
            )
            for _ in range(2)
        ]
        with pytest.raises(CapacityError, match="limit"):
            engine.submit(Request(prompt(words(1, 4))))
        hold.set()
        for stream in streams:
            stream.close()


def test_a_broken_step_ends_its_requests_and_not_the_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    original, broken = EngineCore.step, [True]

    def step(self: EngineCore) -> list[object]:
        if broken.pop() if broken else False:
            raise ZeroDivisionError("broken")
        return original(self)  # type: ignore[return-value]

    monkeypatch.setattr(EngineCore, "step", step)
    with Engine(FakeModel()) as engine:
        first = list(engine.submit(Request(prompt(words(1, 4)))))
        assert isinstance(first[-1].error, ZeroDivisionError)
        assert len(list(engine.submit(Request(prompt(words(1, 4)), SamplingParams(max_tokens=3))))) == 3


def test_closing_ends_what_is_open() -> None:
    engine = Engine(FakeModel())
    stream = engine.submit(Request(prompt(words(1, 4)), SamplingParams(max_tokens=100_000)))
    next(stream)
    engine.close()
    assert list(stream)[-1].finish_reason == "cancelled"
    with pytest.raises(CapacityError, match="closed"):
        engine.submit(Request(prompt(words(1, 4))))


def test_an_engine_nobody_holds_is_collected_with_its_model() -> None:
    model = FakeModel()
    engine = Engine(model)
    list(engine.submit(Request(prompt(words(1, 4)), SamplingParams(max_tokens=3))))
    thread, watched = engine._thread, weakref.ref(model)
    del engine, model
    gc.collect()
    thread.join(timeout=10)
    gc.collect()
    assert not thread.is_alive() and watched() is None


def test_who_asks_while_the_engine_closes_is_answered() -> None:
    """A command that came behind the end would never be done, and who sent it would wait for ever."""
    for _ in range(6):
        engine = Engine(FakeModel())
        ended: list[str] = []
        begin = threading.Barrier(5)

        def ask(engine: Engine = engine, ended: list[str] = ended, begin: threading.Barrier = begin) -> None:
            begin.wait()
            try:
                for _ in range(50):
                    engine.call(lambda core: core.has_work)
                    list(engine.submit(Request(prompt(words(1, 4)), SamplingParams(max_tokens=1))))
            except CapacityError:
                pass
            ended.append("done")

        threads = [threading.Thread(target=ask, daemon=True) for _ in range(4)]
        for thread in threads:
            thread.start()
        begin.wait()
        time.sleep(0.003)
        engine.close()
        for thread in threads:
            thread.join(timeout=10)
        assert len(ended) == 4


def test_load_is_told_without_waiting_for_the_thread() -> None:
    with Engine(FakeModel(), EngineOptions(Limits(max_running=2))) as engine:
        assert engine.load.running == engine.load.waiting == 0
        hold, entered = threading.Event(), threading.Event()

        def listen(event: object) -> None:
            entered.set()
            hold.wait(10)

        streams = [engine.submit(Request(prompt(words(i, 4)), SamplingParams(max_tokens=9)), listen) for i in range(5)]
        assert entered.wait(10)
        while len(engine._service.listeners) < 5 and not engine.load.waiting:
            time.sleep(0.001)
        load = engine.load  # the thread is held by a listener: asking it would wait
        assert load.running <= 2
        hold.set()
        for stream in streams:
            stream.close()
