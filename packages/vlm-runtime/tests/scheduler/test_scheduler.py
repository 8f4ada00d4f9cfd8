"""Admission, chunks, priorities, preemption: integers only."""

from __future__ import annotations

import subprocess
import sys

import pytest

from vlm_runtime.scheduler import Chunk, Limits, QueueFull, Scheduler, Ticket, TooLarge


def drive(scheduler: Scheduler) -> list[Chunk]:
    """One step of prefill; sequences whose prefill is complete start to decode."""
    scheduler.admit(0.0)
    chunks = list(scheduler.plan().chunks)
    for chunk in chunks:
        scheduler.advance(chunk)
        if chunk.is_last:
            scheduler.start(chunk.id)
    return chunks


def test_the_scheduler_imports_no_arrays() -> None:
    code = (
        "import sys, types; root = types.ModuleType('vlm_runtime'); root.__path__ = [sys.argv[1]];"
        "sys.modules['vlm_runtime'] = root; import vlm_runtime.scheduler;"
        "assert not {'mlx', 'mlx.core', 'numpy'} & set(sys.modules), sorted(sys.modules)"
    )
    import vlm_runtime

    subprocess.run([sys.executable, "-c", code, vlm_runtime.__path__[0]], check=True)


def test_chunks_fill_the_budget_and_end_at_legal_cuts() -> None:
    scheduler = Scheduler(Limits(step_tokens=10, chunk_tokens=10))
    scheduler.add(Ticket(0, 35, blocks=((8, 20), (25, 30))))
    chunks = [drive(scheduler) for _ in range(3)]
    assert chunks == [[Chunk(0, 0, 20, False)], [Chunk(0, 20, 30, False)], [Chunk(0, 30, 35, True)]]


def test_decoding_rows_count_against_the_budget() -> None:
    scheduler = Scheduler(Limits(step_tokens=10, chunk_tokens=100))
    for index in range(4):
        scheduler.add(Ticket(index, 2))
    drive(scheduler)
    scheduler.add(Ticket(9, 50))
    assert drive(scheduler) == [Chunk(9, 0, 6, False)]


def test_a_prefill_goes_on_however_many_rows_decode() -> None:
    scheduler = Scheduler(Limits(step_tokens=4, chunk_tokens=4, max_running=10))
    for index in range(6):
        scheduler.add(Ticket(index, 1))
    while scheduler.plan().chunks or scheduler.num_waiting:
        drive(scheduler)
    scheduler.add(Ticket(9, 3))
    assert drive(scheduler) == [Chunk(9, 0, 1, False)]


def test_a_short_prompt_overtakes_a_long_one_which_still_ends() -> None:
    scheduler = Scheduler(Limits(step_tokens=8, chunk_tokens=8, max_running=100))
    scheduler.add(Ticket(0, 64))
    drive(scheduler)
    scheduler.add(Ticket(1, 8))
    assert drive(scheduler)[0].id == 1
    done = []
    for index in range(2, 60):
        scheduler.add(Ticket(index, 8))
        finished = [chunk.id for chunk in drive(scheduler) if chunk.is_last]
        done += finished
        for ticket_id in finished:
            scheduler.remove(ticket_id)
        if 0 in done:
            break
    assert 0 in done


def test_priority_goes_first() -> None:
    scheduler = Scheduler(Limits(max_running=1))
    scheduler.add(Ticket(0, 4))
    scheduler.add(Ticket(1, 4, priority=5))
    scheduler.add(Ticket(2, 4, priority=5))
    order = []
    while not scheduler.is_idle:
        order += scheduler.admit(0.0).admitted
        scheduler.remove(order[-1])
    assert order == [1, 2, 0]


def test_slots_are_reserved_for_all_answers() -> None:
    scheduler = Scheduler(Limits(max_running=4))
    scheduler.add(Ticket(0, 4, width=3))
    scheduler.add(Ticket(1, 4, width=2))
    assert scheduler.admit(0.0).admitted == (0,) and scheduler.num_running == 3
    scheduler.start(0, [10, 11])
    assert set(scheduler.plan().decode) == {0, 10, 11} and scheduler.num_running == 3
    scheduler.remove(10)
    assert scheduler.admit(0.0).admitted == (1,)


def test_limits_are_named() -> None:
    scheduler = Scheduler(Limits(max_waiting=1, max_running=2, cache_tokens=10))
    with pytest.raises(TooLarge):
        scheduler.add(Ticket(0, 11))
    with pytest.raises(TooLarge):
        scheduler.add(Ticket(0, 1, width=3))
    scheduler.add(Ticket(0, 4))
    with pytest.raises(QueueFull):
        scheduler.add(Ticket(1, 4))


def test_a_sequence_that_is_computed_anew_prefills_all_it_has() -> None:
    scheduler = Scheduler(Limits(max_running=1))
    scheduler.add(Ticket(0, 5))
    drive(scheduler)
    scheduler.decoded([0], 3)
    scheduler.requeue(0, 8)
    assert scheduler.num_running == 0 and scheduler.num_waiting == 1
    assert drive(scheduler) == [Chunk(0, 0, 8, True)]
    assert scheduler.plan().decode == (0,)


def test_a_preempted_sequence_returns_its_slot_and_its_place() -> None:
    scheduler = Scheduler(Limits(cache_tokens=20, step_tokens=100))
    scheduler.add(Ticket(0, 8))
    scheduler.add(Ticket(1, 8))
    drive(scheduler)
    assert scheduler.num_running == 2
    for _ in range(2):
        assert scheduler.admit(0.0).preempted == ()
        scheduler.decoded([0, 1])
    assert scheduler.admit(0.0).preempted == (1,) and scheduler.num_running == 1
    scheduler.resize(1, 11)
    assert scheduler.admit(0.0).admitted == ()
    scheduler.remove(0)
    assert scheduler.admit(0.0).admitted == (1,)
    assert scheduler.plan().chunks == (Chunk(1, 0, 11, True),)


def test_deadlines_end_sequences_at_every_stage() -> None:
    scheduler = Scheduler(Limits(max_running=1))
    scheduler.add(Ticket(0, 4, deadline=5.0))
    scheduler.add(Ticket(1, 4, deadline=2.0))
    assert scheduler.admit(1.0).expired == ()
    assert scheduler.admit(3.0).expired == (1,)
    assert scheduler.admit(5.0).expired == (0,) and scheduler.is_idle


def test_tokens_found_in_a_cache_are_not_run_again() -> None:
    scheduler = Scheduler()
    scheduler.add(Ticket(0, 30))
    scheduler.admit(0.0)
    scheduler.found(0, 29)
    assert scheduler.plan().chunks == (Chunk(0, 29, 30, True),)


def test_rows_count_as_long_as_the_longest() -> None:
    scheduler = Scheduler(Limits(cache_tokens=250, step_tokens=1000, chunk_tokens=1000))
    scheduler.add(Ticket(0, 100))
    for index in range(1, 5):
        scheduler.add(Ticket(index, 5))
    assert scheduler.admit(0.0).admitted == (0, 1)


def test_a_sequence_that_alone_outgrows_the_cache_ends() -> None:
    scheduler = Scheduler(Limits(cache_tokens=10))
    scheduler.add(Ticket(0, 8))
    drive(scheduler)
    scheduler.decoded([0])
    assert scheduler.admit(0.0).overgrown == ()
    scheduler.decoded([0])
    assert scheduler.admit(0.0).overgrown == (0,) and scheduler.is_idle
