"""Which layers of a model are packed, and how. Knows module paths and configurations; not files."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from .core.weights import Rule, Tensors, renamed_path
from .errors import ConfigError, WeightError
from .layers.linear import Packed, Quantization


def quantize_layers(model: nn.Module, rules: Sequence[Rule], tensors: Tensors, hf: Mapping[str, Any]) -> None:
    """Replace each layer whose weight comes packed (it has `.scales`) by its quantized form, as the configuration says."""
    paths = sorted(name.removesuffix(".scales") for name in tensors if name.endswith(".scales"))
    scheme = quantization_scheme(hf)
    if not paths:
        return
    if scheme is None:
        raise ConfigError(f"{paths[0]} is quantized but config.json has no 'quantization'")
    default, overrides = scheme
    overrides = {renamed_path(rules, path): how for path, how in overrides.items()}
    for path in paths:
        how = overrides.get(path, default)
        layer = module_at(model, path)
        if how is None or not hasattr(layer, "quantized"):
            raise WeightError(f"{path}: the checkpoint has it quantized, the model does not")
        put_module(model, path, layer.quantized(how))


def quantization_scheme(hf: Mapping[str, Any]) -> tuple[Quantization, dict[str, Quantization | None]] | None:
    """The default and the per-layer exceptions of an MLX-quantized checkpoint; None where it is not quantized.

    Raises ConfigError for other quantization methods (`quantized_formats` translates those it knows beforehand)."""
    given = hf.get("quantization") or hf.get("quantization_config")
    if not given:
        return None
    if "bits" not in given or given.get("quant_method") not in (None, "mlx"):
        method = given.get("quant_method")
        raise ConfigError(
            f"checkpoints quantized by {method!r} are not supported; convert it from the original weights"
        )

    def parse(value: Mapping[str, Any]) -> Quantization:
        mode = value.get("mode") or default_mode
        size = value.get("group_size") or {"affine": 64, "nvfp4": 16}.get(mode, 32)
        return Quantization(int(value.get("bits") or given["bits"]), int(size), mode)

    default_mode = given.get("mode") or "affine"
    exceptions: dict[str, Quantization | None] = {}
    for path, value in given.items():
        if isinstance(value, Mapping):
            exceptions[path] = parse(value)
        elif isinstance(value, bool) and "." in path:
            exceptions[path] = parse(given) if value else None
    return parse(given), exceptions


def module_at(model: nn.Module, path: str) -> Any:
    """The module at a dotted path. Raises WeightError."""
    place: Any = model
    for part in path.split("."):
        try:
            place = place[int(part)] if isinstance(place, list) else place[part]
        except (KeyError, IndexError, ValueError):
            raise WeightError(f"the model has no place for: {path}") from None
    return place


def put_module(model: nn.Module, path: str, new: nn.Module) -> None:
    """Replace the module at a dotted path. Raises WeightError."""
    parent, _, last = path.rpartition(".")
    place = module_at(model, parent) if parent else model
    if isinstance(place, list):
        place[int(last)] = new
    else:
        place[last] = new


def quantizable(model: nn.Module) -> Iterator[tuple[str, Any]]:
    """Paths and layers that can be quantized."""
    for path, module in model.named_modules():
        if hasattr(module, "quantized"):
            yield path, module


def pack_layers(model: nn.Module, choose: Callable[[str, Any], Quantization | None]) -> dict[str, Quantization]:
    """Quantize layers in place. choose: (path, layer) -> how, or None to leave it. Returns what was done, by path.

    Nothing is computed until the packed weights are used. Raises ConfigError where a layer's size does not divide."""
    done: dict[str, Quantization] = {}
    for path, layer in list(quantizable(model)):
        how = choose(path, layer)
        if how is not None:
            put_module(model, path, layer.quantized(how))
            done[path] = how
    return done


def packed_layers(model: nn.Module) -> dict[str, Quantization]:
    """Path -> how, of the layers whose weights are packed."""
    return {path: module.how for path, module in model.named_modules() if isinstance(module, Packed)}


def unpack_layers(model: nn.Module, dtype: mx.Dtype) -> list[str]:
    """Bring every packed layer to full precision, in place and lazily. Returns their paths."""
    paths = list(packed_layers(model))
    for path in paths:
        put_module(model, path, module_at(model, path).dequantized(dtype))
    return paths
