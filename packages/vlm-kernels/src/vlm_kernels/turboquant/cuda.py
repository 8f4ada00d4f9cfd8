"""TurboQuant on CUDA.

Few query rows: a rotation of the queries, a split-K kernel, and a reduction that rotates back. The kernel is the one on tensor
cores for head sizes 64, 128, 256 and 512 with up to 4 bits, else the common one. Many query rows: unpacking into a
bounded workspace before MLX's dense attention.
"""

from __future__ import annotations

import functools

import mlx.core as mx
import numpy as np

from . import kernels, reference
from .codebook import codebook
from .dense import dense_attention
from .extras import NONE, Extras, with_extras
from .kernels import Dialect
from .masks import KeyMask
from .packed import Packed
from .spec import Spec

HEAD_SIZES = (64, 128, 256, 512)
MAX_BITS = 4
MIN_KEYS = 16
# From this many queries a row on, unpacking costs less than reading the codes once for each tile of rows.
MIN_DENSE_QUERIES = 16
# The H200 has 132 multiprocessors; registers let three or four blocks run on one (see `_num_blocks`).
NUM_MULTIPROCESSORS = 132
# Coordinates of the values that one warp sums in its registers.
MAX_VALUE_TILE = 256
DECODE_THREADS = 128


@functools.cache
def dialect() -> Dialect:
    """CUDA on the device."""
    return Dialect("cuda", mx.fast.cuda_kernel, block_threads=1024, encode_threads=512)


def encode(x: mx.array, spec: Spec) -> Packed:
    """`reference.encode` on CUDA."""
    return kernels.encode(dialect(), x, spec) if x.size else reference.encode(x, spec)


def attention(
    q: mx.array, keys: Packed, values: Packed, *, scale: float, mask: KeyMask, extras: Extras = NONE
) -> mx.array:
    """`reference.attention` on CUDA."""
    if q.size == 0 or keys.norms.shape[2] < MIN_KEYS:
        return reference.attention(q, keys, values, scale=scale, mask=mask, extras=extras)
    if q.shape[2] >= MIN_DENSE_QUERIES:
        # float32 queries ask for float32 arithmetic, and MLX's attention knows no softcap.
        if q.dtype == mx.float32 or extras.softcap is not None:
            return reference.attention(q, keys, values, scale=scale, mask=mask, extras=extras)
        unpack = functools.partial(kernels.unpack, dialect())
        return dense_attention(unpack, q, keys, values, scale=scale, mask=mask, extras=extras)
    own = mask.after(extras.num_before)
    dtype = mx.float32 if extras.is_merged else q.dtype
    # Queries of 15 bits are not enough where float32 is asked for.
    fits = all(spec.head_size in HEAD_SIZES and spec.bits <= MAX_BITS for spec in (keys.spec, values.spec))
    if fits and q.dtype != mx.float32:
        out, log_total = decode_attention(
            dialect(), q, keys, values, scale=scale, mask=own, softcap=extras.softcap, dtype=dtype
        )
    else:
        out, log_total = kernels.scan(
            dialect(), q, keys, values, scale, own, 8 * NUM_MULTIPROCESSORS, softcap=extras.softcap, dtype=dtype
        )
    if not extras.is_merged:
        return out
    return with_extras(out, log_total, q, scale=scale, mask=mask, extras=extras).astype(q.dtype)


