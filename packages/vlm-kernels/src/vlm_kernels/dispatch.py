"""Choose an implementation of an op by the device it runs on.

Knows names and backends. Does not know shapes, dtypes or what an op computes.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

import mlx.core as mx

from vlm_kernels import env, native
from vlm_kernels.errors import KernelError

_forced: ContextVar[str | None] = ContextVar("vlm_kernels_path", default=None)
_GPU = "metal" if mx.metal.is_available() else "cuda" if mx.cuda.is_available() else "cpu"


@dataclass(frozen=True)
class OpPath:
    """The implementation an op takes now: `path` is reference, mlx, native, metal or cuda; `reason` says why."""

    op: str
    path: str
    reason: str


@dataclass(frozen=True)
class Op:
    """One operation: its definition and its fast forms, all of one signature.

    Args:
        name: the public name.
        reference: plain MLX ops; the definition of the result, its dtype and its gradient.
        mlx: MLX's own fast ops, the default on the backends named in `mlx_on`.
        metal: our kernel on Metal.
        cuda: our kernel on CUDA.
        native: the native CPU library's; called only when it is loaded.
    """

    name: str
    reference: Callable[..., Any]
    mlx: Callable[..., Any] | None = None
    metal: Callable[..., Any] | None = None
    cuda: Callable[..., Any] | None = None
    native: Callable[..., Any] | None = None
    mlx_on: tuple[str, ...] = ("metal", "cuda")
    _chosen: dict[tuple[str, str], Callable[..., Any]] = field(default_factory=dict, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.name in _ops:
            raise KernelError(f"op {self.name}: expected a name of its own; it is registered already")
        _ops[self.name] = self

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        key = (backend(), forced())
        chosen = self._chosen.get(key)
        if chosen is None:
            chosen = self._chosen[key] = getattr(self, self.path().path)
        return chosen(*args, **kwargs)

    def path(self) -> OpPath:
        """Which implementation the next call takes on the current default device, and why."""
        device, wanted = backend(), forced()
        if wanted == "reference":
            return OpPath(self.name, "reference", "VLM_KERNELS=reference")
        if wanted == "mlx":
            if self.mlx is None:
                return OpPath(self.name, "reference", "MLX has no op for this")
            return OpPath(self.name, "mlx", "VLM_KERNELS=mlx")
        if device == "cpu":
            return self._cpu_path()
        if getattr(self, device) is not None:
            return OpPath(self.name, device, f"kernel for {device}")
        if self.mlx is not None and device in self.mlx_on:
            return OpPath(self.name, "mlx", f"MLX's own op on {device}")
        return OpPath(self.name, "reference", f"no kernel for {device}")

    def _cpu_path(self) -> OpPath:
        if self.native is None:
            return OpPath(self.name, "reference", "no native CPU kernel")
        status = native.status()
        if status.loaded:
            return OpPath(self.name, "native", f"native CPU library, {status.instruction_set}")
        return OpPath(self.name, "reference", status.reason)


_ops: dict[str, Op] = {}


@dataclass(frozen=True)
class Backends:
    """What runs on this machine: device, forced choice, state of the native CPU library, and one path per op."""

    device: str
    forced: str | None
    native: native.NativeStatus
    ops: tuple[OpPath, ...]


def backend() -> str:
    """`metal`, `cuda` or `cpu`: where the default stream runs."""
    return "cpu" if mx.default_device().type == mx.DeviceType.cpu else _GPU


def forced() -> str:
    """The implementation asked for: that of `use` if one is active, else `VLM_KERNELS`, else `auto`."""
    return _forced.get() or _environment()


_cached_environment: str | None = None


def _environment() -> str:
    global _cached_environment
    if _cached_environment is None:
        _cached_environment = env.kernels()
    return _cached_environment


@contextlib.contextmanager
def use(path: str) -> Iterator[None]:
    """Make every op in this context take one path: `reference`, `mlx` or `auto`. For tests and benchmarks.

    Raises:
        KernelError: another name. Instruction sets are forced for a process, by `VLM_KERNELS`.
    """
    if path not in ("auto", "reference", "mlx"):
        raise KernelError(
            f"use: expected auto, reference or mlx; got {path!r}; set VLM_KERNELS to force an instruction set"
        )
    token = _forced.set(path)
    try:
        yield
    finally:
        _forced.reset(token)


def ops() -> Mapping[str, Op]:
    """Every registered op by name."""
    return dict(_ops)


def backends() -> Backends:
    """Which path each op takes on the default device and why; loads the native library if it was not loaded yet."""
    wanted = forced()
    return Backends(
        device=backend(),
        forced=None if wanted == "auto" else wanted,
        native=native.status(),
        ops=tuple(_ops[name].path() for name in sorted(_ops)),
    )
