"""The quantized formats and the shapes that belong to them."""

from __future__ import annotations

import mlx.core as mx

from vlm_kernels.errors import KernelError

AFFINE_BITS = (1, 2, 3, 4, 5, 6, 8)
AFFINE_GROUPS = (32, 64, 128)
# mode -> group size, bits
FIXED = {"mxfp4": (32, 4), "mxfp8": (32, 8), "nvfp4": (16, 4)}


def check_format(op: str, group_size: int, bits: int, mode: str) -> None:
    """Raise KernelError unless MLX packs weights in this way."""
    if mode == "affine":
        if bits not in AFFINE_BITS or group_size not in AFFINE_GROUPS:
            raise KernelError(
                f"{op}: expected affine bits of {AFFINE_BITS} and a group size of {AFFINE_GROUPS}; "
                f"got {bits} and {group_size}"
            )
        return
    if mode not in FIXED:
        raise KernelError(f"{op}: expected mode affine, {', '.join(FIXED)}; got {mode!r}")
    if (group_size, bits) != FIXED[mode]:
        raise KernelError(
            f"{op}: mode {mode} has group size {FIXED[mode][0]} and {FIXED[mode][1]} bits; got {group_size} and {bits}"
        )


def check_weights(
    op: str, w: mx.array, scales: mx.array, biases: mx.array | None, group_size: int, bits: int, mode: str
) -> tuple[int, int]:
    """Rows and columns of the weights before packing; raise KernelError if packed weights and scales do not fit."""
    check_format(op, group_size, bits, mode)
    if w.ndim < 2 or w.dtype != mx.uint32:
        raise KernelError(f"{op}: expected packed weights [..., rows, words] of uint32; got {w.shape} of {w.dtype}")
    rows, columns = w.shape[-2], w.shape[-1] * 32 // bits
    want = (*w.shape[:-1], columns // group_size)
    if scales.shape != want or (biases is not None and biases.shape != want):
        raise KernelError(
            f"{op}: expected scales {want} for weights {w.shape} of {bits} bits in groups of {group_size}; "
            f"got {scales.shape}"
        )
    if (biases is None) == (mode == "affine"):
        raise KernelError(f"{op}: mode {mode} {'needs' if mode == 'affine' else 'has no'} biases")
    return rows, columns
