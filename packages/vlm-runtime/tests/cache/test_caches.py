"""Caches by layout and codec: each attends as plain attention over all keys does, in chunks, ragged, joined and taken out."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import mlx.core as mx
import numpy as np
import pytest

from vlm_models import Attention, AttentionRules, Cross, Full, Recurrent, Several, Shared, Window
from vlm_runtime.cache import AffineCodec, CacheOptions, PlainCodec, TurboQuantCodec, build_caches, bytes_per_token
from vlm_runtime.cache.buckets import batch_bucket, capacity_bucket
from vlm_runtime.cache.contiguous import ContiguousCache
from vlm_runtime.cache.ring import SLACK, RingCache
from vlm_runtime.cache.split import SplitCache
from vlm_runtime.cache.state import CrossCache, RecurrentCache
from vlm_runtime.errors import OptionError

HEADS, KEY_HEADS, SIZE = 4, 2, 64
RULES = AttentionRules(SIZE**-0.5)


def arrays(seed: int, length: int, batch: int = 1) -> tuple[mx.array, mx.array, mx.array]:
    random = np.random.default_rng(seed)
    return tuple(  # type: ignore[return-value]
        mx.array(random.standard_normal((batch, heads, length, SIZE), dtype=np.float32))
        for heads in (HEADS, KEY_HEADS, KEY_HEADS)
    )


def expected(
    seed: int, length: int, window: int | None = None, keep: int = 0, softcap: float | None = None
) -> np.ndarray:
    """Attention of every query over its past, in float64."""
    q, k, v = (np.asarray(a, np.float64)[0] for a in arrays(seed, length))
    k, v = np.repeat(k, HEADS // KEY_HEADS, 0), np.repeat(v, HEADS // KEY_HEADS, 0)
    scores = q @ k.swapaxes(-1, -2) * SIZE**-0.5
    if softcap is not None:
        scores = np.tanh(scores / softcap) * softcap
    i, j = np.arange(length)[:, None], np.arange(length)[None]
    visible = j <= i
    if window is not None:
        visible &= (j > i - (window - keep)) | (j < keep)
    scores = np.where(visible, scores, -np.inf)
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    return (weights / weights.sum(-1, keepdims=True)) @ v


def feed(cache, seed: int, length: int, cuts: list[int], rules: AttentionRules = RULES) -> np.ndarray:
    """Run a sequence through a cache of one row in chunks."""
    q, k, v = arrays(seed, length)
    out, edges = [], [0, *cuts, length]
    for start, stop in itertools.pairwise(edges):
        plan = Attention.at(start, stop - start)
        part = slice(start, stop)
        out.append(cache.attend(q[:, :, part], k[:, :, part], v[:, :, part], plan, rules))
        cache.settle()
    return np.asarray(mx.concatenate(out, axis=2))[0]


def turbo(key_bits: int, value_bits: int) -> TurboQuantCodec:
    codec = TurboQuantCodec(key_bits, value_bits)
    codec.check(SIZE, SIZE)
    return codec


MAKERS: dict[str, tuple[Callable[[], object], dict[str, int], float]] = {
    "plain": (lambda: ContiguousCache(PlainCodec()), {}, 1e-5),
    "affine8": (lambda: ContiguousCache(AffineCodec(8, 64)), {}, 2e-2),
    "affine4": (lambda: ContiguousCache(AffineCodec(4, 32)), {}, 4.5e-1),
    "split8": (lambda: SplitCache(AffineCodec(8, 64), 37), {}, 2e-2),
    "turbo8": (lambda: ContiguousCache(turbo(8, 8)), {}, 5e-2),
    "split turbo8": (lambda: SplitCache(turbo(8, 8), 37), {}, 5e-2),
    "ring": (lambda: RingCache(40), {"window": 40}, 1e-5),
    "bounded": (lambda: RingCache(48, 4), {"window": 48, "keep": 4}, 1e-5),
}
CUTS = [[], [1], [50], [7, 14, 90], list(range(1, 130)), [100, *range(101, 130)], [20, 36, 53, 70]]


@pytest.mark.parametrize("name", MAKERS)
@pytest.mark.parametrize("cuts", CUTS, ids=len)
def test_chunks_attend_as_plain_attention_does(name: str, cuts: list[int]) -> None:
    make, shape, tolerance = MAKERS[name]
    got = feed(make(), 1, 130, cuts)
    assert np.abs(got - expected(1, 130, **shape)).max() < tolerance


@pytest.mark.parametrize("name", MAKERS)
def test_rows_join_at_any_length_and_decode_together(name: str) -> None:
    make, shape, tolerance = MAKERS[name]
    lengths, total = [3, 40, 77, 61], 110
    batch = make()
    batch.reserve(4, 1)
    for row, length in enumerate(lengths):
        single = make()
        single_out = feed_part(single, row + 1, total, length)
        assert np.abs(single_out - expected(row + 1, total, **shape)[:, :length]).max() < tolerance
        batch.join(row, single, length)
    for step in range(20):
        starts = [length + step for length in lengths]
        rows = [arrays(row + 1, total) for row in range(4)]
        q, k, v = (mx.concatenate([rows[r][i][:, :, starts[r] : starts[r] + 1] for r in range(4)]) for i in range(3))
        batch.reserve(4, max(starts) + 1)
        batch.extent = max(starts) + 1
        got = np.asarray(batch.attend(q, k, v, Attention.ragged(starts, 1), RULES))
        for row in range(4):
            want = expected(row + 1, total, **shape)[:, starts[row]]
            assert np.abs(got[row, :, 0] - want).max() < tolerance, (row, step)
    batch.keep_rows([2, 0])
    taken = batch.extract(0, lengths[2] + 20)
    after = feed_part(taken, 3, total, total, lengths[2] + 20)
    assert np.abs(after - expected(3, total, **shape)[:, lengths[2] + 20 :]).max() < tolerance


def feed_part(cache, seed: int, total: int, stop: int, start: int = 0) -> np.ndarray:
    q, k, v = arrays(seed, total)
    part = slice(start, stop)
    out = cache.attend(q[:, :, part], k[:, :, part], v[:, :, part], Attention.at(start, stop - start), RULES)
    cache.settle()
    return np.asarray(out)[0]


@pytest.mark.parametrize("name", ["plain", "affine8", "turbo8", "split8", "split turbo8", "ring", "bounded"])
def test_drafts_are_written_and_taken_back(name: str) -> None:
    make, shape, tolerance = MAKERS[name]
    cache = make()
    feed_part(cache, 1, 120, 90)
    q, k, v = arrays(9, 5)
    cache.attend(q, k, v, Attention.at(90, 5), RULES)
    assert cache.can_trim(95, 90)
    cache.trim(90)
    got = feed_part(cache, 1, 120, 94, 90)
    assert np.abs(got - expected(1, 120, **shape)[:, 90:94]).max() < tolerance


def test_a_ring_cannot_be_taken_back_further_than_its_slack() -> None:
    ring = RingCache(40)
    assert ring.can_trim(56, 10) and not ring.can_trim(200, 200 - SLACK - 1) and ring.can_trim(200, 200 - SLACK)


def test_softcap_and_tiles_in_packed_attention(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vlm_runtime.cache.affine.MOST_SCORES", 1)
    monkeypatch.setattr("vlm_runtime.cache.affine.SMALLEST_TILE", 32)
    rules = AttentionRules(SIZE**-0.5, softcap=5.0)
    got = feed(ContiguousCache(AffineCodec(8, 64)), 1, 130, [100, 101], rules)
    assert np.abs(got - expected(1, 130, softcap=5.0)).max() < 2e-2


@pytest.mark.parametrize(("bits", "tolerance"), [((3, 4), 0.9), ((8, 8), 0.05)])
def test_turboquant_attends_packed_in_chunks_and_ragged(bits: tuple[int, int], tolerance: float) -> None:
    def make() -> ContiguousCache:
        codec = TurboQuantCodec(*bits)
        codec.check(SIZE, SIZE)
        return ContiguousCache(codec)

    whole = feed(make(), 1, 130, [])
    assert np.abs(whole - expected(1, 130)).max() < tolerance
    assert np.abs(feed(make(), 1, 130, [7, 64, *range(100, 130)]) - whole).max() < 1e-2
    batch = make()
    batch.reserve(2, 1)
    for row, length in enumerate([30, 100]):
        single = make()
        feed_part(single, row + 1, 130, length)
        batch.join(row, single, length)
    q, k, v = (mx.concatenate([arrays(1, 130)[i][:, :, 30:31], arrays(2, 130)[i][:, :, 100:101]]) for i in range(3))
    batch.extent = 101
    got = np.asarray(batch.attend(q, k, v, Attention.ragged([30, 100], 1), RULES))
    assert np.abs(got[0, :, 0] - expected(1, 130)[:, 30]).max() < tolerance
    assert np.abs(got[1, :, 0] - expected(2, 130)[:, 100]).max() < tolerance


def test_quantized_caches_are_smaller() -> None:
    sizes = {}
    for name, options in {
        "plain": CacheOptions(),
        "8": CacheOptions(kv_bits=8),
        "4": CacheOptions(kv_bits=4),
        "3.5": CacheOptions(kv_bits=3.5),
    }.items():
        caches = build_caches([Full(KEY_HEADS, SIZE, SIZE)], options, dtype=mx.float16)
        q, k, v = (a.astype(mx.float16) for a in arrays(1, 512))
        caches.layers[0].attend(q, k, v, Attention.at(0, 512), RULES)
        sizes[name] = caches.nbytes
        each = bytes_per_token([Full(KEY_HEADS, SIZE, SIZE)] * 3, options, dtype=mx.float16)
        capacity = caches.leaves[0].capacity
        assert each * capacity == 3 * caches.nbytes
    assert (
        sizes["8"] < 0.6 * sizes["plain"]
        and sizes["4"] < 0.32 * sizes["plain"]
        and sizes["3.5"] < 0.26 * sizes["plain"]
    )


def test_each_layer_gets_what_it_declares() -> None:
    specs = (
        Full(2, 64, 64),
        Window(16, 2, 64, 64),
        Shared(0),
        Recurrent({"s": (3,)}),
        Several({"a": Cross(2, 64, 64), "b": Full(2, 64, 64)}),
    )
    made = build_caches(specs, CacheOptions(kv_bits=4, quantized_start=8), dtype=mx.float32)
    kinds = [type(layer) for layer in made.layers[:4]]
    assert kinds == [SplitCache, RingCache, SplitCache, RecurrentCache]
    assert made.layers[2] is made.layers[0] and isinstance(made.layers[4]["a"], CrossCache)
    assert len(made.leaves) == 5
    copied = made.copy()
    assert copied.layers[2] is copied.layers[0] and copied.layers[0] is not made.layers[0]
    assert isinstance(build_caches(specs, CacheOptions(max_kv_size=32), dtype=mx.float32).layers[0], RingCache)


@pytest.mark.parametrize(
    ("specs", "options", "match"),
    [
        ((Window(8, 1, 64, 64),), {"kv_bits": 4}, "kv_bits"),
        ((Recurrent({"s": (3,)}),), {"max_kv_size": 64}, "max_kv_size"),
        ((Full(1, 80, 80),), {"kv_bits": 4}, "kv_group_size"),
        ((Full(1, 64, 64),), {"kv_bits": 7}, "kv_bits"),
        ((Full(1, 64, 64),), {"kv_bits": 3.3, "scheme": "uniform"}, "kv_bits"),
        ((Full(1, 64, 64),), {"kv_bits": 4, "key_bits": 3, "scheme": "uniform"}, "kv_key_bits"),
        ((Full(1, 64, 64),), {"kv_bits": 3.5, "quantized_start": -1}, "quantized_kv_start"),
        ((Full(1, 64, 64),), {"kv_bits": 0.5, "scheme": "turboquant"}, "kv_bits"),
        ((Full(1, 64, 64),), {"kv_bits": 9, "scheme": "turboquant"}, "kv_bits"),
        ((Full(1, 64, 64),), {"kv_bits": 3.25, "scheme": "turboquant"}, "kv_bits"),
        ((Full(1, 60, 60),), {"kv_bits": 3.5}, "head size"),
        ((Full(1, 1024, 1024),), {"kv_bits": 3.5}, "head size"),
        ((Full(1, 64, 64),), {"kv_bits": 3.5, "group_size": 32}, "kv_group_size"),
        ((Full(1, 64, 64),) * 4, {"kv_bits": 3.5, "full_layers": 2}, "kv_full_layers"),
        ((Full(1, 64, 64),) * 4, {"kv_bits": 3.5, "full_layers": -1}, "kv_full_layers"),
        ((Full(1, 64, 64),) * 4, {"full_layers": 1}, "kv_full_layers"),
        ((Full(1, 64, 64),), {"kv_bits": 9.5}, "kv_bits"),
        ((Full(1, 64, 64),), {"key_bits": 3}, "kv_value_bits"),
        ((Full(1, 64, 64),), {"max_kv_size": 2}, "max_kv_size"),
    ],
)
def test_what_cannot_be_served_is_named(specs: tuple, options: dict, match: str) -> None:
    with pytest.raises(OptionError, match=match):
        build_caches(specs, CacheOptions(**options), dtype=mx.float32)


def test_cross_rows_of_different_contexts() -> None:
    batch = CrossCache()
    batch.reserve(2, 1)
    q, k, v = arrays(1, 30)
    outs = []
    for row, size in enumerate([12, 30]):
        single = CrossCache()
        single.fill(k[:, :, :size], v[:, :, :size])
        outs.append(single.attend(q[:, :, :1], None, None, Attention.at(0, 1), RULES))
        batch.join(row, single, 0)
    both = batch.attend(mx.concatenate([q[:, :, :1]] * 2), None, None, Attention.ragged([0, 0], 1), RULES)
    assert mx.allclose(both, mx.concatenate(outs), atol=1e-5)


def test_copies_change_on_their_own() -> None:
    for make, _, _ in MAKERS.values():
        cache = make()
        feed_part(cache, 1, 60, 40)
        before = [mx.array(a) for a in cache.arrays()]
        feed_part(cache.copy(), 2, 60, 50, 40)
        assert all(mx.array_equal(a, b) for a, b in zip(cache.arrays(), before, strict=True))


@pytest.mark.parametrize("name", ["plain", "affine8", "split8", "turbo8", "split turbo8"])
def test_a_row_taken_out_does_not_keep_the_batch_alive(name: str) -> None:
    make, _, _ = MAKERS[name]
    before = mx.get_active_memory()
    batch, single = make(), make()
    feed_part(single, 1, 64, 64)
    batch.reserve(8, 4096)
    batch.join(3, single, 64)
    mx.eval(batch.arrays())
    taken = batch.extract(3, 64)
    mx.eval(taken.arrays())
    del batch, single
    assert mx.get_active_memory() - before < 4 * taken.nbytes


def test_buckets_grow_by_about_a_quarter() -> None:
    assert [batch_bucket(n) for n in (1, 2, 3, 4, 5, 6, 8, 10, 13)] == [1, 2, 3, 4, 5, 7, 9, 12, 15]
    sizes = [capacity_bucket(n) for n in range(1, 20_000, 50)]
    assert all(
        n <= s and s % 64 == 0 and s <= max(128, 1.35 * n + 64)
        for n, s in zip(range(1, 20_000, 50), sizes, strict=True)
    )
