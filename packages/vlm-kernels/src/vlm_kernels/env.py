"""The environment variables of this package, read in one place.

`VLM_KERNELS`: which implementation the ops take: `auto` (default), `reference` (plain MLX ops), `mlx` (MLX's own fast
ops), or an instruction set of the native CPU library: `portable`, `avx2`, `avx512`, `avx512bf16`, `neon`.
`VLM_NUM_THREADS`: threads of the native CPU library; by default as many as the cores this process may use.
"""

from __future__ import annotations

import os

from vlm_kernels.errors import KernelError

INSTRUCTION_SETS = ("portable", "avx2", "avx512", "avx512bf16", "neon")
CHOICES = ("auto", "reference", "mlx", *INSTRUCTION_SETS)


def kernels() -> str:
    """The value of `VLM_KERNELS`, checked."""
    value = os.environ.get("VLM_KERNELS", "").strip().lower() or "auto"
    if value not in CHOICES:
        raise KernelError(f"VLM_KERNELS: expected one of {', '.join(CHOICES)}; got {value!r}")
    return value


def num_threads() -> int | None:
    """The value of `VLM_NUM_THREADS`, checked; None when it is not set."""
    value = os.environ.get("VLM_NUM_THREADS", "").strip()
    if not value:
        return None
    if not value.isdigit() or int(value) < 1:
        raise KernelError(f"VLM_NUM_THREADS: expected a whole number of at least 1; got {value!r}")
    return int(value)
