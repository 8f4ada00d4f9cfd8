"""Checkpoints quantized elsewhere, read as MLX's own packed layers where those say the same, and as full precision where not.

One module per format; each takes the tensors of a checkpoint and gives them back with its packed layers replaced.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import mlx.core as mx

from ..core.config import ModelConfig, read_json
from ..core.weights import Tensors
from ..errors import ConfigError
from ..layers.linear import Quantization
from . import awq, compressed, fp8, gptq, modelopt
from .layers import Found

# quant_method: (tensors, quantization_config, type of what is brought to full precision) -> tensors, packed layers by path
READERS: dict[str, Callable[[Tensors, Mapping[str, Any], mx.Dtype], Found]] = {
    "awq": awq.read,
    "compressed-tensors": compressed.read,
    "fp8": fp8.read,
    "gptq": gptq.read,
    "modelopt": modelopt.read,
}


def translated(tensors: Tensors, hf: ModelConfig, folder: Path) -> tuple[Tensors, ModelConfig]:
    """A checkpoint's tensors and configuration as an MLX checkpoint would have them; unchanged where it is none of these.

    Raises ConfigError for a method that cannot be read, or a form of one."""
    given = _given(hf, folder)
    method = given.get("quant_method")
    if not given or method in (None, "mlx") or "quantization" in hf:
        return tensors, hf
    if method not in READERS:
        raise ConfigError(
            f"checkpoints quantized by {method!r} are not supported (supported: mlx, {', '.join(sorted(READERS))}); "
            "convert it from the original weights"
        )
    dtype = compute_dtype(tensors, hf)
    found = READERS[method](tensors, given, dtype)
    for path, how in found.packed.items():
        if how.mode == "affine":  # a product of two 16-bit types would be computed and kept in 32
            for name in ("scales", "biases"):
                found.tensors[f"{path}.{name}"] = found.tensors[f"{path}.{name}"].astype(dtype)
    values = hf.to_dict()
    for part in (values, values.get("text_config") or {}):
        part.pop("quantization_config", None)
    if found.packed:
        common = Counter(found.packed.values()).most_common(1)[0][0]
        values["quantization"] = _entry(common) | {
            path: _entry(how) for path, how in found.packed.items() if how != common
        }
    return found.tensors, ModelConfig(values)


def _given(hf: ModelConfig, folder: Path) -> dict[str, Any]:
    text = hf.get("text_config") or {}
    given = hf.get("quantization_config") or text.get("quantization_config") or {}
    apart = folder / "hf_quant_config.json"
    if not given and apart.is_file():  # modelopt's exports keep it apart
        given = {"quant_method": "modelopt", **read_json(apart).get("quantization", {})}
    return dict(given)


def _entry(how: Quantization) -> dict[str, Any]:
    return {"group_size": how.group_size, "bits": how.bits, "mode": how.mode}


def compute_dtype(tensors: Tensors, hf: Mapping[str, Any]) -> mx.Dtype:
    """The type of the weights that are not quantized; where there are none the configuration's, or bfloat16."""
    kinds = {"float32": mx.float32, "float16": mx.float16, "bfloat16": mx.bfloat16}
    stored = Counter(value.dtype for name, value in tensors.items() if name.endswith((".weight", ".bias")))
    for kind, _ in stored.most_common():
        if kind in kinds.values():
            return kind
    text = hf.get("text_config") or {}
    name = hf.get("dtype") or hf.get("torch_dtype") or text.get("dtype") or text.get("torch_dtype") or "bfloat16"
    if name not in kinds:
        raise ConfigError(f"config: dtype={name!r} is not supported (supported: {', '.join(kinds)})")
    return kinds[name]
