from __future__ import annotations

import mlx.core as mx
import pytest

from vlm_kernels.errors import KernelError
from vlm_kernels.testing import random
from vlm_kernels.turboquant import Packed, Spec, allocate, encode, write

SPEC = Spec(3, 64)


def test_a_store_holds_codes_and_norms_and_nothing_else():
    store = allocate(2, 3, 10, SPEC)
    assert store.nbytes == 2 * 3 * 10 * SPEC.num_bytes == 2 * 3 * 10 * 26


@pytest.mark.parametrize("offsets", [4, mx.array([4, 1])])
def test_rows_are_written_at_their_offsets(offsets):
    new = encode(random((2, 3, 2, 64)), 3)
    store = write(allocate(2, 3, 10, SPEC), new, offsets)
    starts = [4, 4] if isinstance(offsets, int) else [4, 1]
    for row, start in enumerate(starts):
        assert mx.array_equal(store.codes[row, :, start : start + 2], new.codes[row])
        assert mx.array_equal(store.norms[row, :, start : start + 2], new.norms[row])
        assert not store.norms[row, :, :start].any() and not store.norms[row, :, start + 2 :].any()


def test_token_by_token_equals_a_chunk():
    new = encode(random((2, 3, 4, 64)), 3)
    chunk = write(allocate(2, 3, 10, SPEC), new, 3)
    steps = allocate(2, 3, 10, SPEC)
    for i in range(4):
        steps = write(
            steps, Packed(new.codes[:, :, i : i + 1], new.norms[:, :, i : i + 1], SPEC), mx.array([3 + i] * 2)
        )
    assert mx.array_equal(chunk.codes, steps.codes) and mx.array_equal(chunk.norms, steps.norms)


def test_a_write_reuses_the_store():
    store = allocate(1, 8, 20_000, SPEC)
    new = encode(random((1, 8, 1, 64)), 3)
    mx.eval(store.codes, store.norms, new.codes, new.norms)
    mx.reset_peak_memory()
    before = mx.get_active_memory()
    for i in range(4):
        store = write(store, new, mx.array([i]))
        mx.eval(store.codes, store.norms)
    assert mx.get_peak_memory() - before < store.nbytes / 4


def test_specs_never_mix():
    with pytest.raises(KernelError, match="store's spec"):
        write(allocate(1, 1, 4, SPEC), encode(random((1, 1, 1, 64)), 4), 0)


@pytest.mark.parametrize(
    ("shape", "offset"), [((1, 1, 2, 64), 9), ((1, 1, 11, 64), 0), ((1, 2, 1, 64), 0), ((1, 1, 1, 64), -1)]
)
def test_what_does_not_fit_is_a_named_error(shape, offset):
    with pytest.raises(KernelError, match="turboquant"):
        write(allocate(1, 1, 10, SPEC), encode(random(shape), 3), offset)


def test_codes_and_norms_must_belong_together():
    packed = encode(random((1, 1, 4, 64)), 3)
    with pytest.raises(KernelError, match="sliced alike"):
        Packed(packed.codes[:, :, :2], packed.norms, SPEC)
    with pytest.raises(KernelError, match="bfloat16"):
        Packed(packed.codes, packed.norms.astype(mx.float32), SPEC)
