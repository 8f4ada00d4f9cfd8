"""Find out which elements of which tensors a stored layout is made of, by storing numbered elements and reading them back.

Every parameter is filled with consecutive integers (exact in float32 below 2^24); save_pretrained then writes whatever it
writes, and each stored tensor tells where its elements came from: the whole of a tensor, a strided view, or joined views.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.numpy import load_file
from transformers import PreTrainedModel

Rename = Callable[[dict[str, np.ndarray]], dict[str, np.ndarray]]


def float_tensors(model: PreTrainedModel) -> dict[str, torch.Tensor]:
    """Floating-point entries of the state dict, tied ones once, in its order."""
    seen, found = set(), {}
    for name, tensor in model.state_dict().items():
        if tensor.is_floating_point() and tensor.data_ptr() not in seen:
            found[name] = tensor
            if tensor.numel():
                seen.add(tensor.data_ptr())
    return found


def derive(
    model: PreTrainedModel,
    to_hub: Rename | None,
    more: Mapping[str, Rename],
    extra_tensors: Mapping[str, tuple[int, ...]],
) -> tuple[dict[str, Any], dict[str, Any], dict[str, dict[str, Any]]]:
    """Recipes of the layouts `transformers` and `hub`, and of further ones. Overwrites the model's weights.

    Raises:
        ValueError: a stored tensor is not made of the model's elements, or the model is too large to number.
    """
    starts, start = {}, 1
    shapes = {}
    for name, tensor in float_tensors(model).items():
        count = tensor.numel()
        tensor.copy_(torch.arange(start, start + count, dtype=torch.float64).reshape(tensor.shape).to(tensor.dtype))
        starts[name], shapes[name] = start, tuple(tensor.shape)
        start += count
    if start >= 2**24:
        raise ValueError(f"{start} parameters are too many to number in float32; use a smaller configuration")
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        stored: dict[str, np.ndarray] = {}
        for path in sorted(Path(folder).glob("*.safetensors")):
            stored |= load_file(path)
    integers = {name: array for name, array in stored.items() if array.dtype.kind != "f"}
    numbered = {name: array.astype(np.int64) for name, array in stored.items() if array.dtype.kind == "f"}
    saved = {name: recipe(array, starts, shapes) for name, array in numbered.items()}
    for name, shape in extra_tensors.items():
        count = int(np.prod(shape))
        numbered[name] = np.arange(start, start + count).reshape(shape)
        starts[name], shapes[name] = start, tuple(shape)
        start += count
    hub_arrays = to_hub(dict(numbered)) if to_hub else numbered
    hub = {name: recipe(array, starts, shapes) for name, array in hub_arrays.items()}
    whole = {name: name for name in integers}
    further = {
        layout: {name: recipe(array, starts, shapes) for name, array in rename(dict(numbered)).items()}
        for layout, rename in more.items()
    }
    return saved | whole, hub | whole, further


def recipe(array: np.ndarray, starts: Mapping[str, int], shapes: Mapping[str, tuple[int, ...]]) -> Any:
    """How `array` of element numbers is made; see `assemble` of the golden reader."""
    names = list(starts)
    bounds = np.array([starts[name] for name in names])
    owner = np.searchsorted(bounds, array, side="right") - 1
    if array.min() < 1:
        raise ValueError("a stored tensor has elements that are none of the model's")
    if (owner == owner.flat[0]).all():
        name = names[int(owner.flat[0])]
        first = int(array.flat[0])
        strides = []
        for axis in range(array.ndim):
            index = [0] * array.ndim
            index[axis] = min(1, array.shape[axis] - 1)
            strides.append(int(array[tuple(index)]) - first)
        grid = np.indices(array.shape).reshape(array.ndim, -1) if array.ndim else np.zeros((0, 1), np.int64)
        if (first + np.array(strides, np.int64) @ grid == array.reshape(-1)).all():
            offset = first - starts[name]
            view = {"of": name, "offset": offset, "strides": strides, "shape": list(array.shape)}
            is_whole = array.shape == shapes[name] and (np.diff(array.reshape(-1)) == 1).all()
            return name if is_whole else view
    for axis in range(array.ndim):
        lead = np.moveaxis(owner, axis, 0).reshape(array.shape[axis], -1)
        cuts = np.flatnonzero((lead[1:] != lead[:-1]).any(axis=1)) + 1
        if len(cuts):
            return {"axis": axis, "pieces": [recipe(part, starts, shapes) for part in np.split(array, cuts, axis)]}
    if array.shape[0] == 1:
        raise ValueError("a stored tensor is no strided view of the model's")
    return {"axis": 0, "pieces": [recipe(part, starts, shapes) for part in np.split(array, array.shape[0], 0)]}
