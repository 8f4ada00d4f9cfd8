"""What this machine can do, as the native CPU library measures it: the roofs that benchmarks compare kernels with."""

from __future__ import annotations

from vlm_kernels import native
from vlm_kernels.errors import KernelError

# kind -> size of one measurement: bytes to read (beyond every cache), or rounds of multiplications (some milliseconds)
_SIZES = {"read": 256 << 20, "float32": 50_000, "bfloat16": 50_000}


def machine_roof(kind: str, repeats: int = 1) -> float:
    """Bytes read, or floating operations done, in a second on all threads of the native library; the best of `repeats`.

    Args:
        kind: `read`, `float32` or `bfloat16` (pairs, where the instruction set in use multiplies them).
        repeats: measurements of a few milliseconds each.

    Raises:
        KernelError: another kind, or the native library is not loaded.
    """
    if kind not in _SIZES:
        raise KernelError(f"machine_roof: expected {', '.join(_SIZES)}; got {kind!r}")
    if native.library() is None:
        raise KernelError(f"machine_roof: needs the native CPU library; {native.status().reason}")
    return float(native.call("roof", kind, _SIZES[kind], repeats))
