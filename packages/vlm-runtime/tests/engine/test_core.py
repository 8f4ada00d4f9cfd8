"""The step loop on a fake model: what each request gets, alone and in company."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from fakes import VOCABULARY, FakeModel, greedy, picture, prompt

from vlm_models import ModelError
from vlm_runtime.cache import CacheOptions
from vlm_runtime.engine.core import EngineCore
from vlm_runtime.engine.settings import EngineOptions
from vlm_runtime.errors import CapacityError, RequestCancelled
from vlm_runtime.request import Event, Request, SamplingParams, ThinkingParams
from vlm_runtime.scheduler import Limits

KINDS = [("full",), ("window",), ("recurrent",), ("full", "window", "shared", "recurrent", "full")]


def words(seed: int, count: int) -> list[int]:
    return np.random.default_rng(seed).integers(0, 50, count).tolist()


def drain(core: EngineCore, most: int = 10_000) -> dict[tuple[int, int], list[Event]]:
    events: dict[tuple[int, int], list[Event]] = defaultdict(list)
    while core.has_work:
        for event in core.step():
            events[event.request_id, event.index].append(event)
        most -= 1
        assert most > 0, "the engine does not come to an end"
    return events


def tokens(events: Sequence[Event]) -> list[int]:
    return [event.token for event in events if event.token is not None]


def run(model: FakeModel, requests: Sequence[Request], options: EngineOptions | None = None) -> list[list[int]]:
    """Answers to all requests together; the same one step ahead and step by step."""
    ahead, plain = (_run(model, requests, replace(options or EngineOptions(), runs_ahead=way)) for way in (True, False))
    if all(request.params.seed is not None or request.params.is_greedy for request in requests):
        assert ahead == plain
    return ahead


def _run(model: FakeModel, requests: Sequence[Request], options: EngineOptions) -> list[list[int]]:
    core = EngineCore(model, options)
    for index, request in enumerate(requests):
        core.add(index, request)
    events = drain(core)
    return [tokens(events[index, 0]) for index in range(len(requests))]


@pytest.mark.parametrize("kinds", KINDS)
@pytest.mark.parametrize("chunk", [1, 3, 19, 2048])
def test_greedy_equals_the_model_without_engine_whatever_the_chunks(kinds: tuple[str, ...], chunk: int) -> None:
    model = FakeModel(kinds)
    given = prompt(words(1, 40), [(3, picture(1)), (20, picture(2, 7))])
    limits = Limits(chunk_tokens=chunk, step_tokens=max(chunk, 64))
    got = run(model, [Request(given, SamplingParams(max_tokens=12))], EngineOptions(limits))
    assert got == [greedy(model, given, 12)]


@pytest.mark.parametrize("kinds", KINDS)
def test_rows_of_a_batch_equal_single_runs(kinds: tuple[str, ...]) -> None:
    model = FakeModel(kinds)
    given = [prompt(words(i, 3 + 11 * i), [(2, picture(i))] if i % 2 else []) for i in range(6)]
    got = run(model, [Request(p, SamplingParams(max_tokens=5 + 3 * i)) for i, p in enumerate(given)])
    assert got == [greedy(model, p, 5 + 3 * i) for i, p in enumerate(given)]


def test_blocks_see_themselves_and_are_never_cut() -> None:
    model = FakeModel(("full", "window"), window=16)
    given = prompt(words(3, 20), [(4, picture(1, 9)), (20, picture(2, 12))], blocks=True)
    expected = greedy(model, given, 6)
    assert expected != greedy(model, prompt(words(3, 20), [(4, picture(1, 9)), (20, picture(2, 12))]), 6)
    for chunk in (1, 5, 16, 100):
        options = EngineOptions(Limits(chunk_tokens=chunk))
        assert run(model, [Request(given, SamplingParams(max_tokens=6))], options) == [expected]


def test_a_seeded_sample_does_not_depend_on_its_company() -> None:
    model = FakeModel(("full", "window"))
    mine = Request(
        prompt(words(1, 9)),
        SamplingParams(
            temperature=1.3,
            top_p=0.9,
            top_k=20,
            min_p=0.01,
            seed=7,
            max_tokens=25,
            repetition_penalty=1.2,
            presence_penalty=0.3,
        ),
    )
    others = [
        Request(
            prompt(words(i, 4 * i)),
            SamplingParams(temperature=0.3 * (i % 3), seed=i, max_tokens=5 * i, logit_bias={3: 5.0}),
        )
        for i in range(2, 7)
    ]
    alone = run(model, [mine])[0]
    assert run(model, [*others[:3], mine, *others[3:]])[3] == alone
    assert run(model, [mine, mine])[1] == alone
    different = SamplingParams(temperature=1.3, seed=8, max_tokens=25)
    assert run(model, [Request(mine.prompt, different)])[0] != alone


def test_unseeded_samples_differ() -> None:
    model = FakeModel()
    request = Request(prompt(words(1, 9)), SamplingParams(temperature=1.5, max_tokens=30))
    first, second = run(model, [request, request])
    assert first != second


@pytest.mark.parametrize("count", [12, pytest.param(200, marks=pytest.mark.slow)])
def test_random_schedules_leave_every_answer_alone(count: int) -> None:
    model = FakeModel(("full", "window", "shared", "recurrent"), window=6)
    choice = random.Random(5)
    given = [prompt(words(i, 1 + i * 3), [(1, picture(i % 3))] if i % 3 else []) for i in range(12)]
    expected = [greedy(model, p, 14) for p in given]
    for schedule in range(count):
        limits = Limits(max_running=choice.randint(1, 6), chunk_tokens=choice.choice([2, 8, 64]), step_tokens=64)
        options = EngineOptions(limits, prefix_bytes=choice.choice([0, 1 << 20]), runs_ahead=bool(schedule % 2))
        core = EngineCore(model, options)
        waiting = [(i, choice.randint(1, 14)) for i in range(len(given))]
        choice.shuffle(waiting)
        lengths, answers = dict(waiting), defaultdict(list)
        reasons: dict[int, str] = {}
        while waiting or core.has_work:
            if waiting and choice.random() < 0.4:
                index, length = waiting.pop()
                core.add(index, Request(given[index], SamplingParams(max_tokens=length)))
                if choice.random() < 0.3:
                    noise = SamplingParams(
                        temperature=1.0, top_p=0.8, presence_penalty=0.5, max_tokens=choice.randint(1, 9), n=1
                    )
                    core.add(1000 + index, Request(given[choice.randrange(12)], noise))
            events = [event for event in core.step() if event.request_id < 1000]
            if choice.random() < 0.05 and lengths:
                events += core.cancel(choice.choice(list(lengths)))
            for event in events:
                if event.token is not None:
                    answers[event.request_id].append(event.token)
                if event.finish_reason is not None:
                    assert event.request_id not in reasons
                    reasons[event.request_id] = event.finish_reason
        assert set(reasons) == set(lengths), schedule
        for index, length in lengths.items():
            if reasons[index] == "length":
                assert answers[index] == expected[index][:length], (schedule, index)
            else:
                assert reasons[index] == "cancelled"
                assert answers[index] == expected[index][: len(answers[index])]
        assert core.runner.num_slots == 0 and core.scheduler.is_idle and not core._work


def test_a_row_sent_back_for_room_goes_on_where_it_was() -> None:
    model = FakeModel(("full", "recurrent"))
    given = [prompt(words(i, 20)) for i in range(3)]
    limits = Limits(cache_tokens=70, chunk_tokens=16)
    params = [
        SamplingParams(max_tokens=20),
        SamplingParams(max_tokens=20, temperature=1.0, seed=3),
        SamplingParams(max_tokens=20),
    ]
    requests = [Request(p, s) for p, s in zip(given, params, strict=True)]
    assert run(model, requests, EngineOptions(limits)) == [run(model, [r])[0] for r in requests]


def test_an_answer_that_outgrows_the_caches_ends_with_an_error() -> None:
    core = EngineCore(FakeModel(), EngineOptions(Limits(cache_tokens=30)))
    core.add(0, Request(prompt(words(1, 20)), SamplingParams(max_tokens=50)))
    events = drain(core)[0, 0]
    assert isinstance(events[-1].error, CapacityError) and len(tokens(events)) >= 8
    with pytest.raises(CapacityError, match="30"):
        core.add(1, Request(prompt(words(1, 31))))


def test_one_failing_request_ends_alone() -> None:
    model = FakeModel()
    core = EngineCore(model)
    good = prompt(words(1, 10), [(2, picture(1))])
    core.add(0, Request(good, SamplingParams(max_tokens=10)))
    core.add(1, Request(prompt(words(2, 10), [(2, picture(2, broken=True))]), SamplingParams(max_tokens=10)))
    core.add(2, Request(prompt(words(3, 10)), SamplingParams(max_tokens=10)))
    events = drain(core)
    assert isinstance(events[1, 0][-1].error, ValueError) and events[1, 0][-1].finish_reason == "error"
    assert tokens(events[0, 0]) == greedy(model, good, 10)
    assert tokens(events[2, 0]) == greedy(model, prompt(words(3, 10)), 10)


@pytest.mark.parametrize("at", [0, 3])
def test_a_row_whose_logits_are_not_numbers_ends_alone(at: int) -> None:
    model = FakeModel()
    given, other = prompt(words(1, 9)), prompt(words(2, 9))
    poison = [*given.tokens.tolist(), *greedy(model, given, 5)][8 + at]
    clean = greedy(model, other, 3)
    assert poison not in [*other.tokens.tolist(), *clean]
    model.table[poison] = float("nan")
    for ahead in (True, False):
        core = EngineCore(model, EngineOptions(runs_ahead=ahead))
        core.add(0, Request(given, SamplingParams(max_tokens=9)))
        core.add(1, Request(other, SamplingParams(max_tokens=3)))
        events = drain(core)
        assert isinstance(events[0, 0][-1].error, ModelError) and len(tokens(events[0, 0])) == at
        assert tokens(events[1, 0]) == clean


def test_a_failing_grammar_ends_its_request_alone() -> None:
    class Broken:
        is_finished = False

        def mask(self) -> np.ndarray:
            raise ValueError("no state")

        def accept(self, token: int) -> None: ...

        def copy(self) -> Broken:
            return self

    model = FakeModel()
    core = EngineCore(model)
    core.add(0, Request(prompt(words(1, 5)), SamplingParams(max_tokens=4)))
    core.add(1, Request(prompt(words(2, 5)), SamplingParams(max_tokens=4), grammar=Broken()))
    events = drain(core)
    assert events[1, 0][-1].finish_reason == "error"
    assert tokens(events[0, 0]) == greedy(model, prompt(words(1, 5)), 4)


class Failing:
    """Fails at a token of one answer's count."""

    is_finished = False

    def __init__(self, at: int, seen: int = 0, copies: int = 0) -> None:
        self.at, self.seen, self.copies = at, seen, copies

    def mask(self) -> np.ndarray:
        if self.seen == self.at:
            raise ValueError("no state")
        return np.ones(VOCABULARY, bool)

    def accept(self, token: int) -> None:
        self.seen += 1

    def copy(self) -> Failing:
        self.copies += 1
        return Failing(self.at + self.copies, self.seen)


