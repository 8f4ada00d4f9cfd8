"""What the readers share: collecting a layer's parts by name, integer codes in words, affine layers out of codes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import mlx.core as mx

from ..core.weights import Tensors
from ..errors import WeightError
from ..layers.linear import Quantization


@dataclass
class Found:
    """Tensors with MLX's names for packed layers, and how each packed layer is stored, by path."""

    tensors: Tensors
    packed: dict[str, Quantization] = field(default_factory=dict)

    def put(self, path: str, weight: mx.array, scales: mx.array, biases: mx.array | None, how: Quantization) -> None:
        self.tensors[f"{path}.weight"], self.tensors[f"{path}.scales"] = weight, scales
        if biases is not None:
            self.tensors[f"{path}.biases"] = biases
        self.packed[path] = how


def split_parts(tensors: Tensors, marker: str, names: Sequence[str]) -> tuple[Tensors, dict[str, Tensors]]:
    """Tensors of no packed layer, and those of each layer that has a tensor `marker`, by path and name.

    names: of a packed layer's tensors; others of it (bias) stay where they are."""
    paths = [name.removesuffix(f".{marker}") for name in tensors if name.endswith(f".{marker}")]
    layers: dict[str, Tensors] = {path: {} for path in paths}
    rest: Tensors = {}
    for name, value in tensors.items():
        path, _, last = name.rpartition(".")
        if path in layers and last in names:
            layers[path][last] = value
        else:
            rest[name] = value
    return rest, layers


def part(path: str, parts: Tensors, name: str) -> mx.array:
    """Raises WeightError where it is missing."""
    if name not in parts:
        raise WeightError(f"missing from the checkpoint: {path}.{name}")
    return parts[name]


def codes_of(words: mx.array, bits: int, order: Sequence[int] | None = None) -> mx.array:
    """uint32 codes [..., n * 32 / bits] from words [..., n] of int32 or uint32, lowest bits first.

    order: which value the i-th code of a word is, for powers of two; None: as they come."""
    words = words.view(mx.uint32)
    if 32 % bits:
        planes = (words[..., None] >> mx.arange(32, dtype=mx.uint32)) & 1
        flat = planes.reshape(*words.shape[:-1], -1, bits)
        return (flat << mx.arange(bits, dtype=mx.uint32)).sum(axis=-1).astype(mx.uint32)
    count = 32 // bits
    codes = (words[..., None] >> (mx.arange(count, dtype=mx.uint32) * bits)) & (2**bits - 1)
    if order is not None:
        codes = codes[..., mx.array([list(order).index(place) for place in range(count)])]
    return codes.reshape(*words.shape[:-1], -1)


def words_of(codes: mx.array, bits: int) -> mx.array:
    """uint32 words [..., n * bits / 32] of codes [..., n] for 2, 4 and 8 bits, lowest first: MLX's layout."""
    count = 32 // bits
    parts = codes.astype(mx.uint32).reshape(*codes.shape[:-1], -1, count)
    return (parts << (mx.arange(count, dtype=mx.uint32) * bits)).sum(axis=-1).astype(mx.uint32)


def mlx_group(size: int) -> int | None:
    """The largest of MLX's affine group sizes that divides a group of `size`; None: none does."""
    return next((group for group in (128, 64, 32) if size % group == 0), None)


def put_affine(
    found: Found, path: str, words: mx.array, scales: mx.array, zeros: mx.array, bits: int, group_size: int
) -> None:
    """A layer whose weight is scale * (code - zero): packed where MLX has such groups, else in full precision.

    words: uint32 [out, in * bits / 32], MLX's layout. scales, zeros: [out, groups]. The packed bias is -scale * zero in the
    scales' type: exact for symmetric layers, otherwise rounded once.
    """
    group = mlx_group(group_size)
    if group is None:
        codes = codes_of(words, bits).reshape(*scales.shape, -1).astype(mx.float32)
        wide = (codes - zeros.astype(mx.float32)[..., None]) * scales.astype(mx.float32)[..., None]
        found.tensors[f"{path}.weight"] = wide.reshape(scales.shape[0], -1).astype(scales.dtype)
        return
    biases = (-scales.astype(mx.float32) * zeros.astype(mx.float32)).astype(scales.dtype)
    times = group_size // group
    if times > 1:  # groups larger than MLX's: the same scale for several
        scales, biases = mx.repeat(scales, times, axis=-1), mx.repeat(biases, times, axis=-1)
    found.put(path, words, scales, biases, Quantization(bits, group, "affine"))


def blocks_to_rows(scales: mx.array, shape: Sequence[int]) -> mx.array:
    """Scales of blocks, channels or a whole matrix, spread over [out, in] (as far as broadcasting does not)."""
    if scales.size == 1:
        return scales.reshape(1, 1)
    if scales.ndim == 1:
        scales = scales[:, None]
    for axis, size in enumerate(shape):
        count = scales.shape[axis]
        if count not in (1, size):
            scales = mx.repeat(scales, -(-size // count), axis=axis)
            scales = scales[:size] if axis == 0 else scales[:, :size]
    return scales


def from_fp8(weight: mx.array, scales: mx.array, dtype: mx.Dtype) -> mx.array:
    """e4m3 bytes [out, in] times their scales, rounded once."""
    wide = mx.from_fp8(weight, mx.float32) * blocks_to_rows(scales.astype(mx.float32), weight.shape)
    return wide.astype(dtype)
