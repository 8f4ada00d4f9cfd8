"""TurboQuant attention on CUDA.

Few query rows, head sizes 64, 128, 256 and 512, up to 4 bits: a rotation of the queries, the split-K kernel, and a reduction
that rotates back. Many query rows: unpacking into a bounded workspace before MLX's dense attention. The rest takes the
reference.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np

from . import reference
from .codebook import codebook
from .dense import dense_attention
from .masks import KeyMask
from .packed import Packed
from .rotation import rotation_array
from .spec import Spec

LOG2_E = 1.4426950408889634
HEAD_SIZES = (64, 128, 256, 512)
MAX_BITS = 4
MAX_ROWS = 64
MAX_SPLITS = 512
# Coordinates of the values that one warp sums in its registers.
MAX_VALUE_TILE = 256
# The H200 has 132 multiprocessors; registers let three or four blocks run on one (see `_num_blocks`).
NUM_MULTIPROCESSORS = 132
MIN_KEYS_PER_SPLIT = 256
BLOCK_THREADS = 1024
MIN_DENSE_QUERIES = 16
UNPACK_THREADS = 256
ENCODE_THREADS = 512
# From this many vectors on, several share a block and one pass over the rotation.
MANY_VECTORS = 1024
VECTORS_PER_BLOCK = 8

Factory = Callable[..., Any]


def attention(q: mx.array, keys: Packed, values: Packed, *, scale: float, mask: KeyMask) -> mx.array:
    """`reference.attention` on CUDA."""
    if serves(q, keys, values):
        return decode_attention(mx.fast.cuda_kernel, q, keys, values, scale=scale, mask=mask)
    if q.shape[2] >= MIN_DENSE_QUERIES and q.dtype != mx.float32:
        unpack = functools.partial(unpack_heads, mx.fast.cuda_kernel)
        return dense_attention(unpack, q, keys, values, scale=scale, mask=mask)
    return reference.attention(q, keys, values, scale=scale, mask=mask)


def serves(q: mx.array, keys: Packed, values: Packed) -> bool:
    """Whether the split-K kernel takes this call."""
    rows = q.shape[1] // keys.norms.shape[1] * q.shape[2]
    return (
        rows <= MAX_ROWS
        and all(spec.head_size in HEAD_SIZES and spec.bits <= MAX_BITS for spec in (keys.spec, values.spec))
        and keys.norms.shape[2] >= 16
    )


def decode_attention(
    factory: Factory,
    q: mx.array,
    keys: Packed,
    values: Packed,
    *,
    scale: float,
    mask: KeyMask,
    num_splits: int | None = None,
) -> mx.array:
    """The three kernels, made by `factory`: `mx.fast.cuda_kernel`, or its emulation."""
    batch, num_heads, length, head_size = q.shape
    num_kv_heads, num_keys = keys.norms.shape[1:]
    rows = num_heads // num_kv_heads * length
    value_size = values.spec.head_size
    column_tiles = 1 if rows <= 4 else 2
    row_tiles = -(-rows // (4 * column_tiles))
    if num_splits is None:
        wanted = _num_blocks(value_size, column_tiles) // (batch * num_kv_heads * row_tiles)
        num_splits = max(1, min(wanted, -(-num_keys // MIN_KEYS_PER_SPLIT), MAX_SPLITS))

    rotated = rotate(factory, q, scale * LOG2_E * codebook(keys.spec.bits).step / 2, keys)
    mask_array, mask_kind = _mask_array(mask, batch, num_heads, length, num_keys)
    partial, stats = _decode_kernel(factory)(
        inputs=[
            rotated,
            keys.codes,
            keys.norms,
            values.codes,
            values.norms,
            byte_table(keys.spec.bits),
            byte_table(values.spec.bits),
            mask_array,
            _per_row(mask.lengths, batch, num_keys),
            _per_row(mask.offsets, batch, 0),
        ],
        template=[
            ("D", head_size),
            ("DV", value_size),
            ("KEY_BITS", keys.spec.bits),
            ("VALUE_BITS", values.spec.bits),
            ("DV_TILE", min(value_size, MAX_VALUE_TILE)),
            ("COLUMN_TILES", column_tiles),
            ("MASK", mask_kind),
            ("MASK_HEADS", mask_array.shape[1] if mask_kind else 1),
            ("MASK_QUERIES", mask_array.shape[2] if mask_kind else 1),
            ("QUERIES", length),
            ("CAUSAL", mask.offsets is not None),
            ("WINDOW", mask.window or 0),
        ],
        grid=(num_splits * 128, batch * num_kv_heads, row_tiles),
        threadgroup=(128, 1, 1),
        output_shapes=[
            (batch * num_kv_heads, num_splits, rows, value_size),
            (batch * num_kv_heads, num_splits, rows, 2),
        ],
        output_dtypes=[mx.float32, mx.float32],
    )
    (out,) = _reduce_kernel(factory)(
        inputs=[
            partial,
            stats,
            rotation_array(value_size, values.spec.seed, transposed=True),
            _constant(codebook(values.spec.bits).step / 2),
        ],
        template=[("T", q.dtype), ("DV", value_size), ("THREADS", BLOCK_THREADS), ("MAX_SPLITS", MAX_SPLITS)],
        grid=(rows * BLOCK_THREADS, batch * num_kv_heads, 1),
        threadgroup=(BLOCK_THREADS, 1, 1),
        output_shapes=[(batch, num_heads, length, value_size)],
        output_dtypes=[q.dtype],
    )
    return out


def _num_blocks(value_size: int, column_tiles: int) -> int:
    """Blocks of the split-K kernel that run at once."""
    return NUM_MULTIPROCESSORS * (4 if value_size * column_tiles <= 128 else 3)


def encode(x: mx.array, spec: Spec) -> Packed:
    """`reference.encode` on CUDA."""
    return encode_vectors(mx.fast.cuda_kernel, x, spec)


def encode_vectors(factory: Factory, x: mx.array, spec: Spec) -> Packed:
    """The encoder, made by `factory`."""
    num_vectors, head_size = x.size // x.shape[-1], x.shape[-1]
    if num_vectors == 0:
        return reference.encode(x, spec)
    vectors = 1 if num_vectors < MANY_VECTORS else VECTORS_PER_BLOCK
    groups = max(1, ENCODE_THREADS // head_size)
    codes, norms = _encode_kernel(factory)(
        inputs=[
            x.reshape(num_vectors, head_size),
            rotation_array(head_size, spec.seed),
            _table(spec.bits, "thresholds"),
            _table(spec.bits, "values"),
        ],
        template=[
            ("T", x.dtype),
            ("BITS", spec.bits),
            ("D", head_size),
            ("VECTORS", vectors),
            ("GROUPS", groups),
            ("THREADS", ENCODE_THREADS),
            ("NUM_WORDS", spec.num_words),
        ],
        grid=(-(-num_vectors // vectors) * ENCODE_THREADS, 1, 1),
        threadgroup=(ENCODE_THREADS, 1, 1),
        output_shapes=[(*x.shape[:-1], spec.num_words), x.shape[:-1]],
        output_dtypes=[mx.uint32, mx.bfloat16],
    )
    return Packed(codes, norms, spec)


def rotate(factory: Factory, x: mx.array, factor: float, packed: Packed) -> mx.array:
    """float32 `factor * x @ matrix`, in full precision: MLX's matmul would take TF32."""
    head_size = x.shape[-1]
    (out,) = _rotate_kernel(factory)(
        inputs=[x, rotation_array(head_size, packed.spec.seed), _constant(factor)],
        template=[("T", x.dtype), ("D", head_size), ("THREADS", BLOCK_THREADS)],
        grid=(x.size // head_size * BLOCK_THREADS, 1, 1),
        threadgroup=(BLOCK_THREADS, 1, 1),
        output_shapes=[x.shape],
        output_dtypes=[mx.float32],
    )
    return out


def unpack_heads(factory: Factory, packed: Packed, first: int, last: int, num_keys: int, factor: mx.array) -> mx.array:
    """float16 [B, last - first, num_keys, D]: `factor` times the vectors of some heads, in the rotated basis."""
    batch, spec = packed.norms.shape[0], packed.spec
    num_threads = batch * (last - first) * num_keys * (spec.head_size // 8)
    (out,) = _unpack_kernel(factory)(
        inputs=[
            packed.codes,
            packed.norms,
            _table(spec.bits, "values"),
            factor,
            mx.array([first, last - first, num_keys, batch, 0, 0, 0, 0], mx.int32),
        ],
        template=[
            ("BITS", spec.bits),
            ("D", spec.head_size),
        ],
        grid=(-(-num_threads // UNPACK_THREADS) * UNPACK_THREADS, 1, 1),
        threadgroup=(UNPACK_THREADS, 1, 1),
        output_shapes=[(batch, last - first, num_keys, spec.head_size)],
        output_dtypes=[mx.float16],
    )
    return out


@functools.cache
def _table(bits: int, name: str) -> mx.array:
    values = getattr(codebook(bits), name)
    # At least 8 numbers: MLX hands smaller arrays to Metal in another address space.
    array = mx.array(np.resize(values if values.size else np.zeros(1, np.float32), max(8, values.size)))
    mx.eval(array)
    return array


@functools.cache
def byte_table(bits: int) -> mx.array:
    """uint32 [8]: the bytes 0x80 | (level + 64) by code, repeated to 16 entries, then unused words."""
    levels = codebook(bits).levels
    assert levels is not None
    entries = np.resize((levels.astype(np.int32) + 64) | 0x80, 32).astype(np.uint8)
    table = mx.array(entries.view(np.uint32))
    mx.eval(table)
    return table


@functools.lru_cache(maxsize=256)
def _constant(value: float) -> mx.array:
    array = mx.array([value] * 8, mx.float32)
    mx.eval(array)
    return array


def _per_row(value: int | mx.array | None, batch: int, default: int) -> mx.array:
    if isinstance(value, mx.array):
        return mx.broadcast_to(value.astype(mx.int32).reshape(-1), (batch,))
    return mx.array([default if value is None else value] * batch, mx.int32)


def _mask_array(mask: KeyMask, batch: int, num_heads: int, length: int, num_keys: int) -> tuple[mx.array, int]:
    if mask.array is None:
        return _constant(0.0), 0
    array = mask.array
    array = array.reshape(*(1,) * (4 - array.ndim), *array.shape)
    shape = (batch, num_heads if array.shape[1] > 1 else 1, length if array.shape[2] > 1 else 1, num_keys)
    array = mx.broadcast_to(array, shape)
    return (array, 1) if array.dtype == mx.bool_ else (array.astype(mx.float32), 2)


@functools.cache
def _header(name: str) -> str:
    return Path(__file__).with_name(name).read_text()


@functools.cache
def _decode_kernel(factory: Factory) -> Any:
    return factory(
        name="turboquant_decode",
        input_names=[
            "queries",
            "key_codes",
            "key_norms",
            "value_codes",
            "value_norms",
            "key_table",
            "value_table",
            "mask",
            "lengths",
            "offsets",
        ],
        output_names=["partial", "stats"],
        header=_header("rotate.cu") + _header("decode.cu"),
        source="""
  __shared__ float sums[4 * COLUMN_TILES * DV];
  __shared__ float warp_stats[32 * COLUMN_TILES];
  __shared__ uint query_fragments[D * COLUMN_TILES > 256 ? 4 * D * COLUMN_TILES : 1];
  const int num_kv_heads = key_norms_shape[1], row = blockIdx.y / num_kv_heads;
  turboquant_decode<D, DV, KEY_BITS, VALUE_BITS, DV_TILE, COLUMN_TILES, MASK>(
      queries, key_codes, key_norms, value_codes, value_norms, key_table, value_table, mask, MASK_HEADS, MASK_QUERIES,
      key_norms_shape[2], num_kv_heads, queries_shape[1] / num_kv_heads * QUERIES, QUERIES, lengths[row], offsets[row],
      CAUSAL, WINDOW, partial, stats, sums, warp_stats, query_fragments);
""",
    )


@functools.cache
def _reduce_kernel(factory: Factory) -> Any:
    return factory(
        name="turboquant_reduce",
        input_names=["partial", "stats", "matrix", "step"],
        output_names=["out"],
        header=_header("rotate.cu") + _header("decode.cu"),
        source="""
  __shared__ float weights[MAX_SPLITS];
  __shared__ float y[DV];
  __shared__ float scratch[THREADS];
  turboquant_reduce<DV, THREADS>(partial, stats, matrix, step[0], partial_shape[1], partial_shape[2], out,
                                             weights, y, scratch);
""",
    )


@functools.cache
def _rotate_kernel(factory: Factory) -> Any:
    return factory(
        name="turboquant_rotate",
        input_names=["x", "matrix", "factor"],
        output_names=["out"],
        header=_header("rotate.cu"),
        source="""
  constexpr int kGroups = THREADS / D;
  __shared__ float y[D];
  __shared__ float scratch[THREADS];
  const size_t first = size_t(blockIdx.x) * D;
  const int group = threadIdx.x / D, d = threadIdx.x % D;
  TurboquantColumns<D, kGroups> columns;
  columns.load(matrix, group, d);
  if (threadIdx.x < D) y[threadIdx.x] = float(x[first + threadIdx.x]) * factor[0];
  __syncthreads();
  scratch[threadIdx.x] = columns.dot(y, matrix, group, d);
  __syncthreads();
  if (threadIdx.x < D) {
    float sum = 0.0f;
    for (int i = 0; i < kGroups; ++i) sum += scratch[i * D + threadIdx.x];
    out[first + threadIdx.x] = sum;
  }
""",
    )


@functools.cache
def _encode_kernel(factory: Factory) -> Any:
    return factory(
        name="turboquant_encode",
        input_names=["x", "matrix", "thresholds", "centroids"],
        output_names=["codes", "norms"],
        header=_header("rotate.cu"),
        source="""
  __shared__ float y[VECTORS * D];
  __shared__ float scratch[GROUPS * VECTORS * D];
  __shared__ float lengths[VECTORS];
  __shared__ float table[2 << BITS];
  __shared__ uint8_t code[VECTORS * D];
  turboquant_encode<BITS, D, VECTORS, GROUPS, THREADS>(x, matrix, thresholds, centroids, x_shape[0], NUM_WORDS, codes,
                                                       norms, y, scratch, lengths, table, code);
""",
    )


@functools.cache
def _unpack_kernel(factory: Factory) -> Any:
    return factory(
        name="turboquant_unpack",
        input_names=["codes", "norms", "table", "factor", "extent"],
        output_names=["out"],
        header=_header("unpack.cu"),
        source="""
  constexpr int kOctets = D / 8;
  __shared__ float centroids[1 << BITS];
  for (int i = threadIdx.x; i < 1 << BITS; i += blockDim.x) centroids[i] = table[i];
  __syncthreads();
  const size_t index = size_t(blockIdx.x) * blockDim.x + threadIdx.x, vector = index / kOctets;
  const int first = extent[0], heads = extent[1], keys = extent[2], rows = extent[3];
  if (vector < size_t(rows) * heads * keys) {
    const size_t head = vector / keys;
    const size_t source = ((head / heads) * norms_shape[1] + first + head % heads) * norms_shape[2] + vector % keys;
    turboquant_unpack<BITS, D>(codes + source * codes_shape[3], int(index % kOctets),
                               float(norms[source]) * factor[0], centroids, out + index * 8);
  }
""",
    )
