"""Operations and kernels for vision-language models on MLX: quantized matmul, attention, TurboQuant."""

from __future__ import annotations

from vlm_kernels.errors import BackendMissing, KernelError, VlmError

try:
    import mlx.core as _mx
except ImportError as error:
    raise BackendMissing(
        f"MLX has no backend here ({error}); install one of the extras cpu, cuda12, cuda13: "
        "for example pip install 'vlm-kernels[cpu]'"
    ) from error

from vlm_kernels.attention import attention, block_attention
from vlm_kernels.dispatch import Backends, Op, OpPath, backends, use
from vlm_kernels.gated_activation import geglu, swiglu
from vlm_kernels.linear import linear, matmul
from vlm_kernels.native import NativeStatus
from vlm_kernels.norm import layer_norm, rms_norm
from vlm_kernels.patch_embed import patch_embed
from vlm_kernels.project import Projection, project
from vlm_kernels.quantized_matmul import QQLinear, gather_quantized_matmul, quantized_matmul, quantized_qqmm
from vlm_kernels.roof import machine_roof
from vlm_kernels.rope import rope

__version__ = "0.1.0"

__all__ = [
    "BackendMissing",
    "Backends",
    "KernelError",
    "NativeStatus",
    "Op",
    "OpPath",
    "Projection",
    "QQLinear",
    "VlmError",
    "attention",
    "backends",
    "block_attention",
    "gather_quantized_matmul",
    "geglu",
    "layer_norm",
    "linear",
    "machine_roof",
    "matmul",
    "patch_embed",
    "project",
    "quantized_matmul",
    "quantized_qqmm",
    "rms_norm",
    "rope",
    "swiglu",
    "use",
]

del _mx