def test_a_grammar_that_fails_on_the_way_takes_its_siblings_and_nobody_else() -> None:
    model = FakeModel()
    for ahead in (True, False):
        core = EngineCore(model, EngineOptions(runs_ahead=ahead))
        core.add(0, Request(prompt(words(1, 5)), SamplingParams(max_tokens=12)))
        core.add(
            1, Request(prompt(words(2, 5)), SamplingParams(max_tokens=12, temperature=1.0, n=3), grammar=Failing(3))
        )
        core.add(2, Request(prompt(words(3, 5)), SamplingParams(max_tokens=12)))
        events = drain(core)
        for index in (0, 2):
            assert tokens(events[index, 0]) == greedy(model, prompt(words(index + 1, 5)), 12)
        assert [events[1, index][-1].finish_reason for index in range(3)] == ["error"] * 3
        assert core.scheduler.is_idle and core.runner.num_slots == 0


class Alternating:
    """Allows even tokens, then odd ones, in turns."""

    def __init__(self, count: int = 0) -> None:
        self.count = count

    def mask(self) -> np.ndarray:
        return np.arange(VOCABULARY) % 2 == self.count % 2

    def accept(self, token: int) -> None:
        assert token % 2 == self.count % 2
        self.count += 1

    @property
    def is_finished(self) -> bool:
        return self.count == 7

    def copy(self) -> Alternating:
        return Alternating(self.count)


