"""Load the native CPU extension, or say in one line why it is not loaded.

Knows versions and instruction sets. Does not know ops.
"""

from __future__ import annotations

import functools
import importlib
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import mlx.core as mx

from vlm_kernels import env
from vlm_kernels.errors import KernelError

_REBUILD = (
    "rebuild it with `pip install --force-reinstall --no-deps --no-binary vlm-kernels vlm-kernels` "
    "where a C++ compiler is present"
)


@dataclass(frozen=True)
class NativeStatus:
    """What became of the native CPU extension; `reason` is one line fit to be shown to a user."""

    loaded: bool
    reason: str
    instruction_set: str | None = None
    threads: int | None = None
    built_for_mlx: str | None = None
    running_mlx: str = ""


@functools.cache
def _load() -> tuple[ModuleType | None, NativeStatus]:
    running: str = mx.__version__  # type: ignore[attr-defined]
    try:
        built_for = importlib.import_module("vlm_kernels._native_build").MLX_VERSION
    except ModuleNotFoundError:
        reason = f"the native CPU extension was not built when vlm-kernels was installed; {_REBUILD}"
        return None, NativeStatus(False, reason, running_mlx=running)
    # The C++ interface of MLX is exact: another version would crash, so the module must not even be opened.
    if built_for != running:
        reason = f"the native CPU extension was built for MLX {built_for}, and MLX {running} is installed; {_REBUILD}"
        return None, NativeStatus(False, reason, built_for_mlx=built_for, running_mlx=running)
    try:
        module = importlib.import_module("vlm_kernels._native")
    except ImportError as error:
        reason = f"the native CPU extension does not load: {error}; {_REBUILD}"
        return None, NativeStatus(False, reason, built_for_mlx=built_for, running_mlx=running)
    wanted = env.kernels()
    if wanted in env.INSTRUCTION_SETS:
        offered = module.instruction_sets()
        if wanted not in offered:
            raise KernelError(f"VLM_KERNELS: this machine and build offer {', '.join(offered)}; got {wanted}")
        module.set_instruction_set(wanted)
    threads = env.num_threads()
    if threads is not None:
        module.set_num_threads(threads)
    status = NativeStatus(True, "loaded", module.instruction_set(), module.num_threads(), built_for, running)
    return module, status


def library() -> ModuleType | None:
    """The loaded extension module, or None; the first call loads it."""
    return _load()[0]


_FLOATING = frozenset({mx.float32, mx.float16, mx.bfloat16})


def serves(*arrays: mx.array) -> bool:
    """Whether the native kernels take arrays of these dtypes."""
    return all(array.dtype in _FLOATING for array in arrays)


def call(name: str, *args: Any) -> Any:
    """Call a function of the extension, which must be loaded."""
    return getattr(_load()[0], name)(*args)


def status() -> NativeStatus:
    """Whether the extension is in use, with which instruction set and threads, or why not and how to rebuild it."""
    module, loaded = _load()
    if module is None:
        return loaded
    return NativeStatus(
        True, loaded.reason, module.instruction_set(), module.num_threads(), loaded.built_for_mlx, loaded.running_mlx
    )
