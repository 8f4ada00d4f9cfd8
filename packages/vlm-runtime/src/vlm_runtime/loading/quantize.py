"""Quantize a model while it is loaded: its weights, and the inputs of layers that can take quantized ones."""

from __future__ import annotations

import logging
from fnmatch import fnmatchcase
from typing import Any

import mlx.core as mx

from vlm_kernels import QQLinear
from vlm_models import Family, Model, Quantization, module_at, pack_layers, packed_layers

from ..errors import OptionError

log = logging.getLogger("vlm_runtime.loading")

MODES = {
    "mxfp4": Quantization(4, 32, "mxfp4"),
    "mxfp8": Quantization(8, 32, "mxfp8"),
    "nvfp4": Quantization(4, 16, "nvfp4"),
}
BITS = (2, 3, 4, 5, 6, 8)


def parse(given: int | str) -> Quantization:
    """What `quantize=` asks for: bits of the affine mode, or a mode's name. Raises OptionError."""
    if isinstance(given, str) and given in MODES:
        return MODES[given]
    text = str(given)
    if isinstance(given, bool) or not text.isdigit() or int(text) not in BITS:
        names = ", ".join([*map(str, BITS), *MODES])
        raise OptionError(f"quantize: expected one of {names}, got {given!r}")
    return Quantization(int(text), 64, "affine")


def quantize_weights(model: Model, family: Family, given: int | str) -> None:
    """Pack the layers that the family does not keep, where their size divides. Raises OptionError if that is none."""
    how = parse(given)
    if packed_layers(model):
        raise OptionError("quantize: the checkpoint is quantized already; leave it out")

    def choose(path: str, layer: Any) -> Quantization | None:
        kept = any(fnmatchcase(path, pattern) for pattern in family.keep_full)
        return None if kept or layer.weight.shape[-1] % how.group_size else how

    if not pack_layers(model, choose):
        raise OptionError(f"quantize: no layer of this model divides into groups of {how.group_size}; leave it out")


def quantize_inputs(model: Model) -> int:
    """Let mxfp8 and nvfp4 layers quantize their inputs too; how many. Raises OptionError where there is none.

    Layers that cannot are named in the log. On Metal the weights alone suffice, and nothing is changed."""
    paths = [path for path, how in packed_layers(model).items() if how.mode in ("mxfp8", "nvfp4")]
    layers = [(path, module_at(model, path)) for path in paths]
    # tables and stacks of experts have no form that quantizes its input
    linear = [(path, layer) for path, layer in layers if layer.weight.ndim == 2 and not hasattr(layer, "as_linear")]
    if not linear:
        raise OptionError(
            "quantize_activations: expected a model with mxfp8 or nvfp4 layers; quantize it so, or leave it out"
        )
    if mx.metal.is_available():
        log.warning("quantize_activations is not needed on Metal: layers compute from packed weights as they are")
        return 0
    turned = {path for path, _ in linear}
    left = [path for path, _ in layers if path not in turned]
    if left:
        log.warning("quantize_activations: tables and stacks of experts keep full inputs: %s", ", ".join(left))
    for path, layer in linear:
        how: Quantization = layer.how
        bias = layer.bias if "bias" in layer else None
        made = QQLinear(layer.weight, layer.scales, bias, group_size=how.group_size, bits=how.bits, mode=how.mode)
        _put(model, path, made)
    return len(linear)


def note_full_inputs(model: Model) -> None:
    """On CUDA, say that an mxfp8 or nvfp4 checkpoint could quantize its activations as well."""
    modes = {how.mode for how in packed_layers(model).values()} & {"mxfp8", "nvfp4"}
    if modes and mx.cuda.is_available():
        log.warning(
            "%s weights with full activations; quantize_activations (-qa) may be faster", " and ".join(sorted(modes))
        )


def _put(model: Model, path: str, new: Any) -> None:
    parent, _, last = path.rpartition(".")
    place: Any = module_at(model, parent) if parent else model
    place[int(last) if isinstance(place, list) else last] = new