def test_a_grammar_rules_its_row_and_no_other() -> None:
    model = FakeModel()
    core = EngineCore(model)
    free = prompt(words(1, 5))
    core.add(0, Request(free, SamplingParams(max_tokens=12)))
    core.add(1, Request(free, SamplingParams(max_tokens=12, temperature=1.0, n=2), grammar=Alternating()))
    events = drain(core)
    assert tokens(events[0, 0]) == greedy(model, free, 12)
    for index in range(2):
        answer = tokens(events[1, index])
        assert [t % 2 for t in answer] == [0, 1, 0, 1, 0, 1, 0]
        assert events[1, index][-1].finish_reason == "stop"


def test_cancel_during_prefill_frees_everything_at_once() -> None:
    core = EngineCore(FakeModel(), EngineOptions(Limits(chunk_tokens=4)))
    core.add(0, Request(prompt(words(1, 100))))
    core.step()
    assert core.stats.running == 1 and core.stats.cache_bytes > 0
    events = core.cancel(0)
    assert [e.finish_reason for e in events] == ["cancelled"] and isinstance(events[0].error, RequestCancelled)
    assert not core.has_work and core.stats.running == 0 and core.stats.cache_bytes == 0


def test_the_queue_is_finite() -> None:
    core = EngineCore(FakeModel(), EngineOptions(Limits(max_running=1, max_waiting=2)))
    for index in range(2):
        core.add(index, Request(prompt(words(1, 3))))
    with pytest.raises(CapacityError, match="queue"):
        core.add(2, Request(prompt(words(1, 3))))
    with pytest.raises(CapacityError, match="rows"):
        EngineCore(FakeModel(), EngineOptions(Limits(max_running=1))).add(0, Request(prompt([1]), SamplingParams(n=2)))


