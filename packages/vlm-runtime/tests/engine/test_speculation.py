"""Speculation changes how fast an answer comes, and nothing else."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
import pytest
from fakes import FakeModel, greedy, picture, prompt

from vlm_runtime.engine.core import EngineCore
from vlm_runtime.engine.settings import EngineOptions
from vlm_runtime.engine.speculation import Drafter, DraftModel, PromptLookup
from vlm_runtime.errors import OptionError
from vlm_runtime.request import Request, SamplingParams
from vlm_runtime.scheduler import Limits


def words(seed: int, count: int) -> list[int]:
    return np.random.default_rng(seed).integers(0, 50, count).tolist()


class Oracle:
    """Proposes the right tokens, with every third one wrong."""

    num_drafts = 5

    def __init__(self, answers: dict[int, list[int]]) -> None:
        self.answers = answers

    def join(self, slot: int, sequence: object, num_slots: int) -> None: ...

    def keep_slots(self, slots: list[int], num_slots: int) -> None: ...

    def propose(self, rows: list, most: list[int]) -> list[list[int]]:
        drafts = []
        for row, count in zip(rows, most, strict=True):
            right = [] if row is None else self.answers[len(row.prompt)][len(row.tokens) : len(row.tokens) + count]
            at = 0 if row is None else len(row.tokens)
            drafts.append([(t + 1) % 50 if (at + i) % 3 == 2 else t for i, t in enumerate(right)])
        return drafts


def answers(
    model: FakeModel, requests: list[Request], drafter: Callable[[], Drafter], **options: object
) -> tuple[list[list[int]], EngineCore]:
    core = EngineCore(model, EngineOptions(drafter=drafter, **options))  # type: ignore[arg-type]
    got: list[list[int]] = [[] for _ in requests]
    for index, request in enumerate(requests):
        core.add(index, request)
    while core.has_work:
        for event in core.step():
            assert event.error is None, event.error
            if event.token is not None:
                got[event.request_id].append(event.token)
    return got, core


@pytest.mark.parametrize("kinds", [("full",), ("full", "window", "shared", "full")])
def test_drafts_right_and_wrong_leave_answers_alone(kinds: tuple[str, ...]) -> None:
    model = FakeModel(kinds, window=6)
    given = [prompt(words(i, 5 + 7 * i), [(2, picture(i))] if i % 2 else []) for i in range(5)]
    expected = [greedy(model, p, 8 + 5 * i) for i, p in enumerate(given)]
    requests = [Request(p, SamplingParams(max_tokens=8 + 5 * i)) for i, p in enumerate(given)]
    oracle = Oracle({len(p): e for p, e in zip(given, expected, strict=True)})
    for limits in (Limits(), Limits(max_running=2, chunk_tokens=8)):
        got, core = answers(model, requests, lambda: oracle, limits=limits)
        assert got == expected
        assert 0 < core.stats.accepted < core.stats.drafted


def test_prompt_lookup_finds_repetitions() -> None:
    model = FakeModel(("full",))
    given = [prompt([*words(1, 12)] * 4), prompt(words(2, 9))]
    requests = [Request(p, SamplingParams(max_tokens=60)) for p in given]
    got, core = answers(model, requests, lambda: PromptLookup(6))
    assert got == [greedy(model, p, 60) for p in given]
    assert core.stats.drafted > 0
    row = type("Row", (), {"prompt": prompt([1, 2, 3, 4, 5, 9, 2, 3]), "tokens": [4]})()
    assert PromptLookup(3).propose([row, None], [2, 3]) == [[5, 9], []]


def test_a_draft_model_speeds_what_it_knows() -> None:
    model = FakeModel(("full", "window"), window=8)
    given = [prompt(words(i, 6 + 3 * i), [(1, picture(i))]) for i in range(4)]
    requests = [Request(p, SamplingParams(max_tokens=10 + i)) for i, p in enumerate(given)]
    expected = [greedy(model, p, 10 + i) for i, p in enumerate(given)]
    same = FakeModel(("full", "window"), window=8)
    got, core = answers(model, requests, partial(DraftModel, same, 4))
    assert got == expected
    assert core.stats.accepted > 0.9 * core.stats.drafted > 0
    other, core = answers(model, requests, partial(DraftModel, FakeModel(("full",)), 3))
    assert other == expected


def test_samples_and_penalties_are_what_they_were() -> None:
    model = FakeModel()
    params = SamplingParams(
        temperature=0.8,
        seed=5,
        max_tokens=30,
        repetition_penalty=1.3,
        presence_penalty=0.5,
        logprobs=True,
        top_logprobs=2,
    )
    request = Request(prompt(words(1, 12) * 3), params)
    plain = EngineCore(model)
    plain.add(0, request)
    expected = []
    while plain.has_work:
        expected += [e.token for e in plain.step()]
    got, _ = answers(model, [request, request], lambda: PromptLookup(4, shortest=1))
    assert got == [expected, expected]


def test_what_cannot_speculate_says_so() -> None:
    with pytest.raises(OptionError, match="recurrent"):
        EngineCore(FakeModel(("recurrent",)), EngineOptions(drafter=PromptLookup))
    with pytest.raises(OptionError, match="num_draft_tokens"):
        PromptLookup(99)
