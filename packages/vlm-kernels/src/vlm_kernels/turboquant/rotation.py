"""The random rotation that makes the coordinates of any vector look normal.

A dense orthogonal matrix drawn from the Haar measure. Measured against signs + Hadamard: one round leaves one-hot
vectors with two distinct magnitudes (2.2 times the Gaussian distortion), two rounds with a lattice (1.46 times); the dense
matrix stays within 1.03 and needs no special case for head sizes that are not powers of two. It is applied once to each
new key, value and query, never to stored ones.
"""

from __future__ import annotations

from functools import cache

import mlx.core as mx
import numpy as np


@cache
def rotation_matrix(head_size: int, seed: int) -> np.ndarray:
    """Orthogonal matrix [head_size, head_size], float32; `x @ matrix` rotates, `y @ matrix.T` rotates back."""
    generator = np.random.Generator(np.random.Philox(key=[seed, head_size]))
    # Householder QR of a normal matrix; positive diagonal signs make the factor unique and Haar distributed.
    factor, triangle = np.linalg.qr(generator.standard_normal((head_size, head_size)))
    return np.ascontiguousarray(factor * np.sign(np.diag(triangle)), dtype=np.float32)


@cache
def rotation_array(head_size: int, seed: int, transposed: bool = False) -> mx.array:
    """`rotation_matrix` (or its transpose) as an MLX array that all calls share."""
    matrix = rotation_matrix(head_size, seed)
    array = mx.array(np.ascontiguousarray(matrix.T) if transposed else matrix)
    mx.eval(array)  # a lazy array made under one stream must not be evaluated for the first time under another
    return array