def test_a_deadline_ends_a_request_in_the_queue_and_in_the_batch() -> None:
    now = [0.0]
    core = EngineCore(FakeModel(), EngineOptions(Limits(max_running=1)), clock=lambda: now[0])
    core.add(0, Request(prompt(words(1, 3)), SamplingParams(max_tokens=1000), timeout=5.0))
    core.add(1, Request(prompt(words(1, 3)), timeout=1.0))
    for _ in range(10):
        core.step()
    now[0] = 2.0
    assert [(e.request_id, e.finish_reason) for e in core.step() if e.finish_reason] == [(1, "error")]
    now[0] = 6.0
    assert [(e.request_id, e.finish_reason) for e in core.step() if e.finish_reason] == [(0, "error")]
    assert not core.has_work


def test_a_long_prefill_does_not_stop_streams() -> None:
    core = EngineCore(FakeModel(), EngineOptions(Limits(chunk_tokens=8, step_tokens=8)))
    core.add(0, Request(prompt(words(1, 3)), SamplingParams(max_tokens=200)))
    for _ in range(3):
        core.step()
    core.add(1, Request(prompt(words(2, 200)), SamplingParams(max_tokens=1)))
    core.add(2, Request(prompt(words(3, 5)), SamplingParams(max_tokens=1)))
    first: dict[int, int] = {}
    for step in range(60):
        events = core.step()
        assert any(e.request_id == 0 for e in events), "the stream stood still for a step"
        for event in events:
            first.setdefault(event.request_id, step)
    assert first[2] <= 2 < first[1]


