"""Capped scores, sinks and plain tokens before the packed ones: every path against softmax spelled out in float64."""

from __future__ import annotations

import functools

import mlx.core as mx
import numpy as np
import pytest

from vlm_kernels import attention as plain_attention
from vlm_kernels import emulate
from vlm_kernels.errors import KernelError
from vlm_kernels.testing import random, relative_error
from vlm_kernels.turboquant import Extras, attention, cpu, cuda, decode, dense, encode, kernels, metal, reference
from vlm_kernels.turboquant.kernels import Dialect
from vlm_kernels.turboquant.masks import KeyMask

METAL = Dialect("metal", emulate.metal_kernel, block_threads=256, encode_threads=256)
CUDA = Dialect("cuda", emulate.cuda_kernel, block_threads=1024, encode_threads=512)
needs_compiler = pytest.mark.skipif(emulate.compiler() is None, reason="no C++ compiler to run kernel text with")
BATCH, HEADS, KV_HEADS, BEFORE, KEYS, SIZE, SCALE = 2, 4, 2, 9, 60, 64, 0.3


def parts(num_queries, softcap=None, sinks=False, prefix=False):
    """Queries, packed keys and values, extras, and what attention of float64 says of the decoded ones."""
    q = random((BATCH, HEADS, num_queries, SIZE), seed=1, scale=2.0)
    keys = encode(random((BATCH, KV_HEADS, KEYS, SIZE), seed=2), 3)
    values = encode(random((BATCH, KV_HEADS, KEYS, SIZE), seed=3), 4)
    sink = random((HEADS,), seed=4, scale=3.0) if sinks else None
    shape = (BATCH, KV_HEADS, BEFORE, SIZE)
    before = (random(shape, seed=5), random(shape, seed=6)) if prefix else None
    return q, keys, values, Extras(softcap, sink, before)


