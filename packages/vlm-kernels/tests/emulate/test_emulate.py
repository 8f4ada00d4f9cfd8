from __future__ import annotations

import mlx.core as mx
import numpy as np
import pytest

from vlm_kernels import emulate
from vlm_kernels.errors import KernelError

pytestmark = pytest.mark.skipif(emulate.compiler() is None, reason="no C++ compiler to run kernel text with")


def run(source: str, *, make=emulate.metal_kernel, threads: int = 64, groups: int = 1, inputs=None, outputs: int = 64):
    kernel = make(name="test", input_names=["x"], output_names=["out"], source=source)
    return kernel(
        inputs=[mx.arange(64, dtype=mx.float32) if inputs is None else inputs],
        output_shapes=[(outputs,)],
        output_dtypes=[mx.float32],
        grid=(threads * groups, 1, 1),
        threadgroup=(threads, 1, 1),
    )[0]


def test_threadgroup_memory_and_barriers():
    source = """
  threadgroup float shared[64];
  const uint i = thread_position_in_threadgroup.x;
  shared[i] = x[i];
  threadgroup_barrier(mem_flags::mem_threadgroup);
  out[i] = shared[63 - i];
"""
    assert np.array_equal(np.array(run(source)), np.arange(64)[::-1])


def test_simd_operations_stay_within_their_group():
    source = "out[thread_position_in_threadgroup.x] = simd_sum(x[thread_position_in_threadgroup.x]);"
    assert np.array_equal(np.array(run(source)), np.repeat([np.arange(32).sum(), np.arange(32, 64).sum()], 32))
    source = "const uint i = thread_position_in_threadgroup.x; out[i] = simd_shuffle_xor(x[i], 3);"
    assert np.array_equal(np.array(run(source)), np.arange(64) ^ 3)


def test_shapes_templates_and_groups():
    kernel = emulate.metal_kernel(
        name="test",
        input_names=["x"],
        output_names=["out"],
        source="out[threadgroup_position_in_grid.x] = T(x_shape[1] * FACTOR + threadgroup_position_in_grid.x);",
    )
    (out,) = kernel(
        inputs=[mx.zeros((2, 5), mx.bfloat16)],
        template=[("T", mx.bfloat16), ("FACTOR", 3)],
        output_shapes=[(3,)],
        output_dtypes=[mx.bfloat16],
        grid=(12, 1, 1),
        threadgroup=(4, 1, 1),
    )
    assert out.tolist() == [15, 16, 17]


def test_an_element_that_is_not_written_shows():
    assert np.isnan(np.array(run("if (thread_position_in_threadgroup.x == 0) out[0] = 1.0f;"))[1:]).all()


def test_shared_memory_is_not_zero():
    assert np.isnan(np.array(run("threadgroup float s[4]; out[thread_position_in_threadgroup.x] = s[1];"))).all()


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("if (thread_position_in_threadgroup.x < 5) threadgroup_barrier(mem_flags::mem_threadgroup);", "diverge"),
        ("if (thread_position_in_threadgroup.x < 5) out[0] = simd_sum(x[0]);", "diverge"),
        ("if (thread_position_in_threadgroup.x < 5) simd_sum(1.0f); else simd_max(1.0f);", "diverge"),
        ("out[thread_position_in_threadgroup.x] = x[1 << 20];", "outside a buffer"),
        ("out[1 << 20] = 0.0f;", "outside a buffer"),
        ("threadgroup float s[8193]; s[0] = 1.0f;", "exceeds its limit"),
        ("undeclared = 1;", "does not compile"),
    ],
)
def test_what_a_device_would_not_forgive_is_a_named_error(source, message):
    with pytest.raises(KernelError, match=message):
        run(source)


def test_the_process_survives_an_error():
    with pytest.raises(KernelError):
        run("out[1 << 20] = 0.0f;")
    assert run("out[thread_position_in_threadgroup.x] = 2.0f;").sum().item() == 128


@pytest.mark.parametrize("source", ["double y = 1;", "std::min(1, 2);"])
def test_metal_has_no_double_and_no_std(source):
    with pytest.raises(KernelError, match="double and std"):
        run(source)


@pytest.mark.parametrize("threads", [2048, 33])
def test_groups_have_a_size_limit_and_fill_the_grid(threads):
    kernel = emulate.metal_kernel(name="test", input_names=[], output_names=["out"], source="out[0] = 1.0f;")
    with pytest.raises(KernelError, match="whole groups"):
        kernel(
            inputs=[], output_shapes=[(1,)], output_dtypes=[mx.float32], grid=(2048, 1, 1), threadgroup=(threads, 1, 1)
        )


def test_the_cuda_dialect():
    source = """
  __shared__ float shared[64];
  shared[threadIdx.x] = x[threadIdx.x];
  __syncthreads();
  out[threadIdx.x] = __shfl_xor_sync(0xffffffffu, shared[threadIdx.x], 1) + blockIdx.x + blockDim.x;
"""
    assert np.array_equal(np.array(run(source, make=emulate.cuda_kernel)), (np.arange(64) ^ 1) + 64)


def test_the_intrinsic_for_bytes_ignores_the_top_bits_of_its_selector():
    source = "out[threadIdx.x] = float(__byte_perm(0x80u, 0u, 0x4448u));"
    assert run(source, make=emulate.cuda_kernel)[0].item() == 0x80


def test_half_precision_rounds_as_the_hardware_does():
    values = np.array([0.0, 1.0, 65504.0, 65519.0, 65520.0, 1e-7, 6e-5, 5.96e-8, -2.0005, 3.14159], np.float32)
    kernel = emulate.metal_kernel(
        name="test", input_names=["x"], output_names=["out"], source="for (int i = 0; i < 10; ++i) out[i] = half(x[i]);"
    )
    (out,) = kernel(
        inputs=[mx.array(values)],
        output_shapes=[(10,)],
        output_dtypes=[mx.float16],
        grid=(1, 1, 1),
        threadgroup=(1, 1, 1),
    )
    with np.errstate(over="ignore"):
        assert np.array_equal(np.array(out), values.astype(np.float16))
