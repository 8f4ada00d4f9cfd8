"""Drawing tokens: each rule against its definition in numpy."""

from __future__ import annotations

import mlx.core as mx
import numpy as np
import pytest

from vlm_runtime.engine import processors
from vlm_runtime.engine.sampler import Row, mix, sample
from vlm_runtime.engine.thinking import Thinking, is_open
from vlm_runtime.errors import OptionError
from vlm_runtime.request import SamplingParams, ThinkingParams

V = 40


def logits(seed: int, rows: int = 1) -> np.ndarray:
    return (np.random.default_rng(seed).standard_normal((rows, V)) * 3).astype(np.float32)


def chances(x: np.ndarray) -> np.ndarray:
    weights = np.exp(x - x.max(-1, keepdims=True))
    return weights / weights.sum(-1, keepdims=True)


def kept(x: np.ndarray, top_k: int, top_p: float, min_p: float) -> set[int]:
    """Tokens that remain, by the words of the definition: top-k, then top-p of what is left, then min-p."""
    order = np.argsort(-x)
    if top_k:
        order = order[:top_k]
    share = chances(x[order])
    if top_p < 1:
        order = order[: int(np.searchsorted(np.cumsum(share), top_p)) + 1]
    share = chances(x)[order]
    return set(order[share >= min_p * share[0]].tolist())


@pytest.mark.parametrize("top_k", [0, 1, 5, 100])
@pytest.mark.parametrize("top_p", [0.0, 0.3, 0.9, 1.0])
@pytest.mark.parametrize("min_p", [0.0, 0.05, 1.0])
def test_filters_keep_what_they_are_defined_to_keep(top_k: int, top_p: float, min_p: float) -> None:
    x = logits(3, 4)
    column = mx.full((4, 1), top_p), mx.full((4, 1), min_p)
    got = np.asarray(processors.filter_best(mx.array(x), mx.full((4, 1), top_k, mx.int32), *column))
    for row in range(4):
        assert set(np.flatnonzero(np.isfinite(got[row])).tolist()) == kept(x[row], top_k, top_p, min_p)


def test_draws_follow_the_distribution() -> None:
    x = logits(1)
    params = SamplingParams(temperature=1.7, top_k=6, seed=0)
    count = 4000
    rows = [Row(params, seed=9, index=i) for i in range(count)]
    drawn = np.asarray(sample(mx.broadcast_to(mx.array(x), (count, V)), rows).tokens)
    best = np.argsort(-x[0])[:6]
    want = chances(x[0][best] / 1.7)
    share = np.array([(drawn == token).mean() for token in best])
    assert abs(share.sum() - 1.0) < 1e-9 and np.abs(share - want).max() < 4 * np.sqrt(0.25 / count)


def test_a_draw_depends_on_seed_and_index_alone() -> None:
    x = np.repeat(logits(1), 3, 0)
    params = SamplingParams(temperature=2.0, seed=0)
    mine = Row(params, seed=5, index=3)
    alone = sample(mx.array(x[:1]), [mine]).tokens.item()
    company = [Row(SamplingParams(), 1, 1), mine, Row(params, seed=6, index=3)]
    assert np.asarray(sample(mx.array(x), company).tokens)[1] == alone
    many = {sample(mx.array(x[:1]), [Row(params, seed=5, index=i)]).tokens.item() for i in range(30)}
    assert len(many) > 5
    assert len({mix(s, i) for s in range(50) for i in range(50)}) == 2500


def test_penalties_are_per_row_and_by_definition() -> None:
    x = logits(2, 3)
    params = [
        SamplingParams(repetition_penalty=1.5, repetition_context_size=3),
        SamplingParams(presence_penalty=0.7, frequency_penalty=0.2),
        SamplingParams(logit_bias={7: 100.0}),
    ]
    rows = [Row(p, prompt_tail=[1, 2, 3], generated=[4, 5, 5]) for p in params]
    from vlm_runtime.engine.sampler import _shape

    got = np.asarray(_shape(mx.array(x), rows, None))
    want = x.copy()
    for token in (4, 5):
        want[0, token] = x[0, token] / 1.5 if x[0, token] > 0 else x[0, token] * 1.5
    want[1, 4] -= 0.9
    want[1, 5] -= 0.7 + 2 * 0.2
    want[2, 7] += 100
    assert np.allclose(got, want, atol=1e-5)


