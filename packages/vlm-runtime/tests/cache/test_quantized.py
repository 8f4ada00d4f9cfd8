"""Quantized caches in every form a user may ask for: a start index, full layers, softcap and sinks, blocks, files."""

from __future__ import annotations

import mlx.core as mx
import numpy as np
import pytest
from fakes import FakeModel

from vlm_models import Attention, AttentionRules, Full, Recurrent, Window
from vlm_runtime import EngineCore, EngineOptions
from vlm_runtime.cache import (
    AffineCodec,
    CacheOptions,
    PlainCodec,
    TurboQuantCodec,
    build_caches,
    load_caches,
    save_caches,
)
from vlm_runtime.cache import saved as saved_module
from vlm_runtime.cache.contiguous import ContiguousCache
from vlm_runtime.cache.ring import RingCache
from vlm_runtime.cache.split import SplitCache
from vlm_runtime.cache.state import RecurrentCache
from vlm_runtime.errors import CacheFormatError

HEADS, KEY_HEADS, SIZE = 4, 2, 64
RULES = AttentionRules(SIZE**-0.5)
SCHEMES = {"uniform": {"kv_bits": 8}, "turboquant": {"kv_bits": 8, "scheme": "turboquant"}}
HYBRID = (Full(KEY_HEADS, SIZE, SIZE), Window(16, KEY_HEADS, SIZE, SIZE), Recurrent({"s": (3,)}), Full(2, SIZE, SIZE))


def arrays(seed: int, length: int) -> list[mx.array]:
    random = np.random.default_rng(seed)
    return [mx.array(random.standard_normal((1, h, length, SIZE), dtype=np.float32)) for h in (HEADS, 2, 2)]


def error(got: mx.array, want: mx.array) -> float:
    return (mx.linalg.norm(got - want) / mx.linalg.norm(want)).item()


def turbo(key_bits: int = 8, value_bits: int = 8) -> TurboQuantCodec:
    codec = TurboQuantCodec(key_bits, value_bits)
    codec.check(SIZE, SIZE)
    return codec


def run(cache, seed: int, total: int, cuts, rules=RULES, **options) -> mx.array:
    q, k, v = arrays(seed, total)
    out = []
    for start, stop in zip([0, *cuts], [*cuts, total], strict=True):
        part = slice(start, stop)
        plan = Attention.at(start, stop - start)
        out.append(cache.attend(q[:, :, part], k[:, :, part], v[:, :, part], plan, rules, **options))
        cache.settle()
    return mx.concatenate(out, axis=2)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_below_the_start_index_answers_are_those_of_16_bits(scheme: str) -> None:
    options = CacheOptions(**SCHEMES[scheme] | {"kv_bits": 2}, quantized_start=50)
    for cuts in ([], [20, 21, 22], list(range(1, 40))):
        cache = build_caches([HYBRID[0]], options, dtype=mx.float32).layers[0]
        plain = ContiguousCache(PlainCodec())
        assert mx.allclose(run(cache, 1, 40, cuts), run(plain, 1, 40, cuts), atol=1e-6)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_tokens_from_the_start_index_on_are_quantized_and_earlier_ones_are_not(scheme: str) -> None:
    options = CacheOptions(**SCHEMES[scheme], quantized_start=50)
    cache = build_caches([HYBRID[0]], options, dtype=mx.float32).layers[0]
    assert isinstance(cache, SplitCache)
    run(cache, 1, 90, [30, 60])
    _, k, v = arrays(1, 90)
    assert mx.array_equal(cache.plain[0][:, :, :50], k[:, :, :50])
    fresh = cache.codec.encode(k[:, :, 50:], v[:, :, 50:])
    assert all(mx.array_equal(a[:, :, :40], b) for a, b in zip(cache.packed, fresh, strict=True))


