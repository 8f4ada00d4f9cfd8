from __future__ import annotations

import mlx.core as mx
import pytest

from vlm_kernels import emulate
from vlm_kernels.errors import KernelError

pytestmark = pytest.mark.skipif(emulate.front_end() is None, reason="no clang to check address spaces with")

HEADER = "inline float first(const device float* x) { return x[0]; }"


def check(source: str, size: int = 64) -> mx.array:
    kernel = emulate.address_space_kernel("test", ["x"], ["out"], source, HEADER)
    return kernel(
        inputs=[mx.zeros(size)], output_shapes=[(2,)], output_dtypes=[mx.float32], grid=(1, 1, 1), threadgroup=(1, 1, 1)
    )[0]


def test_right_address_spaces_pass():
    assert check("threadgroup float s[4]; s[0] = first(x); out[0] = s[0];").shape == (2,)


@pytest.mark.parametrize(
    "source", ["threadgroup float s[4]; out[0] = first(s);", "float s[4]; out[0] = first(s);", "x[0] = 1.0f;"]
)
def test_wrong_address_spaces_are_named_errors(source):
    with pytest.raises(KernelError, match="address spaces"):
        check(source)


def test_small_inputs_are_constants_as_in_mlx():
    with pytest.raises(KernelError, match="address spaces"):
        check("out[0] = first(x);", size=7)
