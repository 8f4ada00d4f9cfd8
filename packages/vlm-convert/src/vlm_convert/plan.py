"""What a conversion will do to each layer, decided before anything is computed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from vlm_models import (
    Loaded,
    Quantization,
    apply_rules,
    named_parameters,
    pack_layers,
    packed_layers,
    quantizable,
    unpack_layers,
    written_as_convolution,
)

from .errors import ConvertError
from .recipes import Recipe

Choose = Callable[[str, Any], Quantization | None]
Packer = Callable[[nn.Module, Choose], dict[str, Quantization]]


@dataclass(frozen=True)
class Plan:
    """layers: path -> quantization in the result. kept: quantizable paths left in full precision, and why. sizes in bytes."""

    layers: Mapping[str, Quantization]
    kept: Mapping[str, str] = field(default_factory=dict)
    before: int = 0
    after: int = 0
    num_weights: int = 0

    @property
    def bits_per_weight(self) -> float:
        return 8 * self.after / max(self.num_weights, 1)

    def lines(self) -> list[str]:
        """For people."""
        kinds = Counter(f"{how.bits}-bit {how.mode}, groups of {how.group_size}" for how in self.layers.values())
        reasons = Counter(self.kept.values())
        return [
            *(f"{count:5d} layers: {kind}" for kind, count in sorted(kinds.items())),
            *(f"{count:5d} layers kept: {reason}" for reason, count in sorted(reasons.items())),
            f"size: {self.before / 1e6:.1f} MB -> {self.after / 1e6:.1f} MB, {self.bits_per_weight:.2f} bits per weight",
        ]


def plan_quantization(loaded: Loaded, recipe: Recipe, *, everything: bool, pack: Packer = pack_layers) -> Plan:
    """Quantize the model in place (lazily) by a recipe. everything: also what the family keeps in full precision. pack: how.

    Raises ConvertError where a layer is packed otherwise already."""
    kept: dict[str, str] = {}
    already = packed_layers(loaded.model)
    for path, how in already.items():
        if recipe(path) != how:
            raise ConvertError(
                f"{path} is quantized already ({how.bits}-bit {how.mode}); convert it with --dequantize first"
            )
    before, num_weights = byte_size(loaded), count_weights(loaded.model)

    export = loaded.family.export_rules(loaded.config)

    def choose(path: str, layer: Any) -> Quantization | None:
        how = recipe(path)
        if how is None:
            kept[path] = "the recipe says so"
        elif not everything and any(fnmatchcase(path, pattern) for pattern in loaded.family.keep_full):
            kept[path] = "vision, audio and projectors stay in full precision"
        elif written_as_convolution(export, path):
            kept[path] = "it is written as a convolution"
        elif layer.weight.shape[-1] % how.group_size:
            kept[path] = f"its size does not divide by {how.group_size}"
        else:
            return how
        return None

    recipe.check_used([*already, *(path for path, _ in quantizable(loaded.model))])
    done = pack(loaded.model, choose)
    return Plan({**already, **done}, kept, before, byte_size(loaded), num_weights)


def plan_copy(loaded: Loaded) -> Plan:
    """No layer changes its form."""
    size = byte_size(loaded)
    return Plan(packed_layers(loaded.model), {}, size, size, count_weights(loaded.model))


def plan_dequantize(loaded: Loaded, dtype: mx.Dtype) -> Plan:
    """Unpack every packed layer in place (lazily). Raises ConvertError where there is none."""
    if not packed_layers(loaded.model):
        raise ConvertError("dequantize: the checkpoint is not quantized")
    before, num_weights = byte_size(loaded), count_weights(loaded.model)
    unpack_layers(loaded.model, dtype)
    return Plan({}, {}, before, byte_size(loaded), num_weights)


def byte_size(loaded: Loaded) -> int:
    """Of the model as it is written."""
    rules = loaded.family.export_rules(loaded.config)
    return sum(
        value.nbytes for value in apply_rules(rules, dict(named_parameters(loaded.model)), {}, is_mlx=True).values()
    )


def count_weights(model: nn.Module) -> int:
    """Parameters as the unquantized model counts them."""
    packed = packed_layers(model)
    total = 0
    for name, value in named_parameters(model):
        path, _, leaf = name.rpartition(".")
        if path in packed and leaf in ("scales", "biases"):
            continue
        total += value.size * 32 // packed[path].bits if path in packed and leaf == "weight" else value.size
    return total
