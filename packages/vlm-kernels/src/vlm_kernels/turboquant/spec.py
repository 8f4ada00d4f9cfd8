"""What a packed store is made of: bits, head size, seed, format version, and the sizes that follow from them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from numbers import Real

from vlm_kernels.errors import KernelError

FORMAT_VERSION = 1
# Chosen among 0..63 so that the all-ones direction, which no average smooths, stays near Gaussian distortion too.
DEFAULT_SEED = 34
MIN_BITS, MAX_BITS = 1, 8
MAX_HEAD_SIZE = 512


@dataclass(frozen=True)
class Spec:
    """Static description of packed vectors. Two stores are compatible if their specs are equal.

    Args:
        bits: bits per coordinate, 1 to 8.
        head_size: coordinates per vector; a multiple of 8, at most 512.
        seed: seed of the random rotation; saved with the cache, since codes mean nothing without it.
        version: packing and codebook format.

    Raises:
        KernelError: a value this version cannot serve.
    """

    bits: int
    head_size: int
    seed: int = DEFAULT_SEED
    version: int = FORMAT_VERSION

    def __post_init__(self) -> None:
        if isinstance(self.bits, bool) or not isinstance(self.bits, int) or not MIN_BITS <= self.bits <= MAX_BITS:
            raise KernelError(
                f"turboquant: expected whole bits from {MIN_BITS} to {MAX_BITS}, got {self.bits!r}; "
                "split a fraction into key and value bits with split_bits"
            )
        if not isinstance(self.head_size, int) or self.head_size % 8 or not 8 <= self.head_size <= MAX_HEAD_SIZE:
            raise KernelError(
                f"turboquant: expected a head size that is a multiple of 8, at most {MAX_HEAD_SIZE}, "
                f"got {self.head_size!r}; keep this layer in 16 bits"
            )
        if not isinstance(self.seed, int) or not 0 <= self.seed < 2**32:
            raise KernelError(f"turboquant: expected a seed in 0..2**32-1, got {self.seed!r}")
        if self.version != FORMAT_VERSION:
            raise KernelError(
                f"turboquant: expected packed format {FORMAT_VERSION}, got {self.version!r}; "
                "the cache was saved by another version, build it again"
            )

    @property
    def num_words(self) -> int:
        """32-bit words per packed vector."""
        return sum(num_field_words(size, self.head_size) for size in field_sizes(self.bits))

    @property
    def num_bytes(self) -> int:
        """Bytes per packed vector: codes and the 16-bit norm."""
        return 4 * self.num_words + 2


def field_sizes(bits: int) -> tuple[int, ...]:
    """The fields a code is cut into, lowest bits first: 7 -> (4, 2, 1)."""
    return (4,) * (bits // 4) + tuple(size for size in (2, 1) if bits % 4 & size)


def num_field_words(size: int, head_size: int) -> int:
    """Words that one field of all coordinates takes."""
    return math.ceil(head_size * size / 32)


def split_bits(bits: float) -> tuple[int, int]:
    """Key and value bits of a whole or half number of bits: 4 -> (4, 4), 3.5 -> (3, 4).

    Raises:
        KernelError: the number is not whole or half, or lies outside 1..8.
    """
    if isinstance(bits, bool) or not isinstance(bits, Real) or not MIN_BITS <= bits <= MAX_BITS or (2 * bits) % 1:
        raise KernelError(f"turboquant: expected bits from {MIN_BITS} to {MAX_BITS} in steps of 0.5, got {bits!r}")
    return math.floor(bits), math.ceil(bits)