def decode_attention(
    language: Dialect,
    q: mx.array,
    keys: Packed,
    values: Packed,
    *,
    scale: float,
    mask: KeyMask,
    num_splits: int | None = None,
    softcap: float | None = None,
    dtype: mx.Dtype | None = None,
) -> tuple[mx.array, mx.array]:
    """Split-K attention on tensor cores; `num_splits` ranges of keys instead of as many as fill the device.

    Returns what `kernels.reduce` does."""
    batch, num_heads, length, head_size = q.shape
    num_kv_heads, num_keys = keys.norms.shape[1:]
    rows = num_heads // num_kv_heads * length
    value_size = values.spec.head_size
    column_tiles = 1 if rows <= 4 else 2
    row_tiles = -(-rows // (4 * column_tiles))
    if num_splits is None:
        units = batch * num_kv_heads * row_tiles
        num_splits = kernels.split_count(_num_blocks(keys.spec.bits, value_size, column_tiles), units, num_keys)

    mask_array, mask_kind = kernels.mask_input(mask, batch, num_heads, length, num_keys)
    kernel = language.kernel(
        "decode",
        [
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
            "softcap",
        ],
        ["partial", "stats"],
        ["decode.cu"],
        """
  $shared float sums[4 * COLUMN_TILES * DV];
  $shared float warp_stats[32 * COLUMN_TILES];
  $shared uint query_fragments[D * COLUMN_TILES > 256 ? 4 * D * COLUMN_TILES : 1];
  const int num_kv_heads = key_norms_shape[1], row = blockIdx.y / num_kv_heads;
  turboquant_decode<D, DV, KEY_BITS, VALUE_BITS, DV_TILE, COLUMN_TILES, MASK, CAPPED>(
      queries, key_codes, key_norms, value_codes, value_norms, key_table, value_table, mask, MASK_HEADS, MASK_QUERIES,
      key_norms_shape[2], num_kv_heads, queries_shape[1] / num_kv_heads * QUERIES, QUERIES, lengths[row], offsets[row],
      CAUSAL, WINDOW, softcap[0], partial, stats, sums, warp_stats, query_fragments);
""",
    )
    factor = scale * kernels.LOG2_E * codebook(keys.spec.bits).step
    partial, stats = kernel(
        inputs=[
            kernels.rotate(language, q, factor, keys.spec.seed),
            keys.codes,
            keys.norms,
            values.codes,
            values.norms,
            byte_table(keys.spec.bits),
            byte_table(values.spec.bits),
            mask_array,
            kernels.per_row(mask.lengths, batch, num_keys),
            kernels.per_row(mask.offsets, batch, 0),
            kernels.constant((softcap or 0.0) * kernels.LOG2_E),
        ],
        template=[
            ("CAPPED", softcap is not None),
            ("D", head_size),
            ("DV", value_size),
            ("KEY_BITS", keys.spec.bits),
            ("VALUE_BITS", values.spec.bits),
            ("DV_TILE", min(value_size, MAX_VALUE_TILE)),
            ("COLUMN_TILES", column_tiles),
            *kernels.mask_template(mask, mask_array, mask_kind, length),
        ],
        grid=(num_splits * DECODE_THREADS, batch * num_kv_heads, row_tiles),
        threadgroup=(DECODE_THREADS, 1, 1),
        output_shapes=[
            (batch * num_kv_heads, num_splits, rows, value_size),
            kernels.stats_shape(batch * num_kv_heads * num_splits * rows),
        ],
        output_dtypes=[mx.float32, mx.float32],
    )
    # A level counts twice in the kernel's product with the values, hence the half.
    return kernels.reduce(language, partial, stats, codebook(values.spec.bits).step / 2, values.spec, q, dtype)


def _num_blocks(key_bits: int, value_size: int, column_tiles: int) -> int:
    """Blocks of the split-K kernel that run at once."""
    if value_size == 512:
        return NUM_MULTIPROCESSORS * 2
    return NUM_MULTIPROCESSORS * (4 if key_bits < 4 and value_size * column_tiles <= 128 else 3)


@functools.cache
def byte_table(bits: int) -> mx.array:
    """uint32 [8]: the bytes 0x80 | (level + 64) by code, repeated."""
    levels = codebook(bits).levels
    assert levels is not None
    entries = np.resize((levels.astype(np.int32) + 64) | 0x80, 32).astype(np.uint8)
    array = mx.array(entries.view(np.uint32))
    mx.eval(array)
    return array
