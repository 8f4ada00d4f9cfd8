"""What linear layers are given while prompts run: the second moments of their inputs, a few layers at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from vlm_models import Features, Model, Prompt
from vlm_models.testing.forward import encode, prefill

Listener = Callable[[str, mx.array], None]


class _Enough(Exception):
    """Every layer that is listened to has been called."""


@contextmanager
def listening(layers: Mapping[str, nn.Module], listener: Listener) -> Iterator[None]:
    """Call `listener(path, x)` before each product of the layers; of a table of embeddings, before each as an output head."""
    originals = {path: type(layer) for path, layer in layers.items()}

    def watched(path: str, original: Any) -> type:
        name = "as_linear" if hasattr(original, "as_linear") else "__call__"
        method = getattr(original, name)

        def call(self: Any, x: mx.array, *rest: Any, **options: Any) -> Any:
            listener(path, x)
            return method(self, x, *rest, **options)

        return type(original.__name__, (original,), {name: call})

    # a call looks at the class, and parents may hold the layer in several places: the object stays, its class changes
    for path, layer in layers.items():
        layer.__class__ = watched(path, originals[path])
    try:
        yield
    finally:
        for path, layer in layers.items():
            layer.__class__ = originals[path]


@dataclass(frozen=True)
class Fed:
    """A prompt, and its media's features where no layer that is to change had part in them; None: encode anew each time."""

    prompt: Prompt
    features: Sequence[Features] | None

    def run(self, model: Model) -> np.ndarray:
        """Logits float32 [L, V]."""
        return prefill(model, self.prompt, features=self.features).logits


def feed(model: Model, layers: Mapping[str, nn.Module], prompts: Sequence[Prompt]) -> list[Fed]:
    """Prompts ready to run many times while `layers` change."""
    called: set[str] = set()
    with listening(layers, lambda path, _: called.add(path)):
        features = [encode(model, prompt) for prompt in prompts]
        mx.eval([feature.arrays() for own in features for feature in own])
    return [Fed(prompt, None if called else own) for prompt, own in zip(prompts, features, strict=True)]


def call_order(model: Model, layers: Mapping[str, nn.Module], fed: Fed) -> list[str]:
    """Paths of the layers that a prompt runs through, in order of their first call."""
    seen: dict[str, None] = {}
    with listening(layers, lambda path, _: seen.setdefault(path)):
        fed.run(model)
    return list(seen)


def input_moments(
    model: Model, layers: Mapping[str, nn.Module], fed: Sequence[Fed], beyond: tuple[str, nn.Module] | None = None
) -> dict[str, np.ndarray]:
    """Path -> sum of x x^T over all prompts, float64 [in, in], for layers that were called.

    beyond: a layer that runs after all of these; a prompt is given up when it is reached."""
    sums: dict[str, mx.array] = {}

    def note(path: str, x: mx.array) -> None:
        if path not in layers:
            raise _Enough
        rows = x.reshape(-1, x.shape[-1]).astype(mx.float32)
        total = rows.T @ rows
        sums[path] = sums[path] + total if path in sums else total

    watched = dict(layers) if beyond is None else {**layers, beyond[0]: beyond[1]}
    for one in fed:
        with listening(watched, note), suppress(_Enough):
            one.run(model)
        mx.eval(list(sums.values()))
    return {path: np.array(total).astype(np.float64) for path, total in sums.items()}
