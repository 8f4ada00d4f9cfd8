"""The native CPU kernels against the reference, on every instruction set of this machine."""

from __future__ import annotations

import mlx.core as mx
import pytest

from vlm_kernels import native
from vlm_kernels.testing import random, relative_error
from vlm_kernels.turboquant import Spec, cpu, reference
from vlm_kernels.turboquant.cases import ATTENTION
from vlm_kernels.turboquant.masks import KeyMask
from vlm_kernels.turboquant.packing import unpack

library = native.library()
pytestmark = pytest.mark.skipif(not hasattr(library, "turboquant_attention"), reason="no native library with these ops")


@pytest.fixture(params=[] if library is None else library.instruction_sets(), autouse=True)
def instruction_set(request):
    used = library.instruction_set()
    library.set_instruction_set(request.param)
    yield request.param
    library.set_instruction_set(used)


@pytest.mark.parametrize("case", ATTENTION, ids=lambda case: case.name)
def test_attention(case):
    q, keys, values, scale, mask = case.build()
    want = reference.attention(q, keys, values, scale=scale, mask=mask)
    got = cpu.attention(q, keys, values, scale=scale, mask=mask)
    assert got.dtype == want.dtype
    assert relative_error(got, want) < (1e-5 if case.dtype == mx.float32 else 4e-3)


def test_keys_in_several_parts():
    keys = reference.encode(random((1, 1, 3000, 64), seed=1), Spec(3, 64))
    values = reference.encode(random((1, 1, 3000, 64), seed=2), Spec(4, 64))
    q = random((1, 7, 2, 64), seed=3)
    for window in (None, 1000):
        mask = KeyMask(lengths=2900, offsets=mx.array([2898]), window=window)
        want = reference.attention(q, keys, values, scale=0.3, mask=mask)
        assert relative_error(cpu.attention(q, keys, values, scale=0.3, mask=mask), want) < 1e-5


@pytest.mark.parametrize("dtype", [mx.float32, mx.bfloat16])
@pytest.mark.parametrize("lengths", [90, mx.array([90, 60])])
def test_a_long_chunk(lengths, dtype):
    keys = reference.encode(random((2, 2, 100, 64), seed=1), Spec(3, 64))
    values = reference.encode(random((2, 2, 100, 64), seed=2), Spec(4, 64))
    q = random((2, 4, 40, 64), dtype, seed=3)
    mask = KeyMask(lengths=lengths, offsets=lengths - 40)
    want = reference.attention(q.astype(mx.float32), keys, values, scale=0.125, mask=mask)
    got = cpu.attention(q, keys, values, scale=0.125, mask=mask)
    assert relative_error(got, want) < (2e-5 if dtype == mx.float32 else 6e-3)


@pytest.mark.parametrize(
    ("head_size", "bits"), [(8, 2), (64, 3), (72, 7), (80, 1), (96, 4), (112, 5), (128, 8), (192, 6), (512, 4)]
)
def test_encode(head_size, bits):
    x = random((2, 2, 11, head_size), seed=1)
    x[0, 0, 0] = 0
    spec = Spec(bits, head_size)
    want, got = reference.encode(x, spec), cpu.encode(x, spec)
    # Sums in another order: a coordinate next to a threshold may fall on its other side.
    differs = unpack(want.codes, bits, head_size) != unpack(got.codes, bits, head_size)
    assert differs.sum().item() <= 2
    assert relative_error(got.norms, want.norms) < 5e-3


def test_views_are_read_by_their_strides():
    x = random((1, 9, 2, 64), seed=1).swapaxes(1, 2)
    assert mx.array_equal(cpu.encode(x, Spec(3, 64)).codes, cpu.encode(mx.contiguous(x), Spec(3, 64)).codes)
