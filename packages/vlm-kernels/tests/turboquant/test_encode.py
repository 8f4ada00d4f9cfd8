from __future__ import annotations

import mlx.core as mx
import numpy as np
import pytest

from vlm_kernels.errors import KernelError
from vlm_kernels.turboquant import Spec, decode, encode
from vlm_kernels.turboquant.packing import pack, unpack

PUBLISHED = {1: 0.3634, 2: 0.1175, 3: 0.03454, 4: 0.009497}
HEAD_SIZES = (64, 80, 96, 128, 256)


def distortion(x: np.ndarray, bits: int) -> float:
    """Mean over vectors of |x - x^|^2 / |x|^2. x: [N, D]."""
    decoded = np.array(decode(encode(mx.array(x[None, None].astype(np.float32)), bits)))[0, 0]
    return float(np.mean(np.sum((x - decoded) ** 2, axis=1) / np.sum(x**2, axis=1)))


def structured(kind: str, head_size: int) -> np.ndarray:
    generator = np.random.default_rng(7)
    eye = np.eye(head_size)
    if kind == "one-hot":
        return eye
    if kind == "two-hot":
        pairs = [(i, j) for i in range(0, head_size, 3) for j in range(i + 1, head_size, 7)]
        return np.stack([eye[i] + sign * eye[j] for i, j in pairs for sign in (1, -1)])
    if kind == "constant":
        return np.stack([np.full(head_size, 3.0), np.full(head_size, -0.01)])
    return generator.standard_normal((head_size, head_size)) * (1 + 19 * eye)


@pytest.mark.parametrize("bits", PUBLISHED)
@pytest.mark.parametrize("head_size", HEAD_SIZES)
def test_distortion_on_random_vectors(head_size, bits):
    x = np.random.default_rng(0).standard_normal((2000, head_size))
    assert distortion(x, bits) <= 1.03 * PUBLISHED[bits]


@pytest.mark.parametrize("kind", ["one-hot", "two-hot", "constant", "one 20x channel"])
@pytest.mark.parametrize("bits", PUBLISHED)
@pytest.mark.parametrize("head_size", HEAD_SIZES)
def test_distortion_on_structured_vectors(head_size, bits, kind):
    assert distortion(structured(kind, head_size), bits) <= 1.2 * PUBLISHED[bits]


@pytest.mark.parametrize("head_size", [72, 112, 160, 192, 512])
def test_other_head_sizes_reach_the_same_distortion(head_size):
    x = np.random.default_rng(0).standard_normal((500, head_size))
    assert distortion(x, 3) <= 1.03 * PUBLISHED[3]


@pytest.mark.parametrize("bits", range(1, 9))
@pytest.mark.parametrize("head_size", [8, 64, 72, 80, 112, 128, 192])
def test_unpack_undoes_pack(head_size, bits):
    codes = mx.array(np.random.default_rng(0).integers(0, 2**bits, (3, 5, head_size)).astype(np.uint32))
    words = pack(codes, bits)
    assert words.shape == (3, 5, Spec(bits, head_size).num_words)
    assert mx.array_equal(unpack(words, bits, head_size), codes)


def test_length_and_scale_come_back():
    x = np.random.default_rng(0).standard_normal((1, 1, 50, 64)).astype(np.float32)
    small, large = (np.array(decode(encode(mx.array(x * factor), 4))) / factor for factor in (1e-4, 1e4))
    assert np.allclose(small, large, atol=0.02)
    assert np.linalg.norm(small - x) / np.linalg.norm(x) < 0.11


def test_a_zero_vector_stays_zero():
    assert not np.array(decode(encode(mx.zeros((1, 1, 2, 64)), 3))).any()


def test_the_seed_decides_the_codes():
    x = mx.array(np.random.default_rng(0).standard_normal((1, 1, 3, 64)).astype(np.float32))
    first, again, other = encode(x, 3, seed=5), encode(x, 3, seed=5), encode(x, 3, seed=6)
    assert mx.array_equal(first.codes, again.codes)
    assert not mx.array_equal(first.codes, other.codes)
    assert other.spec.seed == 6


def test_a_token_is_encoded_alone():
    x = mx.array(np.random.default_rng(0).standard_normal((2, 3, 5, 64)).astype(np.float32))
    whole, alone = encode(x, 3), encode(x[1:, 2:, 4:], 3)
    assert mx.array_equal(whole.codes[1:, 2:, 4:], alone.codes)
    assert mx.array_equal(whole.norms[1:, 2:, 4:], alone.norms)


@pytest.mark.parametrize("x", [mx.zeros((3, 64)), mx.zeros((1, 1, 3, 64), mx.int32), mx.zeros((1, 1, 3, 20))])
def test_what_cannot_be_encoded_is_a_named_error(x):
    with pytest.raises(KernelError, match="turboquant"):
        encode(x, 3)
