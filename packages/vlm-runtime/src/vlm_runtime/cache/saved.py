"""One row's caches in a file: safetensors with what the arrays mean beside them. Knows layouts only by their arrays.

A file is read back only into caches of the same layers, the same form and the same version of both; anything else is named.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, cast

import mlx.core as mx
import numpy as np

from vlm_kernels import turboquant
from vlm_models import CacheSpec

from ..errors import CacheFormatError
from .build import CacheOptions, build_caches
from .rows import CacheSet

# Raise it when a layout or codec stores its arrays in another way.
VERSION = 1


def save_caches(
    path: Path | str,
    caches: CacheSet,
    keys: np.ndarray,
    *,
    specs: Sequence[CacheSpec],
    options: CacheOptions,
    dtype: mx.Dtype,
    model_key: str,
) -> None:
    """Write the caches of one row.

    Args:
        path: ends in .safetensors.
        keys: int64 [length], what each token is (`prefix_keys`).
        specs: of the model's layers. options, dtype: what the caches were built with.
        model_key: names the model whose keys and values these are.
    """
    if Path(path).suffix != ".safetensors":
        raise CacheFormatError(f"{path}: expected a name that ends in .safetensors")
    single = caches.extract(0, len(keys))
    arrays = {f"cache.{index:05d}": array for index, array in enumerate(single.arrays())}
    arrays["keys"] = mx.array(keys.astype(np.int64))
    form = {**_form(specs, options, dtype, model_key), "length": len(keys), "extents": _extents(single)}
    mx.save_safetensors(str(path), arrays, {"vlm_cache": json.dumps(form)})


def load_caches(
    path: Path | str, *, specs: Sequence[CacheSpec], options: CacheOptions, dtype: mx.Dtype, model_key: str
) -> tuple[CacheSet, np.ndarray]:
    """Caches of one row and its keys, as `save_caches` wrote them.

    Raises:
        CacheFormatError: no such file, not such a file, of another version, or of another model, form or dtype.
    """
    try:
        arrays, notes = cast(tuple[dict[str, mx.array], dict[str, str]], mx.load(str(path), return_metadata=True))
        found: dict[str, Any] = json.loads(notes["vlm_cache"])
    except (OSError, RuntimeError, ValueError, KeyError, TypeError) as error:
        raise CacheFormatError(f"{path}: expected a cache saved by save_caches ({error})") from None
    want = _form(specs, options, dtype, model_key)
    for name in ("version", "packing"):
        if found.get(name) != want[name]:
            raise CacheFormatError(
                f"{path}: was saved with {name} {found.get(name)}, this version reads {want[name]}; build the cache again"
            )
    for name in ("model", "dtype", "layers", "options"):
        if found.get(name) != want[name]:
            raise CacheFormatError(
                f"{path}: was saved for {name} {found.get(name)}, asked for {want[name]}; load it with what it was saved with"
            )
    caches = build_caches(specs, options, dtype=dtype)
    stored = [arrays[name] for name in sorted(arrays) if name.startswith("cache.")]
    for leaf, (count, fields) in zip(caches.leaves, found["extents"], strict=True):
        for field, value in fields.items():
            setattr(leaf, field, value)
        leaf.load(stored[:count])
        del stored[:count]
    return caches, np.array(arrays["keys"])


def _form(specs: Sequence[CacheSpec], options: CacheOptions, dtype: mx.Dtype, model_key: str) -> dict[str, Any]:
    return {
        "version": VERSION,
        "packing": [turboquant.FORMAT_VERSION, turboquant.DEFAULT_SEED],
        "model": model_key,
        "dtype": str(dtype),
        "layers": [repr(spec) for spec in specs],
        "options": json.loads(json.dumps(asdict(options))),
    }


def _extents(caches: CacheSet) -> list[tuple[int, dict[str, int]]]:
    """By leaf: how many arrays it has, and how far they reach."""
    return [
        (len(leaf.arrays()), {"capacity": leaf.capacity} if hasattr(leaf, "capacity") else {}) for leaf in caches.leaves
    ]
