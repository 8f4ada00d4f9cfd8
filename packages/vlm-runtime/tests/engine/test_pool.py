"""Models under a budget: shared loads, eviction, pins, draining, restoring. No arrays."""

from __future__ import annotations

import threading
import time

import pytest

from vlm_runtime.errors import CapacityError, LoadError
from vlm_runtime.pool import Lease, ModelName, ModelPool

A, B, C = ModelName("a"), ModelName("b"), ModelName("c")


class World:
    """Counts loads and unloads; sizes are 10 each."""

    def __init__(self, *, delay: float = 0.0) -> None:
        self.loads: list[str] = []
        self.unloads: list[str] = []
        self.broken: set[str] = set()
        self.delay = delay
        self.now = 0.0

    def pool(self, max_bytes: int | None = 20, **options: object) -> ModelPool:
        def load(name: ModelName) -> tuple[object, str]:
            time.sleep(self.delay)
            if name.name in self.broken:
                raise LoadError(f"{name}: broken")
            self.loads.append(name.name)
            return object(), name.name

        return ModelPool(
            load,
            size_of=lambda name: 1000 if name.name == "huge" else 10,
            unloader=self.unloads.append,
            max_bytes=max_bytes,
            **options,  # type: ignore[arg-type]
        )


def names(pool: ModelPool) -> set[str]:
    return {resident.name.name for resident in pool.residents()}


def test_many_askers_load_once() -> None:
    world = World(delay=0.05)
    pool = world.pool()
    leases: list[Lease] = []
    threads = [threading.Thread(target=lambda: leases.append(pool.acquire(A))) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert world.loads == ["a"] and len({id(lease.model) for lease in leases}) == 1
    assert pool.residents()[0].leases == 6
    for lease in leases:
        lease.release()
        lease.release()
    assert pool.residents()[0].leases == 0


def test_the_least_recently_used_goes() -> None:
    world = World()
    pool = world.pool()
    for name in (A, B, A, C):
        pool.acquire(name).release()
    assert world.unloads == ["b"] and names(pool) == {"a", "c"}


def test_pinned_models_stay() -> None:
    world = World()
    pool = world.pool()
    pool.pin(A)
    for name in (A, B, C):
        pool.acquire(name).release()
    assert names(pool) == {"a", "c"}
    pool.pin(C)
    with pytest.raises(CapacityError, match="unpin"):
        pool.acquire(B)
    assert names(pool) == {"a", "c"}


def test_a_model_in_use_is_drained_first() -> None:
    world = World()
    pool = world.pool(max_bytes=10)
    lease = pool.acquire(A)
    done = threading.Event()

    def swap() -> None:
        pool.acquire(B).release()
        done.set()

    thread = threading.Thread(target=swap)
    thread.start()
    assert not done.wait(0.1) and world.unloads == []
    lease.release()
    thread.join(timeout=5)
    assert done.is_set() and world.unloads == ["a"] and names(pool) == {"b"}


def test_patience_ends_and_nothing_is_lost() -> None:
    world = World()
    pool = world.pool(max_bytes=10, patience=0.05)
    lease = pool.acquire(A)
    with pytest.raises(CapacityError, match="in use"):
        pool.acquire(B)
    assert names(pool) == {"a"}
    pool.acquire(A).release()
    lease.release()
    assert world.loads == ["a"]


def test_a_failed_swap_brings_back_what_went() -> None:
    world = World()
    pool = world.pool(max_bytes=10)
    pool.acquire(A).release()
    world.broken.add("b")
    with pytest.raises(LoadError, match="broken"):
        pool.acquire(B)
    assert names(pool) == {"a"} and world.loads == ["a", "a"]
    world.broken.clear()
    pool.acquire(B).release()
    assert names(pool) == {"b"}


def test_what_can_never_fit_is_named() -> None:
    world = World()
    pool = world.pool()
    pool.acquire(A).release()
    with pytest.raises(CapacityError, match="budget"):
        pool.acquire(ModelName("huge"))
    assert names(pool) == {"a"}


def test_unused_models_go_after_their_time() -> None:
    world = World()
    pool = world.pool(ttl=10.0, clock=lambda: world.now)
    pool.acquire(A).release()
    lease = pool.acquire(B)
    world.now = 11.0
    assert pool.sweep() == [A] and names(pool) == {"b"}
    lease.release()
    assert pool.sweep() == []
    world.now = 22.0
    assert pool.sweep() == [B]


def test_unload_one_or_all() -> None:
    world = World()
    pool = world.pool(None)
    for name in (A, B, C):
        pool.acquire(name).release()
    assert pool.unload(B) == [B] and pool.unload(B) == []
    assert set(pool.unload()) == {A, C} and pool.residents() == []
    lease = pool.acquire(A)
    with pytest.raises(CapacityError, match="in use"):
        pool.unload(A, patience=0.02)
    lease.release()
    assert pool.unload(A) == [A]


def test_two_newcomers_take_turns_and_the_budget_holds() -> None:
    """Both need the room that one model has; neither waits for the other's unfinished load."""
    held: list[int] = []
    most: list[int] = []

    def load(name: ModelName) -> tuple[object, str]:
        held.append(10)
        most.append(sum(held))
        time.sleep(0.03)
        return object(), name.name

    pool = ModelPool(load, size_of=lambda _: 10, unloader=lambda _: held.pop(), max_bytes=10, patience=5.0)
    pool.acquire(A).release()

    def ask(name: ModelName) -> None:
        for _ in range(3):
            pool.acquire(name).release()

    threads = [threading.Thread(target=ask, args=(name,)) for name in (A, B, C)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=20)
    assert not any(thread.is_alive() for thread in threads)
    assert max(most) == 10 and len(most) >= 3


def test_a_model_larger_than_its_files_makes_room_again_or_goes() -> None:
    world = World()
    sizes = {"a": 10, "b": 10, "c": 10}
    pool = ModelPool(
        lambda name: (world.loads.append(name.name) or name.name, name.name),
        size_of=lambda _: 5,
        unloader=world.unloads.append,
        measure=lambda model: sizes[model],
        max_bytes=20,
    )
    for name in (A, B, C):
        pool.acquire(name).release()
        assert sum(resident.num_bytes for resident in pool.residents()) <= 20
    assert world.unloads == ["a"] and names(pool) == {"b", "c"}
    sizes["a"] = 50
    with pytest.raises(CapacityError, match="budget"):
        pool.acquire(A)
    # what went for it is back, and it holds nothing
    assert names(pool) == {"b", "c"} and world.unloads.count("a") == 2


def test_leases_are_shared_while_held_and_never_waited_for() -> None:
    world = World()
    pool = world.pool(max_bytes=10)
    assert pool.try_acquire(A) is None
    lease = pool.acquire(A)
    second = pool.try_acquire(A)
    assert second is not None
    second.release()
    leaving = threading.Thread(target=pool.unload, args=(A,))
    leaving.start()
    while pool.residents()[0].state != "draining":
        time.sleep(0.005)
    assert pool.try_acquire(A) is None
    other = lease.share()
    lease.release()
    assert world.unloads == []
    other.release()
    leaving.join(timeout=5)
    assert world.unloads == ["a"]
    with pytest.raises(CapacityError, match="released"):
        lease.share()