def test_n_answers_share_one_prefill_and_differ() -> None:
    model = FakeModel()
    core = EngineCore(model, EngineOptions(prefix_bytes=0))
    params = SamplingParams(temperature=1.5, seed=11, n=3, max_tokens=20)
    core.add(0, Request(prompt(words(1, 30), [(2, picture(1))]), params))
    events = drain(core)
    answers = [tokens(events[0, index]) for index in range(3)]
    assert all(len(a) == 20 for a in answers) and len({tuple(a) for a in answers}) == 3
    assert model.encoded == 1 and sum(length for _, length in model.calls if length > 1) == 35
    single = run(
        model,
        [Request(prompt(words(1, 30), [(2, picture(1))]), SamplingParams(temperature=1.5, seed=11, max_tokens=20))],
    )
    assert single[0] == answers[0]


def test_min_tokens_and_stop_tokens() -> None:
    model = FakeModel()
    given = prompt(words(4, 12))
    free = greedy(model, given, 8)
    stop = SamplingParams(stop_tokens=frozenset({free[3]}), max_tokens=50)
    cut = run(model, [Request(given, stop)])[0]
    assert cut == free[: free.index(free[3]) + 1]
    late = SamplingParams(stop_tokens=frozenset({free[3]}), min_tokens=9, max_tokens=9)
    assert free[3] not in run(model, [Request(given, late)])[0][:9]


def test_context_length_ends_an_answer() -> None:
    core = EngineCore(FakeModel(), EngineOptions(max_context=16))
    core.add(0, Request(prompt(words(1, 10)), SamplingParams(max_tokens=50)))
    events = drain(core)[0, 0]
    assert len(events) == 6 and events[-1].finish_reason == "length"


def test_logprobs_come_from_the_unmodified_distribution() -> None:
    core = EngineCore(FakeModel())
    params = dict(max_tokens=5, logprobs=True, top_logprobs=3)
    core.add(0, Request(prompt(words(1, 10)), SamplingParams(**params)))
    core.add(1, Request(prompt(words(1, 10)), SamplingParams(**params, temperature=5.0, seed=1, top_k=5)))
    core.add(2, Request(prompt(words(1, 10)), SamplingParams(max_tokens=5)))
    events = drain(core)
    for event in events[0, 0]:
        assert event.logprob is not None and len(event.logprob.top) == 3
        assert event.logprob.top[0] == (event.token, pytest.approx(event.logprob.logprob))
    first, other = events[0, 0][0].logprob, events[1, 0][0].logprob
    assert first is not None and other is not None and [t for t, _ in first.top] == [t for t, _ in other.top]
    assert all(event.logprob is None for event in events[2, 0])


START, END, NEWLINE = 50, 51, 52


def thinking(budget: int | None) -> ThinkingParams:
    return ThinkingParams((START,), (END,), (NEWLINE,), budget)


@pytest.mark.parametrize("budget", [0, 1, 2, 5])
def test_a_thinking_budget_counts_exactly_and_anew(budget: int) -> None:
    model = FakeModel()
    # never ends a block by itself, and opens one whenever it may
    bias = {END: -1e9, START: 4.0}
    params = SamplingParams(thinking=thinking(budget), logit_bias=bias, max_tokens=60, temperature=1.0, seed=4)
    beside = Request(prompt(words(9, 7)), SamplingParams(max_tokens=60))
    answer, other = run(model, [Request(prompt([1, START, 2]), params), beside])
    assert answer[budget : budget + 2] == [NEWLINE, END]
    assert other == greedy(model, beside.prompt, 60)
    at, blocks = budget + 2, 0
    while START in answer[at:]:
        at = answer.index(START, at) + 1
        inside = answer[at : at + budget + 2]
        if len(inside) < budget + 2:
            break
        assert inside[budget:] == [NEWLINE, END] and END not in inside[:budget]
        at += budget + 2
        blocks += 1
    assert blocks >= 2
    closed = run(model, [Request(prompt([1, START, 2, END]), params)])[0]
    assert closed[:2] != [NEWLINE, END] or budget > 0


def test_a_block_the_model_closes_itself_is_not_forced() -> None:
    model = FakeModel()
    params = SamplingParams(thinking=thinking(3), logit_bias={END: 1e9, START: -1e9}, max_tokens=4)
    assert run(model, [Request(prompt([1, START]), params)])[0] == [END] * 4