def expected(q, keys, values, extras, lengths, offsets, window):
    k, v = (np.array(decode(packed), np.float64) for packed in (keys, values))
    if extras.prefix is not None:
        k, v = (np.concatenate([np.array(p, np.float64), x], 2) for p, x in zip(extras.prefix, (k, v), strict=True))
    out = np.zeros(q.shape)
    queries = np.array(q, np.float64)
    for b, h, i in np.ndindex(*q.shape[:3]):
        scores = k[b, h // (HEADS // KV_HEADS)] @ queries[b, h, i] * SCALE
        if extras.softcap is not None:
            scores = extras.softcap * np.tanh(scores / extras.softcap)
        at = np.arange(k.shape[2])
        seen = (at < lengths[b]) & (at <= offsets[b] + i) & (at > offsets[b] + i - (window or 10**6))
        weights = np.exp(np.where(seen, scores, -np.inf))
        total = weights.sum() + (0 if extras.sinks is None else np.exp(float(extras.sinks[h].item())))
        if total:
            out[b, h, i] = weights @ v[b, h // (HEADS // KV_HEADS)] / total
    return out


cases = pytest.mark.parametrize(
    "given",
    [
        {"softcap": 2.0},
        {"sinks": True},
        {"prefix": True},
        {"prefix": True, "sinks": True, "softcap": 5.0},
    ],
    ids=lambda given: "-".join(given),
)


def positions(extras, num_queries):
    """Rows of different lengths, the second one (with a prefix) within its plain tokens."""
    whole = KEYS + extras.num_before
    lengths = np.array([whole - 3, 6 if extras.num_before else 20])
    offsets = lengths - num_queries
    return lengths, offsets


@cases
@pytest.mark.parametrize("window", [None, 12])
@pytest.mark.parametrize("num_queries", [1, 3])
def test_reference(given, num_queries, window, monkeypatch):
    monkeypatch.setattr(reference, "KEY_BLOCK", 16)
    q, keys, values, extras = parts(num_queries, **given)
    lengths, offsets = positions(extras, num_queries)
    mask = KeyMask(mx.array(lengths), mx.array(offsets), window)
    got = reference.attention(q, keys, values, scale=SCALE, mask=mask, extras=extras)
    assert relative_error(got, expected(q, keys, values, extras, lengths, offsets, window)) < 1e-5


@cases
@pytest.mark.parametrize("num_queries", [1, 20])
def test_the_chosen_path(given, num_queries):
    q, keys, values, extras = parts(num_queries, **given)
    lengths, offsets = positions(extras, num_queries)
    if num_queries > 1:
        lengths, offsets = lengths.max().repeat(2), offsets.max().repeat(2)
        got = attention(q, keys, values, scale=SCALE, lengths=int(lengths[0]), offsets=int(offsets[0]), extras=extras)
    else:
        got = attention(
            q, keys, values, scale=SCALE, lengths=mx.array(lengths), offsets=mx.array(offsets), extras=extras
        )
    assert relative_error(got, expected(q, keys, values, extras, lengths, offsets, None)) < 1e-4


@cases
@needs_compiler
@pytest.mark.parametrize(("backend", "language"), [(metal, METAL), (cuda, CUDA)], ids=["metal", "cuda"])
def test_kernels_of_few_queries(given, backend, language, monkeypatch):
    monkeypatch.setattr(backend, "dialect", lambda: language)
    q, keys, values, extras = parts(1, **given)
    lengths, offsets = positions(extras, 1)
    mask = KeyMask(mx.array(lengths), mx.array(offsets))
    got = backend.attention(q, keys, values, scale=SCALE, mask=mask, extras=extras)
    assert relative_error(got, expected(q, keys, values, extras, lengths, offsets, None)) < 1e-5


@needs_compiler
def test_scan_on_cuda_takes_a_softcap(monkeypatch):
    q, keys, values, extras = parts(1, softcap=2.0)
    mask = KeyMask()
    want = reference.attention(q, keys, values, scale=SCALE, mask=mask, extras=extras)
    got, _ = kernels.scan(CUDA, q, keys, values, SCALE, mask, 6, softcap=2.0)
    assert relative_error(got, want) < 1e-5


@pytest.mark.parametrize("start", [0, 5, BEFORE])
def test_dense_groups_of_heads_join_plain_tokens(start, monkeypatch):
    """Also where no packed token is seen yet."""
    monkeypatch.setattr(dense, "WORKSPACE_BYTES", 1)
    q, keys, values, extras = parts(4, prefix=True, sinks=True)
    lengths = np.array([start + 4] * 2)
    mask = KeyMask(start + 4, start)
    got = dense.dense_attention(
        functools.partial(cpu._unpack), q, keys, values, scale=SCALE, mask=mask, attend=plain_attention, extras=extras
    )
    assert relative_error(got, expected(q, keys, values, extras, lengths, lengths - 4, None)) < 2e-3


def test_a_prefix_equals_more_tokens_of_no_loss():
    """Splitting the same tokens elsewhere changes nothing but which of them are rounded."""
    x = random((1, 2, 40, SIZE), seed=7)
    q = random((1, 4, 1, SIZE), seed=8)
    for before in (1, 8, 39):
        plain = (x[:, :, :before], x[:, :, :before])
        rest = encode(x[:, :, before:], 8)
        got = attention(q, rest, rest, scale=0.1, lengths=40, offsets=39, extras=Extras(prefix=plain))
        want = mx.softmax(0.1 * q @ mx.repeat(x, 2, axis=1).swapaxes(-1, -2), axis=-1) @ mx.repeat(x, 2, axis=1)
        assert relative_error(got, want) < 1e-2


@pytest.mark.parametrize(
    ("extras", "named"),
    [
        (lambda: Extras(softcap=0.0), "softcap"),
        (lambda: Extras(sinks=mx.zeros(3)), "sink"),
        (lambda: Extras(prefix=(mx.zeros((1, 2, 3, SIZE)), mx.zeros((1, 2, 4, SIZE)))), "prefix"),
        (lambda: Extras(prefix=(mx.zeros((1, 1, 3, SIZE)), mx.zeros((1, 1, 3, SIZE)))), "plain tokens"),
        (lambda: Extras(prefix=(mx.zeros((1, 2, 3, 32)), mx.zeros((1, 2, 3, SIZE)))), "plain tokens"),
    ],
)
def test_extras_that_do_not_belong_are_named_errors(extras, named):
    packed = encode(random((1, 2, 10, SIZE)), 3)
    with pytest.raises(KernelError, match=named):
        attention(random((1, 4, 1, SIZE)), packed, packed, scale=1.0, extras=extras())