def test_a_pending_token_counts_as_if_it_were_known() -> None:
    x = logits(2, 2)
    from vlm_runtime.engine.sampler import _shape

    params = SamplingParams(
        repetition_penalty=1.5, repetition_context_size=4, presence_penalty=0.5, frequency_penalty=0.3
    )
    known = [Row(params, prompt_tail=[1, 2], generated=[3, 3, 9]), Row(params, prompt_tail=[1, 2, 3, 4], generated=[6])]
    pending = [
        Row(params, prompt_tail=[1, 2], generated=[3, 3], is_pending=True),
        Row(params, prompt_tail=[1, 2, 3, 4], generated=[], is_pending=True),
    ]
    got = _shape(mx.array(x), pending, mx.array([9, 6]))
    assert mx.allclose(got, _shape(mx.array(x), known, None), atol=1e-5)


def test_forced_banned_and_allowed_tokens() -> None:
    x = logits(4, 3)
    best = np.argsort(-x, axis=-1)
    allowed = np.zeros(V, bool)
    allowed[[11, 12]] = True
    rows = [
        Row(SamplingParams(), forced=17),
        Row(SamplingParams(), banned=[int(best[1, 0])]),
        Row(SamplingParams(temperature=1.0, seed=1), allowed=allowed),
    ]
    tokens = np.asarray(sample(mx.array(x), rows).tokens)
    assert tokens[0] == 17 and tokens[1] == best[1, 1] and tokens[2] in (11, 12)


@pytest.mark.parametrize(
    "wrong",
    [
        {"temperature": float("nan")},
        {"temperature": float("inf")},
        {"temperature": -1.0},
        {"top_p": 1.01},
        {"min_p": -0.1},
        {"top_k": -1},
        {"top_k": True},
        {"repetition_penalty": 0},
        {"max_tokens": 0},
        {"max_tokens": -5},
        {"min_tokens": 9, "max_tokens": 8},
        {"top_logprobs": 3},
        {"top_logprobs": 21, "logprobs": True},
        {"n": 0},
        {"seed": 1.5},
        {"stop": ("",)},
        {"logit_bias": {-1: 1.0}},
        {"logit_bias": {1: float("nan")}},
        {"frequency_penalty": float("nan")},
    ],
)
def test_wrong_values_are_named(wrong: dict) -> None:
    with pytest.raises(OptionError, match=next(iter(wrong))):
        SamplingParams(**wrong)


def test_markers_of_several_tokens() -> None:
    params = ThinkingParams((1, 2), (3, 4), (9,), budget=2)
    assert is_open([5, 1, 2, 6], params) and not is_open([1, 2, 3, 4], params) and not is_open([2, 1], params)
    thinking = Thinking(params, [])
    seen = []
    for token in (7, 1, 2, 8, 8):
        assert thinking.forced is None
        thinking.observe(token)
    while thinking.forced is not None:
        seen.append(thinking.forced)
        thinking.observe(thinking.forced)
    assert seen == [9, 3, 4] and not thinking.is_open
    for token in (1, 2, 3, 4, 1, 2, 8):
        assert thinking.forced is None
        thinking.observe(token)
    assert thinking.is_open and thinking.count == 1


def test_a_prompt_that_opens_a_block_with_no_budget_left() -> None:
    thinking = Thinking(ThinkingParams((1,), (2,), (), budget=0), [5, 1])
    assert thinking.forced == 2
    thinking.observe(2)
    assert thinking.forced is None and not thinking.is_open