def test_prefixes_follow_the_picture() -> None:
    model = FakeModel(("full", "window"), window=64)
    core = EngineCore(model)
    reused = []
    for turn, index in enumerate([1, 2, 1, 2]):
        given = prompt(words(1, 30), [(10, picture(index, 8))])
        core.add(turn, Request(given, SamplingParams(max_tokens=6)))
        events = drain(core)[turn, 0]
        assert tokens(events) == greedy(model, given, 6)
        reused.append(events[-1].cached_tokens)
    # the second picture shares what stands before it; the second time all but the last token is there
    assert reused == [0, 10, 37, 37]
    assert core.stats.prefix.hits == 3


def test_recurrent_layers_reuse_only_where_a_snapshot_stands() -> None:
    model = FakeModel(("recurrent", "full"))
    core = EngineCore(model)
    first = words(1, 30)
    reused = []
    for turn, ids in enumerate([first, first, [*first, *words(2, 9)], first[:20]]):
        core.add(turn, Request(prompt(ids), SamplingParams(max_tokens=5)))
        events = drain(core)[turn, 0]
        assert tokens(events) == greedy(model, prompt(ids), 5)
        reused.append(events[-1].cached_tokens)
    assert reused == [0, 29, 30, 0]


def test_the_next_turn_finds_the_last_answer() -> None:
    model = FakeModel(("full",))
    core = EngineCore(model)
    ids = words(1, 20)
    for turn in range(4):
        core.add(turn, Request(prompt(ids), SamplingParams(max_tokens=7)))
        events = drain(core)[turn, 0]
        assert events[-1].cached_tokens == (0 if turn == 0 else len(ids) - 4)
        ids = [*ids, *tokens(events), *words(50 + turn, 3)]
    assert core.stats.prefix.entries == 1


def test_prefixes_keep_their_budget() -> None:
    model = FakeModel()
    core = EngineCore(model, EngineOptions(prefix_bytes=200_000))
    for turn in range(8):
        core.add(turn, Request(prompt(words(turn, 60)), SamplingParams(max_tokens=3)))
        drain(core)
    assert core.stats.prefix.bytes <= 200_000 and core.stats.prefix.evictions > 0


def test_features_are_encoded_once() -> None:
    model = FakeModel()
    core = EngineCore(model, EngineOptions(prefix_bytes=0))
    for turn in range(3):
        core.add(
            turn, Request(prompt(words(turn, 9), [(2, picture(1)), (4, picture(2))]), SamplingParams(max_tokens=2))
        )
        drain(core)
    assert model.encoded == 2
    assert core.stats.vision.hits == 4 and core.stats.vision.entries == 2


@pytest.mark.parametrize("start", [0, 10, 1000])
@pytest.mark.parametrize(
    "form",
    [
        {"kv_bits": 8},
        {"kv_bits": 4},
        {"kv_bits": 8, "scheme": "turboquant"},
        {"kv_bits": 3.5},
        {"key_bits": 5, "value_bits": 4},
    ],
    ids=["uniform 8", "uniform 4", "turboquant 8", "turboquant 3.5", "turboquant 5/4"],
)
def test_quantized_caches_answer_alike_in_any_chunks_and_company(form: dict[str, Any], start: int) -> None:
    model = FakeModel(("full", "window", "full"))
    options = CacheOptions(**form, quantized_start=start)
    given = [prompt(words(i, 8 + 9 * i)) for i in range(4)]
    requests = [Request(p, SamplingParams(max_tokens=12)) for p in given]
    together = run(model, requests, EngineOptions(cache=options))
    for chunk in (5, 2048):
        limits = Limits(chunk_tokens=chunk)
        assert [run(model, [r], EngineOptions(limits, options))[0] for r in requests] == together
    if start == 1000:
        assert together == [greedy(model, p, 12) for p in given]


