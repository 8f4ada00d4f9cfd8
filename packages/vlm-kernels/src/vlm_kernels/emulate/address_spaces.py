"""Check the address spaces of Metal text, which running it as C++ erases, by clang's OpenCL C++ front end.

Knows which space each argument has; does not run anything.
"""

from __future__ import annotations

import functools
import re
import shutil
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import mlx.core as mx

from vlm_kernels.errors import KernelError

# MLX hands smaller inputs to Metal in the constant space.
_MIN_DEVICE_SIZE = 8
_TYPES = {
    mx.float32: "float",
    mx.float16: "half",
    mx.bfloat16: "bfloat16_t",
    mx.uint32: "uint",
    mx.int32: "int",
    mx.uint16: "ushort",
    mx.int16: "short",
    mx.uint8: "uchar",
    mx.int8: "char",
    mx.bool_: "uchar",  # OpenCL has no pointers to bool among a kernel's arguments
}
_POSITIONS = {
    "thread_position_in_threadgroup": "uint3",
    "threadgroup_position_in_grid": "uint3",
    "threadgroups_per_grid": "uint3",
    "threads_per_threadgroup": "uint3",
    "thread_index_in_simdgroup": "uint",
    "simdgroup_index_in_threadgroup": "uint",
}


def front_end() -> str | None:
    """The clang that checks, or None where there is none."""
    return shutil.which("clang")


def address_space_kernel(
    name: str, input_names: Sequence[str], output_names: Sequence[str], source: str, header: str = "", **_: Any
) -> Callable[..., list[mx.array]]:
    """Like `mx.fast.metal_kernel`, but a call only checks the text and returns zeros.

    Raises:
        KernelError: at the call: clang is missing, or an address space (or anything else) is wrong.
    """
    return functools.partial(_check, name, tuple(input_names), tuple(output_names), source, header)


def _check(
    name: str,
    input_names: tuple[str, ...],
    output_names: tuple[str, ...],
    source: str,
    header: str,
    *,
    inputs: Sequence[mx.array],
    output_shapes: Sequence[Sequence[int]],
    output_dtypes: Sequence[mx.Dtype],
    grid: tuple[int, int, int],
    threadgroup: tuple[int, int, int],
    template: Sequence[tuple[str, Any]] = (),
) -> list[mx.array]:
    parameters = []
    for label, array in zip(input_names, inputs):
        space = "device" if array.size >= _MIN_DEVICE_SIZE else "constant"
        parameters.append(f"const {space} {_TYPES[array.dtype]}* {label}")
        if re.search(rf"\b{label}_shape\b", source):
            parameters.append(f"const constant int* {label}_shape")
    parameters += [f"device {_TYPES[dtype]}* {label}" for label, dtype in zip(output_names, output_dtypes)]
    for label, kind in _POSITIONS.items():
        if re.search(rf"\b{label}\b", source):
            parameters.append(f"{kind} {label}")
    constants = [
        f"using {label} = {_TYPES[value]};"
        if isinstance(value, mx.Dtype)
        else f"constexpr {'bool' if isinstance(value, bool) else 'int'} {label} = {int(value)};"
        for label, value in template
    ]
    text = "\n".join([header, f"__kernel void {name}({', '.join(parameters)}) {{", *constants, source, "}"])
    _compile(name, text)
    return [mx.zeros(tuple(shape), dtype) for shape, dtype in zip(output_shapes, output_dtypes)]


@functools.cache
def _compile(name: str, text: str) -> None:
    clang = front_end()
    if clang is None:
        raise KernelError(f"emulate: {name}: expected clang on PATH to check address spaces; install it")
    prelude = (Path(__file__).parent / "opencl.h").read_text()
    command = [clang, "-x", "cl", "-cl-std=clc++", "-fsyntax-only", "-w", "-target", "spir64", "-"]
    command[1:1] = ["-Xclang", "-finclude-default-header"]
    checked = subprocess.run(command, input=prelude + text, capture_output=True, text=True)
    if checked.returncode:
        raise KernelError(f"emulate: {name}: address spaces: {checked.stderr.strip()[:3000]}")