@pytest.mark.parametrize("scheme", SCHEMES)
def test_the_start_index_gives_the_same_answers_in_any_chunks_and_batches(scheme: str) -> None:
    options = CacheOptions(**SCHEMES[scheme] | {"kv_bits": 4}, quantized_start=30)

    def make():
        return build_caches([HYBRID[0]], options, dtype=mx.float32)

    whole = run(make().layers[0], 1, 60, [])
    for cuts in ([29, 30, 31], [30], list(range(1, 60))):
        assert error(run(make().layers[0], 1, 60, cuts), whole) < 5e-3
    # Rows on both sides of the index in one batch, one of them crossing it.
    batch = make()
    batch.reserve(3, 64)
    lengths = [10, 28, 50]
    for row, length in enumerate(lengths):
        single = make()
        q, k, v = (a[:, :, :length] for a in arrays(row + 1, 60))
        single.layers[0].attend(q, k, v, Attention.at(0, length), RULES)
        batch.join(row, single, length)
    for step in range(5):
        starts = [length + step for length in lengths]
        q, k, v = (
            mx.concatenate([arrays(r + 1, 60)[i][:, :, starts[r] : starts[r] + 1] for r in range(3)]) for i in range(3)
        )
        batch.set_extent(64)
        got = batch.layers[0].attend(q, k, v, Attention.ragged(starts, 1), RULES)
        for row in range(3):
            want = run(make().layers[0], row + 1, 60, [])[:, :, starts[row] : starts[row] + 1]
            assert error(got[row : row + 1], want) < 5e-3, (row, step)


@pytest.mark.parametrize("start", [0, 21])
@pytest.mark.parametrize("codec", [turbo, lambda: AffineCodec(8, 64)], ids=["turboquant", "uniform"])
def test_softcap_sinks_and_windows_in_packed_attention(codec, start: int) -> None:
    sinks = mx.array([1.0, -1.0, 3.0, 0.0])
    for rules, options in (
        (AttentionRules(0.3, softcap=2.0), {}),
        (RULES, {"sinks": sinks}),
        (AttentionRules(0.3, window=12, softcap=2.0), {"sinks": sinks}),
    ):
        for cuts in ([], [40, *range(41, 50)]):
            cache = SplitCache(codec(), start) if start else ContiguousCache(codec())
            got = run(cache, 1, 50, cuts, rules, **options)
            want = run(ContiguousCache(PlainCodec()), 1, 50, [], rules, **options)
            assert error(got, want) < 3e-2, (rules, cuts)


@pytest.mark.parametrize("start", [0, 12])
def test_blocks_that_see_both_ways(start: int) -> None:
    blocks = np.full(30, -1, np.int32)
    blocks[8:20] = 3
    plan = Attention.at(0, 30, blocks=blocks)
    q, k, v = arrays(1, 30)
    want = ContiguousCache(PlainCodec()).attend(q, k, v, plan, RULES)
    cache = SplitCache(turbo(), start) if start else ContiguousCache(turbo())
    assert error(cache.attend(q, k, v, plan, RULES), want) < 2e-2


def test_first_and_last_layers_stay_plain() -> None:
    specs = [Full(KEY_HEADS, SIZE, SIZE)] * 5 + [Window(8, 2, SIZE, SIZE)]
    made = build_caches(specs, CacheOptions(kv_bits=3.5, full_layers=2), dtype=mx.float32)
    codecs = [type(layer.codec) for layer in made.layers[:5]]
    assert codecs == [PlainCodec, PlainCodec, TurboQuantCodec, PlainCodec, PlainCodec]
    assert isinstance(made.layers[5], RingCache)


def test_key_and_value_bits_of_their_own() -> None:
    for options, want in (
        (CacheOptions(kv_bits=3.5), (3, 4)),
        (CacheOptions(kv_bits=3.5, key_bits=4), (4, 4)),
        (CacheOptions(key_bits=5, value_bits=2), (5, 2)),
        (CacheOptions(kv_bits=4, scheme="turboquant", value_bits=3), (4, 3)),
    ):
        codec = build_caches([HYBRID[0]], options, dtype=mx.float32).layers[0].codec
        assert (codec.key_bits, codec.value_bits) == want


def test_hybrid_models_keep_the_form_of_other_layers() -> None:
    made = build_caches(HYBRID, CacheOptions(kv_bits=3.5), dtype=mx.float32)
    kinds = [type(layer) for layer in made.layers]
    assert kinds == [ContiguousCache, RingCache, RecurrentCache, ContiguousCache]
    assert isinstance(made.layers[0].codec, TurboQuantCodec) and made.layers[0].stored == ()


def filled(options: CacheOptions, length: int = 40):
    made = build_caches(HYBRID, options, dtype=mx.float32)
    made.reserve(1, length)
    q, k, v = arrays(1, 60)
    for layer in (made.layers[0], made.layers[1], made.layers[3]):
        layer.attend(q[:, :, :length], k[:, :, :length], v[:, :, :length], Attention.at(0, length), RULES)
        layer.settle()
    made.layers[2].write("s", mx.array([[1.0, 2.0, 3.0]]))
    return made


