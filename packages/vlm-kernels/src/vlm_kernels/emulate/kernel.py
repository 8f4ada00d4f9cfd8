"""Kernels in the Metal or CUDA dialect, compiled as C++ and run on the CPU, group by group.

`metal_kernel` and `cuda_kernel` take what `mx.fast.metal_kernel` and `mx.fast.cuda_kernel` take and return a callable of
the same form, so that one wrapper serves the device and the emulation. Meant for tests of small cases: every GPU
thread is a fiber. Knows signatures, limits and the compiler; not what a kernel computes.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np

from vlm_kernels.errors import KernelError

_HERE = Path(__file__).parent
_SHARED_LIMIT = {"metal": 32 * 1024, "cuda": 48 * 1024}
_MAX_THREADS = 1024
_SHARED = re.compile(r"\b(threadgroup|__shared__)\s+(\w+)\s+(\w+)\s*\[([^\];]+)\]\s*;")
_CTYPE = {
    "metal": {mx.bfloat16: "bfloat16_t", mx.float16: "half"},
    "cuda": {mx.bfloat16: "__nv_bfloat16", mx.float16: "__half"},
}
_COMMON = {
    mx.float32: "float",
    mx.uint32: "uint32_t",
    mx.int32: "int32_t",
    mx.uint16: "uint16_t",
    mx.int16: "int16_t",
    mx.uint8: "uint8_t",
    mx.int8: "int8_t",
    mx.bool_: "bool",
}
_POSITIONS = {
    "thread_position_in_threadgroup": "uint3 {} = emulate::state().current->position;",
    "threadgroup_position_in_grid": "uint3 {} = emulate::state().group_index;",
    "threadgroups_per_grid": "uint3 {} = emulate::state().grid;",
    "threads_per_threadgroup": "uint3 {} = emulate::state().group;",
    "thread_index_in_simdgroup": "uint {} = emulate::lane();",
    "simdgroup_index_in_threadgroup": "uint {} = emulate::state().current->index / emulate::kSimdSize;",
}


def metal_kernel(
    name: str, input_names: Sequence[str], output_names: Sequence[str], source: str, header: str = "", **_: Any
) -> Callable[..., list[mx.array]]:
    """Like `mx.fast.metal_kernel`; runs on the CPU, at the call."""
    if re.search(r"\bdouble\b|\bstd::", header + source):
        raise KernelError(f"emulate: {name}: expected Metal text without double and std::, which Metal does not have")
    return functools.partial(_run, "metal", name, tuple(input_names), tuple(output_names), source, header)


def cuda_kernel(
    name: str,
    input_names: Sequence[str],
    output_names: Sequence[str],
    source: str,
    header: str = "",
    ensure_row_contiguous: bool = True,
    shared_memory: int = 0,
) -> Callable[..., list[mx.array]]:
    """Like `mx.fast.cuda_kernel`; runs on the CPU, at the call. Dynamic shared memory is not emulated."""
    if shared_memory or not ensure_row_contiguous:
        raise KernelError(f"emulate: {name}: expected static shared memory and contiguous inputs")
    return functools.partial(_run, "cuda", name, tuple(input_names), tuple(output_names), source, header)


def compiler() -> str | None:
    """The C++ compiler that emulation uses, or None where there is none."""
    return shutil.which("clang++") or shutil.which("g++")


def _run(
    dialect: str,
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
    if len(inputs) != len(input_names) or len(output_shapes) != len(output_names):
        raise KernelError(f"emulate: {name}: expected {len(input_names)} inputs and {len(output_names)} outputs")
    if any(size % group for size, group in zip(grid, threadgroup)) or np.prod(threadgroup) > _MAX_THREADS:
        raise KernelError(
            f"emulate: {name}: expected a grid of whole groups of at most {_MAX_THREADS} threads, "
            f"got {grid} in groups of {threadgroup}"
        )
    types = _COMMON | _CTYPE[dialect]
    parameters, shapes = [], []
    for index, (label, array) in enumerate(zip(input_names, inputs)):
        parameters.append(
            f"const {types[array.dtype]}* {label} = static_cast<const {types[array.dtype]}*>(emulated_inputs[{index}]);"
        )
        if re.search(rf"\b{label}_shape\b", source):
            parameters.append(f"const int* {label}_shape = emulated_shapes[{index}];")
    for index, (label, dtype) in enumerate(zip(output_names, output_dtypes)):
        parameters.append(f"{types[dtype]}* {label} = static_cast<{types[dtype]}*>(emulated_outputs[{index}]);")
    for label, value in template:
        if isinstance(value, mx.Dtype):
            parameters.append(f"using {label} = {types[value]};")
        else:
            kind = "bool" if isinstance(value, bool) else "int"
            parameters.append(f"constexpr {kind} {label} = {int(value)};")
    if dialect == "metal":
        used = [line.format(label) for label, line in _POSITIONS.items() if re.search(rf"\b{label}\b", source)]
        parameters.extend(used)
    library = _compile(dialect, header, "\n".join(parameters), source)

    shapes = [(ctypes.c_int * max(1, array.ndim))(*array.shape) for array in inputs]
    host = [_bytes(array) for array in inputs]
    # Poison: a kernel that leaves an element unwritten must show.
    results = [
        np.full(int(np.prod(shape)) * dtype.size, 0xFF, np.uint8) for shape, dtype in zip(output_shapes, output_dtypes)
    ]
    library.run.restype = ctypes.c_char_p
    error = library.run(
        (ctypes.c_void_p * len(host))(*[array.ctypes.data for array in host]),
        (ctypes.c_size_t * len(host))(*[array.nbytes for array in host]),
        (ctypes.c_void_p * len(shapes))(*[ctypes.addressof(shape) for shape in shapes]),
        len(host),
        (ctypes.c_void_p * len(results))(*[array.ctypes.data for array in results]),
        (ctypes.c_size_t * len(results))(*[array.nbytes for array in results]),
        len(results),
        (ctypes.c_uint32 * 3)(*[size // group for size, group in zip(grid, threadgroup)]),
        (ctypes.c_uint32 * 3)(*threadgroup),
        ctypes.c_size_t(_SHARED_LIMIT[dialect]),
    )
    if error is not None:
        raise KernelError(f"emulate: {name}: {error.decode()}")
    return [
        mx.array(result).view(dtype).reshape(tuple(shape))
        for result, shape, dtype in zip(results, output_shapes, output_dtypes)
    ]


def _bytes(array: mx.array) -> np.ndarray:
    flat = mx.contiguous(array).reshape(-1)
    return np.array(flat.view(mx.uint8))


_DRIVER = """
#include "{dialect}.h"
{header}
static void** emulated_inputs;
static void** emulated_outputs;
static int** emulated_shapes;
static void body() {{
{parameters}
{{
{source}
}}
}}
extern "C" const char* run(void** inputs, size_t* input_bytes, int** input_shapes, int num_inputs, void** outputs,
                           size_t* output_bytes, int num_outputs, uint32_t* groups, uint32_t* group, size_t limit) {{
  std::vector<std::unique_ptr<emulate::Buffer>> buffers;
  std::vector<void*> input_copies, output_copies;
  for (int i = 0; i < num_inputs; ++i) {{
    buffers.push_back(std::make_unique<emulate::Buffer>(input_bytes[i]));
    std::memcpy(buffers.back()->data(), inputs[i], input_bytes[i]);
    input_copies.push_back(buffers.back()->data());
  }}
  for (int i = 0; i < num_outputs; ++i) {{
    buffers.push_back(std::make_unique<emulate::Buffer>(output_bytes[i]));
    std::memcpy(buffers.back()->data(), outputs[i], output_bytes[i]);
    output_copies.push_back(buffers.back()->data());
  }}
  emulated_inputs = input_copies.data();
  emulated_outputs = output_copies.data();
  emulated_shapes = input_shapes;
  const char* error = emulate::launch(body, {{groups[0], groups[1], groups[2]}}, {{group[0], group[1], group[2]}}, limit);
  if (!error)
    for (int i = 0; i < num_outputs; ++i) std::memcpy(outputs[i], output_copies[i], output_bytes[i]);
  return error;
}}
"""


@functools.cache
def _compile(dialect: str, header: str, parameters: str, source: str) -> ctypes.CDLL:
    program = compiler()
    if program is None:
        raise KernelError("emulate: expected a C++ compiler (clang++ or g++) on PATH; install one to run kernel text")
    text = _DRIVER.format(
        dialect=dialect,
        header=_SHARED.sub(r"EMULATE_SHARED(\2, \3, (\4));", header),
        parameters=parameters,
        source=_SHARED.sub(r"EMULATE_SHARED(\2, \3, (\4));", source),
    )
    folder = _folder()
    stem = folder / hashlib.sha256(text.encode()).hexdigest()[:24]
    stem.with_suffix(".cpp").write_text(text)
    command = [program, "-std=c++17", "-O0", "-fPIC", "-shared", "-w", "-ffp-contract=off", f"-I{_HERE}"]
    built = subprocess.run(
        [*command, "-o", str(stem.with_suffix(".so")), str(stem.with_suffix(".cpp"))], capture_output=True, text=True
    )
    if built.returncode:
        raise KernelError(f"emulate: {dialect} text does not compile: {built.stderr.strip()[:4000]}")
    return ctypes.CDLL(str(stem.with_suffix(".so")))


@functools.cache
def _folder() -> Path:
    folder = tempfile.TemporaryDirectory(prefix="vlm-emulate-")
    _folders.append(folder)  # removed when the process ends
    return Path(folder.name)


_folders: list[tempfile.TemporaryDirectory[str]] = []
