"""The choice of a path, the report about it, and what happens without the extension."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import FrozenInstanceError

import mlx.core as mx
import pytest

import vlm_kernels as kernels
from vlm_kernels import env, native


def _run(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_report_names_a_path_and_a_reason_for_every_op() -> None:
    report = kernels.backends()
    assert {"attention", "linear", "quantized_matmul"} <= {op.op for op in report.ops}
    assert all(op.reason for op in report.ops)
    with pytest.raises(FrozenInstanceError):
        report.device = "elsewhere"  # type: ignore[misc]


def test_a_forced_path_is_taken_and_left_again() -> None:
    before = kernels.backends().ops
    with kernels.use("reference"):
        assert {op.path for op in kernels.backends().ops if op.op == "linear"} == {"reference"}
    assert kernels.backends().ops == before
    with pytest.raises(kernels.KernelError, match="VLM_KERNELS"), kernels.use("avx2"):
        pass


def test_environment_is_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLM_KERNELS", "turbo")
    with pytest.raises(kernels.KernelError, match="turbo"):
        env.kernels()
    monkeypatch.setenv("VLM_NUM_THREADS", "0")
    with pytest.raises(kernels.KernelError, match="VLM_NUM_THREADS"):
        env.num_threads()


def test_another_mlx_version_keeps_the_extension_closed() -> None:
    code = (
        "import sys, types; build = types.ModuleType('vlm_kernels._native_build'); build.MLX_VERSION = '0.0.1'\n"
        "import vlm_kernels; sys.modules['vlm_kernels._native_build'] = build\n"
        "import mlx.core as mx; report = vlm_kernels.backends()\n"
        "print(report.native.reason); print('vlm_kernels._native' in sys.modules)\n"
        "print(vlm_kernels.linear(mx.ones((1, 2)), mx.ones((1, 2))).item())"
    )
    result = _run(code)
    assert result.returncode == 0, result.stderr
    reason, loaded, value = result.stdout.splitlines()
    assert "built for MLX 0.0.1" in reason
    assert (loaded, value) == ("False", "2.0")


@pytest.mark.skipif(native.library() is None, reason="needs the native CPU library")
def test_instruction_set_and_threads_are_forced_by_the_environment() -> None:
    code = "import vlm_kernels as k; n = k.backends().native; print(n.instruction_set, n.threads)"
    for name in native.call("instruction_sets"):
        assert _run(code, VLM_KERNELS=name, VLM_NUM_THREADS="3").stdout.split() == [name, "3"]
    missing = next(name for name in env.INSTRUCTION_SETS if name not in native.call("instruction_sets"))
    assert "this machine and build offer" in _run(code, VLM_KERNELS=missing).stderr


def test_import_is_cheap() -> None:
    """Nothing is built or opened at import: the extension loads with the first op on a CPU."""
    result = _run("import sys, vlm_kernels; print('vlm_kernels._native' in sys.modules, 'numpy' in sys.modules)")
    assert result.stdout.split() == ["False", "False"]


@pytest.mark.parametrize(
    "call",
    [
        lambda: kernels.linear(mx.ones((2, 3)), mx.ones((4, 5))),
        lambda: kernels.attention(*(mx.ones((1, heads, 2, 8)) for heads in (3, 2, 2)), scale=1.0),
        lambda: kernels.attention(*(mx.ones((1, 2, 2, 8)) for _ in range(3)), scale=1.0, mask="window"),
        lambda: kernels.block_attention(*(mx.ones((1, 2, 4, 8)) for _ in range(3)), scale=1.0, segments=[3]),
        lambda: kernels.rope(mx.ones((1, 2, 4, 8)), mx.ones((1, 4, 5)), mx.ones((1, 4, 5))),
        lambda: kernels.swiglu(mx.ones((2, 3)), mx.ones((3, 2))),
        lambda: kernels.geglu(mx.ones((2,)), mx.ones((2,)), approximate="fast"),
        lambda: kernels.quantized_matmul(mx.ones((2, 64)), *mx.quantize(mx.ones((4, 64)), 64, 4), bits=7),
        lambda: kernels.quantized_matmul(mx.ones((2, 32)), *mx.quantize(mx.ones((4, 64)), 64, 4)),
        lambda: kernels.quantized_qqmm(mx.ones((2, 64)), *mx.quantize(mx.ones((4, 64)), 64, 4)[:2], mode="affine"),
        lambda: kernels.project(mx.ones((2, 3)), [kernels.Projection(mx.ones((4, 5)))]),
        lambda: kernels.project(mx.ones((2, 3)), [kernels.Projection(mx.ones((4, 3)))], gate="swiglu"),
        lambda: kernels.project(mx.ones((2, 3)), [kernels.Projection(mx.ones((4, 3)))], residual=mx.ones((2, 3))),
        lambda: kernels.patch_embed(mx.ones((1, 8, 8, 3)), mx.ones((4, 2, 2, 1))),
    ],
)
def test_what_does_not_fit_is_a_named_error(call: object) -> None:
    with pytest.raises(kernels.KernelError, match="expected"):
        call()  # type: ignore[operator]


def test_patch_embed_is_the_convolution() -> None:
    x, w, bias = mx.random.normal((2, 9, 12, 3)), mx.random.normal((5, 4, 4, 3)), mx.random.normal((5,))
    want = mx.conv2d(x, w, stride=4) + bias
    assert mx.allclose(kernels.patch_embed(x, w, bias), want, atol=1e-4).item()
    video, w3 = mx.random.normal((1, 4, 8, 8, 3)), mx.random.normal((5, 2, 4, 4, 3))
    assert mx.allclose(kernels.patch_embed(video, w3), mx.conv3d(video, w3, stride=(2, 4, 4)), atol=1e-4).item()


def test_qq_linear_from_a_quantized_layer() -> None:
    import mlx.nn as nn

    layer = nn.QuantizedLinear.from_linear(nn.Linear(64, 32), group_size=32, bits=8, mode="mxfp8")
    twin = kernels.QQLinear.from_quantized_linear(layer)
    x = mx.random.normal((3, 64))
    assert mx.allclose(twin(x), layer(x), atol=0.2).item()
    assert not mx.array_equal(twin(x), layer(x)).item()
    assert set(twin.parameters()) == {"weight", "scales", "bias"}
    twin.unfreeze()
    assert not twin.trainable_parameters()
