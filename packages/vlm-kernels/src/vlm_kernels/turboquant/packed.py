"""Packed vectors and the fixed-capacity store they are written into."""

from __future__ import annotations

from dataclasses import dataclass, replace

import mlx.core as mx

from vlm_kernels.errors import KernelError

from .spec import Spec


@dataclass(frozen=True)
class Packed:
    """Packed vectors. Axes: batch B, key-value heads Hkv, positions S (or capacity).

    Args:
        codes: uint32 [B, Hkv, S, spec.num_words].
        norms: bfloat16 [B, Hkv, S].
        spec: what the codes mean.
    """

    codes: mx.array
    norms: mx.array
    spec: Spec

    def __post_init__(self) -> None:
        want = (*self.norms.shape, self.spec.num_words)
        if self.codes.ndim != 4 or self.codes.shape != want or self.codes.dtype != mx.uint32:
            raise KernelError(
                f"turboquant: expected uint32 codes of shape {want} for {self.spec}, got {self.codes.dtype} "
                f"{self.codes.shape}; were codes and norms sliced alike?"
            )
        if self.norms.dtype != mx.bfloat16:
            raise KernelError(f"turboquant: expected bfloat16 norms, got {self.norms.dtype}")

    @property
    def nbytes(self) -> int:
        """Bytes held: codes and norms."""
        return self.codes.nbytes + self.norms.nbytes


def allocate(batch: int, num_heads: int, capacity: int, spec: Spec) -> Packed:
    """An empty store for `capacity` vectors per row and head."""
    shape = (batch, num_heads, capacity)
    return Packed(mx.zeros((*shape, spec.num_words), mx.uint32), mx.zeros(shape, mx.bfloat16), spec)


def write(store: Packed, new: Packed, offsets: int | mx.array) -> Packed:
    """The store with `new` [B, Hkv, L, ...] placed at `offsets` (one int, or int32 [B]: a start per row).

    Slices are updated, not scattered: MLX reuses the buffer if the caller drops the old store, so that a step moves the
    new rows alone. Rows must fit: the capacity is the caller's to check, since offsets may live on the device.

    Raises:
        KernelError: specs, batch or heads differ, or `new` is longer than the store.
    """
    if store.spec != new.spec:
        raise KernelError(
            f"turboquant: expected vectors packed as {store.spec}, got {new.spec}; encode with the store's spec"
        )
    if store.norms.shape[:2] != new.norms.shape[:2] or new.norms.shape[2] > store.norms.shape[2]:
        raise KernelError(
            f"turboquant: expected at most {store.norms.shape} vectors [B, Hkv, capacity], got {new.norms.shape}"
        )
    codes, norms = store.codes, store.norms
    if isinstance(offsets, int):
        end = offsets + new.norms.shape[2]
        if not 0 <= offsets <= end <= norms.shape[2]:
            raise KernelError(f"turboquant: expected positions within capacity {norms.shape[2]}, got {offsets}..{end}")
        start = mx.array([offsets], mx.int32)
        codes = mx.slice_update(codes, new.codes, start, axes=(2,))
        norms = mx.slice_update(norms, new.norms, start, axes=(2,))
        return replace(store, codes=codes, norms=norms)
    rows = mx.arange(norms.shape[0], dtype=mx.int32)
    starts = mx.stack([rows, offsets.astype(mx.int32)], axis=1)
    for row in range(norms.shape[0]):
        codes = mx.slice_update(codes, new.codes[row : row + 1], starts[row], axes=(0, 2))
        norms = mx.slice_update(norms, new.norms[row : row + 1], starts[row], axes=(0, 2))
    return replace(store, codes=codes, norms=norms)