def test_a_bounded_cache_is_bounded_and_keeps_the_first_tokens() -> None:
    model = FakeModel(("full",))
    given = prompt(words(1, 300))
    options = EngineOptions(cache=CacheOptions(max_kv_size=64), prefix_bytes=0)
    answers = [
        run(
            model, [Request(given, SamplingParams(max_tokens=20))], EngineOptions(Limits(chunk_tokens=c), options.cache)
        )[0]
        for c in (7, 100, 2048)
    ]
    assert answers[0] == answers[1] == answers[2] and len(answers[0]) == 20
    core = EngineCore(model, options)
    core.add(0, Request(given, SamplingParams(max_tokens=20)))
    for _ in range(6):
        core.step()
    assert 0 < core.stats.cache_bytes <= 80 * 2 * 2 * 32 * 4
    short = prompt(words(2, 20))
    assert run(model, [Request(short, SamplingParams(max_tokens=9))], options) == [greedy(model, short, 9)]


@pytest.mark.parametrize(
    "options",
    [
        CacheOptions(),
        pytest.param(CacheOptions(kv_bits=8, quantized_start=9), marks=pytest.mark.slow),
        pytest.param(CacheOptions(kv_bits=3.5), marks=pytest.mark.slow),
        pytest.param(CacheOptions(kv_bits=3.5, quantized_start=9), marks=pytest.mark.slow),
    ],
    ids=["plain", "split", "turboquant", "split turboquant"],
)
def test_traced_decoding_gives_what_steps_give(options: CacheOptions) -> None:
    model = FakeModel(("full", "window", "shared", "recurrent"), window=7)
    given = [prompt(words(i, 4 + 9 * i), [(1, picture(i))]) for i in range(2)]
    requests = [Request(p, SamplingParams(max_tokens=24)) for p in given]
    plain = run(model, requests, EngineOptions(cache=options))
    core = EngineCore(model, EngineOptions(cache=options, compiles=True))
    for index, request in enumerate(requests):
        core.add(index, request)
    calls = len(model.calls)
    events = drain(core)
    assert [tokens(events[index, 0]) for index in range(2)] == plain
    assert core.runner._compiles
    # the model is called only where a graph is traced
    assert 1 <= sum(length == 1 for _, length in model.calls[calls:]) <= 4


def test_a_model_that_cannot_be_traced_runs_step_by_step() -> None:
    class Looking(FakeModel):
        def __call__(self, inputs, positions, attention, cache, **options):  # type: ignore[no-untyped-def]
            assert float(positions.max().item()) >= 0
            return super().__call__(inputs, positions, attention, cache, **options)

    model, given = Looking(), prompt(words(1, 9))
    core = EngineCore(model, EngineOptions(compiles=True))
    core.add(0, Request(given, SamplingParams(max_tokens=9)))
    assert tokens(drain(core)[0, 0]) == greedy(model, given, 9)
    assert not core.runner._compiles


@pytest.mark.parametrize("ahead", [False, True])
def test_a_failed_decode_leaves_nothing_to_who_joins_next(ahead: bool) -> None:
    """It breaks off between two layers, in the very step in which another request's prefill ends."""

    class Breaking(FakeModel):
        is_broken = False

        def _recur(self, x, layer):  # type: ignore[no-untyped-def]
            if self.is_broken and x.shape[1] == 1:
                raise ZeroDivisionError("broken")
            return super()._recur(x, layer)

    model = Breaking(("full", "recurrent", "full"))
    given = prompt(words(2, 23))
    expected = greedy(model, given, 9)
    core = EngineCore(model, EngineOptions(Limits(chunk_tokens=6, step_tokens=6), runs_ahead=ahead, prefix_bytes=0))
    core.add(0, Request(prompt(words(1, 5)), SamplingParams(max_tokens=90)))
    core.step()
    core.add(1, Request(given, SamplingParams(max_tokens=9)))
    events = []
    while core.has_work:
        model.is_broken = 18 <= max((work.done for work in core._work.values()), default=0) < 23
        events += core.step()
    by_request = {index: [event for event in events if event.request_id == index] for index in (0, 1)}
    assert isinstance(by_request[0][-1].error, ZeroDivisionError)
    assert tokens(by_request[1]) == expected and by_request[1][-1].error is None
