"""The kernels that CUDA and Metal share, and what differs between the two dialects.

Knows kernel text, templates and grids. Does not know which call takes which kernel: see cuda.py and metal.py.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np

from .codebook import codebook
from .masks import KeyMask
from .packed import Packed
from .rotation import rotation_array
from .spec import Spec

LOG2_E = 1.4426950408889634
MAX_SPLITS = 512
SCAN_THREADS = 128
UNPACK_THREADS = 256
# From this many vectors on, several share a block and one pass over the rotation.
MANY_VECTORS = 1024

_CUDA_PROLOGUE = """
  const uint3 gpu_block = {blockIdx.x, blockIdx.y, blockIdx.z}, gpu_blocks = {gridDim.x, gridDim.y, gridDim.z};
  const int gpu_thread = int(threadIdx.x);
"""
_METAL_PROLOGUE = """
  const uint3 gpu_block = threadgroup_position_in_grid, gpu_blocks = threadgroups_per_grid;
  const int gpu_thread = int(thread_position_in_threadgroup.x);
"""


@dataclass(frozen=True)
class Dialect:
    """A GPU language, and what makes kernels of its text.

    Args:
        name: cuda or metal.
        factory: `mx.fast.cuda_kernel`, `mx.fast.metal_kernel`, or an emulation of either.
        block_threads: threads of a block that rotates or reduces one vector.
        encode_threads: threads of a block of the encoder.
    """

    name: str
    factory: Callable[..., Any]
    block_threads: int
    encode_threads: int

    def kernel(
        self, name: str, inputs: Sequence[str], outputs: Sequence[str], files: Sequence[str], source: str
    ) -> Callable[..., Any]:
        """A kernel of files of this folder and a body; `$shared` in the body declares memory of the block."""
        return _kernel(self, name, tuple(inputs), tuple(outputs), tuple(files), source)


@functools.cache
def _kernel(
    dialect: Dialect, name: str, inputs: tuple[str, ...], outputs: tuple[str, ...], files: tuple[str, ...], source: str
) -> Callable[..., Any]:
    cuda = dialect.name == "cuda"
    folder = Path(__file__).parent
    made: Callable[..., Any] = dialect.factory(
        name=f"turboquant_{name}",
        input_names=list(inputs),
        output_names=list(outputs),
        header="".join(_bare((folder / file).read_text()) for file in (f"{dialect.name}_prelude.h", *files)),
        source=(_CUDA_PROLOGUE if cuda else _METAL_PROLOGUE)
        + source.replace("$shared", "__shared__" if cuda else "threadgroup"),
    )
    return made


def _bare(text: str) -> str:
    """Kernel text without comments and indentation: MLX on CUDA hashes the whole text at every call, 0.3 us a kilobyte."""
    lines = (re.sub(r"\s*//.*", "", line).strip() for line in text.splitlines())
    return "".join(f"{line}\n" for line in lines if line)


def rotate(dialect: Dialect, x: mx.array, factor: float, seed: int) -> mx.array:
    """float32 `factor * x @ rotation` for each vector, in full precision: MLX's matmul takes TF32 on CUDA."""
    head_size, threads = x.shape[-1], dialect.block_threads
    kernel = dialect.kernel(
        "rotate",
        ["x", "matrix", "factor"],
        ["out"],
        ["rotate.h"],
        """
  $shared float y[D];
  $shared float scratch[THREADS];
  const size_t first = size_t(gpu_block.x) * D;
  turboquant_rotate<D, THREADS>(x + first, matrix, factor[0], out + first, y, scratch, gpu_thread);
""",
    )
    (out,) = kernel(
        inputs=[x, rotation_array(head_size, seed), constant(factor)],
        template=[("T", x.dtype), ("D", head_size), ("THREADS", threads)],
        grid=(x.size // head_size * threads, 1, 1),
        threadgroup=(threads, 1, 1),
        output_shapes=[x.shape],
        output_dtypes=[mx.float32],
    )
    return out


def encode(dialect: Dialect, x: mx.array, spec: Spec) -> Packed:
    """`reference.encode` in one launch; x holds at least one vector."""
    head_size, threads = x.shape[-1], dialect.encode_threads
    num_vectors = x.size // head_size
    vectors = 1 if num_vectors < MANY_VECTORS else 8 if head_size <= 256 else 4
    kernel = dialect.kernel(
        "encode",
        ["x", "matrix", "thresholds", "centroids"],
        ["codes", "norms"],
        ["rotate.h", "encode.h"],
        """
  $shared float y[VECTORS * D];
  $shared float scratch[GROUPS * VECTORS * D];
  $shared float lengths[VECTORS];
  $shared float table[2 << BITS];
  $shared uint8_t code[VECTORS * D];
  turboquant_encode<BITS, D, VECTORS, GROUPS, THREADS>(x, matrix, thresholds, centroids, x_shape[0], NUM_WORDS, codes,
                                                       norms, y, scratch, lengths, table, code, gpu_thread,
                                                       int(gpu_block.x));
""",
    )
    codes, norms = kernel(
        inputs=[
            x.reshape(num_vectors, head_size),
            rotation_array(head_size, spec.seed),
            table(spec.bits, "thresholds"),
            table(spec.bits, "values"),
        ],
        template=[
            ("T", x.dtype),
            ("BITS", spec.bits),
            ("D", head_size),
            ("VECTORS", vectors),
            ("GROUPS", max(1, 512 // head_size)),
            ("THREADS", threads),
            ("NUM_WORDS", spec.num_words),
        ],
        grid=(-(-num_vectors // vectors) * threads, 1, 1),
        threadgroup=(threads, 1, 1),
        output_shapes=[(*x.shape[:-1], spec.num_words), x.shape[:-1]],
        output_dtypes=[mx.uint32, mx.bfloat16],
    )
    return Packed(codes, norms, spec)


def unpack(dialect: Dialect, packed: Packed, first: int, last: int, num_keys: int, factor: mx.array) -> mx.array:
    """float16 [B, last - first, num_keys, D]: `factor` times the vectors of some heads, in the rotated basis."""
    batch, spec = packed.norms.shape[0], packed.spec
    num_threads = batch * (last - first) * num_keys * (spec.head_size // 8)
    kernel = dialect.kernel(
        "unpack",
        ["codes", "norms", "centroids", "factor", "extent"],
        ["out"],
        ["codes.h"],
        """
  constexpr int kOctets = D / 8;
  $shared float entries[1 << BITS];
  for (int i = gpu_thread; i < (1 << BITS); i += THREADS) entries[i] = centroids[i];
  GPU_BARRIER();
  const size_t index = size_t(gpu_block.x) * THREADS + gpu_thread, vector = index / kOctets;
  const int first = extent[0], heads = extent[1], keys = extent[2], rows = extent[3];
  if (vector < size_t(rows) * heads * keys) {
    const size_t head = vector / keys;
    const size_t from = ((head / heads) * norms_shape[1] + first + head % heads) * norms_shape[2] + vector % keys;
    const float scale = float(norms[from]) * factor[0];
    TurboquantOctet<BITS, D> octet;
    octet.load(codes + from * codes_shape[3], int(index % kOctets));
    for (int j = 0; j < 8; ++j) out[index * 8 + j] = T(entries[octet.code(j)] * scale);
  }
""",
    )
    (out,) = kernel(
        inputs=[
            packed.codes,
            packed.norms,
            table(spec.bits, "values"),
            factor,
            mx.array([first, last - first, num_keys, batch, 0, 0, 0, 0], mx.int32),
        ],
        template=[("T", mx.float16), ("BITS", spec.bits), ("D", spec.head_size), ("THREADS", UNPACK_THREADS)],
        grid=(-(-num_threads // UNPACK_THREADS) * UNPACK_THREADS, 1, 1),
        threadgroup=(UNPACK_THREADS, 1, 1),
        output_shapes=[(batch, last - first, num_keys, spec.head_size)],
        output_dtypes=[mx.float16],
    )
    return out


def scan(
    dialect: Dialect,
    q: mx.array,
    keys: Packed,
    values: Packed,
    scale: float,
    mask: KeyMask,
    num_blocks: int,
    *,
    softcap: float | None = None,
    dtype: mx.Dtype | None = None,
) -> tuple[mx.array, mx.array]:
    """Split-K attention by SIMD groups: every head size and number of bits, few query rows. Returns what `reduce` does."""
    batch, num_heads, length, head_size = q.shape
    num_kv_heads, num_keys = keys.norms.shape[1:]
    rows = num_heads // num_kv_heads * length
    # Registers hold one tile of rows: its queries' results, an eighth of the coordinates a lane.
    tile = min(rows, max(1, 512 // max(head_size, values.spec.head_size)), 4)
    row_tiles = -(-rows // tile)
    num_splits = split_count(num_blocks, batch * num_kv_heads * row_tiles, num_keys)
    mask_array, mask_kind = mask_input(mask, batch, num_heads, length, num_keys)
    kernel = dialect.kernel(
        "scan",
        [
            "queries",
            "key_codes",
            "key_norms",
            "value_codes",
            "value_norms",
            "key_centroids",
            "value_centroids",
            "mask",
            "lengths",
            "offsets",
            "softcap",
        ],
        ["partial", "stats"],
        ["codes.h", "scan.h"],
        """
  $shared float q[ROWS * D];
  $shared float key_table[1 << KEY_BITS];
  $shared float value_table[1 << VALUE_BITS];
  $shared float sums[ROWS * DV];
  $shared float warp_stats[8 * ROWS];
  const int num_kv_heads = key_norms_shape[1], row = int(gpu_block.y) / num_kv_heads;
  turboquant_scan<D, DV, KEY_BITS, VALUE_BITS, ROWS, MASK, CAPPED>(
      queries, key_codes, key_norms, value_codes, value_norms, key_centroids, value_centroids, mask, MASK_HEADS,
      MASK_QUERIES, key_norms_shape[2], num_kv_heads, queries_shape[1] / num_kv_heads * QUERIES, QUERIES, lengths[row],
      offsets[row], CAUSAL, WINDOW, softcap[0], key_codes_shape[3], value_codes_shape[3], partial, stats, q, key_table,
      value_table, sums, warp_stats, gpu_thread, int(gpu_block.x), int(gpu_blocks.x), int(gpu_block.y),
      int(gpu_block.z));
""",
    )
    partial, stats = kernel(
        inputs=[
            rotate(dialect, q, scale * LOG2_E, keys.spec.seed),
            keys.codes,
            keys.norms,
            values.codes,
            values.norms,
            table(keys.spec.bits, "values"),
            table(values.spec.bits, "values"),
            mask_array,
            per_row(mask.lengths, batch, num_keys),
            per_row(mask.offsets, batch, 0),
            constant((softcap or 0.0) * LOG2_E),
        ],
        template=[
            ("D", head_size),
            ("DV", values.spec.head_size),
            ("CAPPED", softcap is not None),
            ("KEY_BITS", keys.spec.bits),
            ("VALUE_BITS", values.spec.bits),
            ("ROWS", tile),
            *mask_template(mask, mask_array, mask_kind, length),
        ],
        grid=(num_splits * SCAN_THREADS, batch * num_kv_heads, row_tiles),
        threadgroup=(SCAN_THREADS, 1, 1),
        output_shapes=[
            (batch * num_kv_heads, num_splits, rows, values.spec.head_size),
            stats_shape(batch * num_kv_heads * num_splits * rows),
        ],
        output_dtypes=[mx.float32, mx.float32],
    )
    return reduce(dialect, partial, stats, 1.0, values.spec, q, dtype)


def reduce(
    dialect: Dialect,
    partial: mx.array,
    stats: mx.array,
    step: float,
    spec: Spec,
    like: mx.array,
    dtype: mx.Dtype | None = None,
) -> tuple[mx.array, mx.array]:
    """The splits of each query row added up, times `step`, rotated back, in the shape of `like`; `dtype` None: and in its dtype.

    Returns [B, H, L, DV] and float32 [B, H, L], the logarithm of each row's total weight."""
    threads = dialect.block_threads
    kernel = dialect.kernel(
        "reduce",
        ["partial", "stats", "matrix", "step"],
        ["out", "log_total"],
        ["rotate.h", "reduce.h"],
        """
  $shared float weights[MAX_SPLITS];
  $shared float y[DV];
  $shared float scratch[THREADS];
  turboquant_reduce<DV, THREADS>(partial, stats, matrix, step[0], partial_shape[1], partial_shape[2], out, log_total,
                                 weights, y, scratch, gpu_thread, int(gpu_block.y), int(gpu_block.x));
""",
    )
    num_rows = partial.shape[0] * partial.shape[2]
    out, log_total = kernel(
        inputs=[partial, stats, rotation_array(spec.head_size, spec.seed, transposed=True), constant(step)],
        template=[("T", dtype or like.dtype), ("DV", spec.head_size), ("THREADS", threads), ("MAX_SPLITS", MAX_SPLITS)],
        grid=(partial.shape[2] * threads, partial.shape[0], 1),
        threadgroup=(threads, 1, 1),
        output_shapes=[(*like.shape[:-1], spec.head_size), (max(8, num_rows),)],
        output_dtypes=[dtype or like.dtype, mx.float32],
    )
    return out, log_total[:num_rows].reshape(like.shape[:-1])


def stats_shape(num_rows: int) -> tuple[int]:
    """Two numbers for each row of each split; at least 8, as MLX hands smaller arrays to Metal as constants."""
    return (max(8, 2 * num_rows),)


def split_count(num_blocks: int, units: int, num_keys: int, min_keys: int = 256) -> int:
    """Ranges of keys such that `units` of work times the ranges fill `num_blocks`."""
    return max(1, min(num_blocks // units, -(-num_keys // min_keys), MAX_SPLITS))


def mask_template(mask: KeyMask, array: mx.array, kind: int, length: int) -> list[tuple[str, Any]]:
    """Template arguments about the mask."""
    return [
        ("MASK", kind),
        ("MASK_HEADS", array.shape[1] if kind else 1),
        ("MASK_QUERIES", array.shape[2] if kind else 1),
        ("QUERIES", length),
        ("CAUSAL", mask.offsets is not None),
        ("WINDOW", mask.window or 0),
    ]


def mask_input(mask: KeyMask, batch: int, num_heads: int, length: int, num_keys: int) -> tuple[mx.array, int]:
    """The explicit mask with all its keys and rows, and its kind: 0 none, 1 bool, 2 additive float32."""
    if mask.array is None:
        return constant(0.0), 0
    array = mask.array.reshape(*(1,) * (4 - mask.array.ndim), *mask.array.shape)
    shape = (batch, num_heads if array.shape[1] > 1 else 1, length if array.shape[2] > 1 else 1, num_keys)
    array = mx.broadcast_to(array, shape)
    return (array, 1) if array.dtype == mx.bool_ else (array.astype(mx.float32), 2)


def per_row(value: int | mx.array | None, batch: int, default: int) -> mx.array:
    """int32 [B]."""
    if isinstance(value, mx.array):
        return mx.broadcast_to(value.astype(mx.int32).reshape(-1), (batch,))
    return mx.array([default if value is None else value] * batch, mx.int32)


@functools.cache
def table(bits: int, name: str) -> mx.array:
    """`values` or `thresholds` of a codebook; at least 8 numbers, as MLX hands smaller arrays to Metal as constants."""
    values = getattr(codebook(bits), name)
    array = mx.array(np.resize(values if values.size else np.zeros(1, np.float32), max(8, values.size)))
    mx.eval(array)
    return array


@functools.lru_cache(maxsize=256)
def constant(value: float) -> mx.array:
    """A number in an array that kernels can take."""
    array = mx.array([value] * 8, mx.float32)
    mx.eval(array)
    return array
