from __future__ import annotations

import mlx.core as mx
import numpy as np
import pytest

from vlm_kernels import attention as plain
from vlm_kernels import dispatch
from vlm_kernels.errors import KernelError
from vlm_kernels.testing import random, relative_error
from vlm_kernels.turboquant import attention, cpu, decode, dense, encode, reference
from vlm_kernels.turboquant.cases import ATTENTION, AttentionCase
from vlm_kernels.turboquant.masks import KeyMask


def plain_attention(case: AttentionCase) -> np.ndarray:
    """Softmax over the decoded keys in float64, with the mask spelled out position by position."""
    q, keys, values, scale, mask = case.build()
    k, v = np.array(decode(keys), np.float64), np.array(decode(values), np.float64)
    q = np.array(q.astype(mx.float32), np.float64)
    group = case.num_heads // case.num_kv_heads
    out = np.zeros((*q.shape[:3], v.shape[-1]))
    lengths = np.broadcast_to(np.array(case.num_keys if case.lengths is None else case.lengths), case.batch)
    offsets = None if case.offsets is None else np.broadcast_to(np.array(case.offsets), case.batch)
    extra = None if mask.array is None else np.broadcast_to(np.array(mask.array), (*q.shape[:3], case.num_keys))
    for b, h, i in np.ndindex(*q.shape[:3]):
        scores = k[b, h // group] @ q[b, h, i] * scale
        position = np.arange(case.num_keys)
        seen = position < lengths[b]
        if offsets is not None:
            seen &= position <= offsets[b] + i
            if case.window is not None:
                seen &= position > offsets[b] + i - case.window
        if extra is not None and extra.dtype == bool:
            seen &= extra[b, h, i]
        elif extra is not None:
            scores = scores + extra[b, h, i]
        if seen.any():
            weights = np.exp(scores[seen] - scores[seen].max())
            out[b, h, i] = weights @ v[b, h // group][seen] / weights.sum()
    return out


@pytest.mark.parametrize("case", ATTENTION, ids=lambda case: case.name)
def test_reference_is_attention_on_the_decoded_vectors(case, monkeypatch):
    monkeypatch.setattr(reference, "KEY_BLOCK", 32)
    q, keys, values, scale, mask = case.build()
    got = reference.attention(q, keys, values, scale=scale, mask=mask)
    assert got.dtype == case.dtype
    assert relative_error(got, plain_attention(case)) < (1e-5 if case.dtype == mx.float32 else 4e-3)


def test_chunks_equal_one_prefill():
    q, k = random((1, 4, 6, 64), seed=1), random((1, 2, 6, 64), seed=2)
    keys, values = encode(k, 3), encode(k, 4)
    whole = attention(q, keys, values, scale=0.1, lengths=6, offsets=0)
    for start, end in ((0, 2), (2, 5), (5, 6)):
        part = attention(q[:, :, start:end], keys, values, scale=0.1, lengths=end, offsets=start)
        assert relative_error(part, whole[:, :, start:end]) < 1e-5


def test_batch_equals_singles():
    q, k = random((2, 4, 1, 64), seed=1), random((2, 2, 50, 64), seed=2)
    keys, values = encode(k, 3), encode(k, 4)
    lengths = mx.array([50, 20])
    both = attention(q, keys, values, scale=0.1, lengths=lengths, offsets=lengths - 1)
    for row, length in enumerate((50, 20)):
        one = slice(row, row + 1)
        alone = attention(q[one], encode(k[one], 3), encode(k[one], 4), scale=0.1, lengths=length, offsets=length - 1)
        assert relative_error(both[one], alone) < 1e-5


def test_what_lies_beyond_the_length_is_not_read():
    q, k = random((1, 2, 1, 64), seed=1), random((1, 1, 40, 64), seed=2)
    garbage = mx.where(mx.arange(40)[:, None] < 30, k, 1e4 * k)
    for length in (30, mx.array([30])):
        clean = attention(q, encode(k, 3), encode(k, 4), scale=0.1, lengths=length)
        dirty = attention(q, encode(garbage, 3), encode(garbage, 4), scale=0.1, lengths=length)
        assert mx.array_equal(clean, dirty)


def test_the_cache_is_never_unpacked_as_a_whole():
    keys = encode(random((1, 4, 16_384, 64), seed=2), 3)
    values = encode(random((1, 4, 16_384, 64), seed=3), 4)
    q = random((1, 8, 1, 64), seed=1)
    mx.eval(keys.codes, keys.norms, values.codes, values.norms, q)
    mx.clear_cache()
    mx.reset_peak_memory()
    before = mx.get_active_memory()
    with dispatch.use("reference"):
        mx.eval(attention(q, keys, values, scale=0.1))
    sixteen_bits = 2 * 2 * 4 * 16_384 * 64
    assert mx.get_peak_memory() - before < sixteen_bits


def test_a_long_chunk_holds_the_unpacked_keys_of_one_layer_at_a_time():
    """However many layers follow each other in one graph."""
    num_keys, size = 16_384, 128
    keys = encode(random((1, 2, num_keys, size), seed=2), 3)
    values = encode(random((1, 2, num_keys, size), seed=3), 4)
    q = random((1, 4, 16, size), mx.float16, seed=1)
    mx.eval(keys.codes, keys.norms, values.codes, values.norms, q)

    def peak(num_layers: int) -> int:
        mx.clear_cache()
        mx.reset_peak_memory()
        before, x = mx.get_active_memory(), q
        for _ in range(num_layers):
            x = dense.dense_attention(
                cpu._unpack, x, keys, values, scale=0.1, mask=KeyMask(num_keys, num_keys - 16), attend=plain
            )
        mx.eval(x)
        return mx.get_peak_memory() - before

    unpacked = 2 * 2 * 2 * num_keys * size  # float16 keys and values of two heads
    assert unpacked >= dense.WAIT_BYTES
    assert peak(8) < peak(1) + 2 * unpacked


def test_gradient_with_respect_to_queries():
    q, k = random((1, 2, 2, 64), seed=1), random((1, 1, 10, 64), seed=2)
    keys, values = encode(k, 4), encode(k, 4)
    dense_k, dense_v = decode(keys), decode(values)

    def packed_loss(x: mx.array) -> mx.array:
        return reference.attention(x, keys, values, scale=0.2, mask=KeyMask()).sum()

    def dense_loss(x: mx.array) -> mx.array:
        return (mx.softmax(0.2 * x @ dense_k.swapaxes(-1, -2), axis=-1) @ dense_v).sum()

    assert relative_error(mx.grad(packed_loss)(q), mx.grad(dense_loss)(q)) < 1e-4


@pytest.mark.parametrize("shape", [(1, 3, 1, 64), (2, 4, 1, 64), (1, 4, 1, 128), (4, 1, 64)])
def test_queries_that_do_not_belong_are_named_errors(shape):
    keys = encode(random((1, 2, 10, 64)), 3)
    with pytest.raises(KernelError, match="queries"):
        attention(random(shape), keys, keys, scale=1.0)


def test_a_window_needs_positions():
    keys = encode(random((1, 2, 10, 64)), 3)
    with pytest.raises(KernelError, match="window"):
        attention(random((1, 2, 1, 64)), keys, keys, scale=1.0, window=4)


def test_keys_and_values_must_have_one_shape():
    with pytest.raises(KernelError, match="one shape"):
        attention(random((1, 2, 1, 64)), encode(random((1, 2, 10, 64)), 3), encode(random((1, 2, 9, 64)), 3), scale=1.0)
