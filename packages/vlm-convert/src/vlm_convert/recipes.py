"""Which layer gets how many bits: recipes by name and from a file. Knows paths and numbers; no arrays.

A recipe file is JSON: patterns of module paths (shell style) to what they get; the first that matches decides.

    {"language_model.layers.*.mlp.down_proj": {"bits": 6}, "*.v_proj": {"bits": 8, "group_size": 32}, "*lm_head": false}
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from vlm_models import ConfigError, Quantization

from .errors import ConvertError, RecipeError

GROUP_SIZES = {"affine": (32, 64, 128), "mxfp4": (32,), "mxfp8": (32,), "nvfp4": (16,)}
BITS = {"affine": (2, 3, 4, 5, 6, 8), "mxfp4": (4,), "mxfp8": (8,), "nvfp4": (4,)}
DEFAULT_GROUP = {"affine": 64, "mxfp4": 32, "mxfp8": 32, "nvfp4": 16}
# name: (bits of most layers, bits of the sensitive ones)
MIXED = {"mixed_2_6": (2, 6), "mixed_3_4": (3, 4), "mixed_3_6": (3, 6), "mixed_4_6": (4, 6), "mixed_4_8": (4, 8)}

Rule = Callable[[str, int], Quantization | None]


def quantization(bits: int | None, group_size: int | None, mode: str) -> Quantization:
    """Checked against what MLX packs. bits None: 4, or what the mode has. Raises ConvertError."""
    if mode not in BITS:
        raise ConvertError(f"q_mode: expected one of {', '.join(BITS)}, got {mode!r}")
    bits = BITS[mode][-1] if bits is None and mode != "affine" else 4 if bits is None else bits
    size = DEFAULT_GROUP[mode] if group_size is None else group_size
    if bits not in BITS[mode]:
        raise ConvertError(f"q_bits: {mode} has {' '.join(map(str, BITS[mode]))}, got {bits}")
    if size not in GROUP_SIZES[mode]:
        raise ConvertError(f"q_group_size: {mode} has {' '.join(map(str, GROUP_SIZES[mode]))}, got {size}")
    return Quantization(bits, size, mode)


@dataclass(frozen=True)
class Recipe:
    """rules: pattern -> quantization (None: keep full); the first match decides, `default` where none does."""

    name: str
    default: Quantization
    rules: tuple[tuple[str, Quantization | None], ...] = ()

    def __call__(self, path: str) -> Quantization | None:
        for pattern, how in self.rules:
            if fnmatchcase(path, pattern):
                return how
        return self.default

    def check_used(self, paths: Sequence[str]) -> None:
        """Raises RecipeError for a pattern that matches no layer: a typing error would otherwise go unseen."""
        for pattern, _ in self.rules:
            if not any(fnmatchcase(path, pattern) for path in paths):
                raise RecipeError(f"recipe {self.name}: {pattern!r} matches no layer of this model")


def recipe(given: str | Path | None, default: Quantization, num_layers: int) -> Recipe:
    """A recipe by name, or from a file. None: everything alike. Raises RecipeError."""
    if given is None:
        return Recipe("uniform", default)
    if str(given) in MIXED:
        return _mixed(str(given), default, num_layers)
    path = Path(given)
    if not path.is_file():
        raise RecipeError(f"recipe: expected a file or one of {', '.join(MIXED)}, got {str(given)!r}")
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise RecipeError(f"recipe {path.name}: not valid JSON ({error})") from None
    if not isinstance(value, dict):
        raise RecipeError(f"recipe {path.name}: expected an object of pattern -> quantization")
    return Recipe(
        path.name, default, tuple((pattern, _entry(path.name, pattern, how)) for pattern, how in value.items())
    )


def _entry(name: str, pattern: str, how: Any) -> Quantization | None:
    if how is False or how is None:
        return None
    known = {"bits", "group_size", "mode"}
    if not isinstance(how, Mapping) or set(how) - known:
        raise RecipeError(
            f"recipe {name}: {pattern!r} must be false or an object of {', '.join(sorted(known))}, got {how!r}"
        )
    try:
        return quantization(how.get("bits"), how.get("group_size"), how.get("mode", "affine"))
    except (ConvertError, ConfigError, TypeError) as error:
        raise RecipeError(f"recipe {name}: {pattern!r}: {error}") from None


def _mixed(name: str, default: Quantization, num_layers: int) -> Recipe:
    """More bits for value and down projections in the first and last eighth and every third layer between, and for the head."""
    low, high = (Quantization(bits, default.group_size, "affine") for bits in MIXED[name])
    if default.mode != "affine":
        raise RecipeError(f"recipe {name} needs q_mode affine, got {default.mode}")
    edge = num_layers // 8
    chosen = [
        layer for layer in range(num_layers) if layer < edge or layer >= num_layers - edge or (layer - edge) % 3 == 2
    ]
    rules = [(f"*layers.{layer}.*.{part}", high) for layer in chosen for part in ("v_proj", "down_proj")]
    return Recipe(name, low, (*rules, ("*lm_head", high), ("*embed_tokens", high)))


def depth(paths: Sequence[str]) -> int:
    """Number of decoder layers, from the paths of a model."""
    numbers = [int(match[1]) for path in paths if (match := re.search(r"language_model.*layers\.(\d+)\.", path))]
    return max(numbers, default=-1) + 1