FORMS = {
    "plain": CacheOptions(),
    "uniform": CacheOptions(kv_bits=4),
    "turboquant": CacheOptions(kv_bits=3.5),
    "turboquant from 25": CacheOptions(kv_bits=3.5, quantized_start=25),
    "turboquant from 55": CacheOptions(kv_bits=3.5, quantized_start=55),
}


@pytest.mark.parametrize("form", FORMS)
def test_saved_caches_go_on_as_if_they_had_stayed(form: str, tmp_path) -> None:
    same = {"specs": HYBRID, "options": FORMS[form], "dtype": mx.float32, "model_key": "m"}
    made = filled(FORMS[form])
    save_caches(tmp_path / "c.safetensors", made, np.arange(40), **same)
    loaded, keys = load_caches(tmp_path / "c.safetensors", **same)
    assert (keys == np.arange(40)).all()
    assert mx.array_equal(loaded.layers[2].read("s"), mx.array([[1.0, 2.0, 3.0]]))
    q, k, v = arrays(1, 60)
    for at in range(40, 60):
        for index in (0, 1, 3):
            parts = [a[:, :, at : at + 1] for a in (q, k, v)]
            both = [c.layers[index].attend(*parts, Attention.at(at, 1), RULES) for c in (made, loaded)]
            assert mx.allclose(*both, atol=1e-5), (index, at)


def test_a_saved_cache_of_another_version_model_or_form_is_named(tmp_path, monkeypatch) -> None:
    path = tmp_path / "c.safetensors"
    same = {"specs": HYBRID, "options": FORMS["turboquant"], "dtype": mx.float32, "model_key": "m"}
    save_caches(path, filled(FORMS["turboquant"]), np.arange(40), **same)
    for change, match in (
        ({"options": FORMS["uniform"]}, "options"),
        ({"options": CacheOptions(kv_bits=3.5, key_bits=4)}, "options"),
        ({"specs": HYBRID[:3]}, "layers"),
        ({"dtype": mx.bfloat16}, "dtype"),
        ({"model_key": "other"}, "model"),
    ):
        with pytest.raises(CacheFormatError, match=match):
            load_caches(path, **same | change)
    monkeypatch.setattr(saved_module, "VERSION", 2)
    with pytest.raises(CacheFormatError, match="version 1, this version reads 2"):
        load_caches(path, **same)
    monkeypatch.undo()
    monkeypatch.setattr(saved_module.turboquant, "FORMAT_VERSION", 9)
    with pytest.raises(CacheFormatError, match="packing"):
        load_caches(path, **same)


def test_what_is_no_saved_cache_is_named(tmp_path) -> None:
    same = {"specs": HYBRID, "options": CacheOptions(), "dtype": mx.float32, "model_key": "m"}
    (tmp_path / "bad.safetensors").write_bytes(b"nothing")
    mx.save_safetensors(str(tmp_path / "other.safetensors"), {"a": mx.zeros(3)})
    for name in ("missing.safetensors", "bad.safetensors", "other.safetensors"):
        with pytest.raises(CacheFormatError, match=name):
            load_caches(tmp_path / name, **same)
    with pytest.raises(CacheFormatError, match="safetensors"):
        save_caches(tmp_path / "cache.bin", filled(CacheOptions()), np.arange(40), **same)


def test_engine_statistics_report_bytes_of_a_token_and_their_ratio() -> None:
    model = FakeModel(("full", "window", "full"))
    size = model.cache_spec()[0].key_size
    plain = EngineCore(model).stats
    assert plain.cache_ratio == 1 and plain.bytes_per_token == 2 * 2 * 2 * size * model.dtype.size
    stats = EngineCore(model, EngineOptions(cache=CacheOptions(kv_bits=3.5))).stats
    each = sum(4 * -(-size * bits // 32) + 2 for bits in (1, 2, 4))  # codes of 3 bits are fields of 2 and 1
    assert stats.bytes_per_token == 2 * 2 * (each - 2)
    assert stats.cache_ratio == stats.bytes_per_token / plain.bytes_per_token
    assert EngineCore(FakeModel(("window",))).stats.cache_ratio is None
