"""A tiny model on the whole contract, with layers of every kind of memory, and prompts for it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import mlx.core as mx
import numpy as np

from vlm_models import (
    Attention,
    AttentionRules,
    Features,
    Full,
    Inputs,
    MediaItem,
    Model,
    Output,
    Prompt,
    Recurrent,
    Shared,
    Span,
    Window,
)

VOCABULARY = 61
HEADS, KEY_HEADS, SIZE = 4, 2, 32
DIM = 64
IMAGE_TOKEN = 60


def _weight(seed: int, *shape: int, scale: float = 1.0) -> mx.array:
    return mx.array(np.random.default_rng(seed).standard_normal(shape, dtype=np.float32) * scale)


class FakeModel(Model):
    """Layers by name: full, window, recurrent, shared (over the first layer)."""

    def __init__(self, kinds: Sequence[str] = ("full",), window: int = 8, *, fail_on: int | None = None) -> None:
        super().__init__()
        self.kinds, self.window, self.fail_on = tuple(kinds), window, fail_on
        self.table = _weight(1, VOCABULARY, DIM)
        self.head = _weight(2, DIM, VOCABULARY, scale=0.3)
        self.projections = [
            [_weight(10 * i + j, DIM, n * SIZE, scale=DIM**-0.5) for j, n in enumerate((HEADS, KEY_HEADS, KEY_HEADS))]
            for i in range(3, 3 + len(kinds))
        ]
        self.outs = [_weight(100 + i, HEADS * SIZE, DIM, scale=0.4) for i in range(len(kinds))]
        self.encoded = 0
        self.calls: list[tuple[int, int]] = []
        mx.eval(self.parameters())

    def cache_spec(self) -> tuple[Any, ...]:
        made = {
            "full": Full(KEY_HEADS, SIZE, SIZE),
            "window": Window(self.window, KEY_HEADS, SIZE, SIZE),
            "recurrent": Recurrent({"sum": (DIM,)}),
            "shared": Shared(0),
        }
        return tuple(made[kind] for kind in self.kinds)

    def encode(self, items: Sequence[MediaItem]) -> list[Features]:
        self.encoded += len(items)
        for item in items:
            if item.facts.get("broken"):
                raise ValueError("this picture cannot be encoded")
        return [Features(mx.array(item.arrays["pixels"])) for item in items]

    def embed(self, tokens: mx.array, features: Sequence[Features], spans: Sequence[Span]) -> Inputs:
        embeds = self.table[tokens]
        for span in spans:
            embeds[:, span.start : span.stop] = features[span.item].tokens[span.offset : span.offset + span.length]
        return Inputs(embeds)

    def __call__(
        self,
        inputs: Inputs,
        positions: mx.array,
        attention: Attention,
        cache: Sequence[Any],
        *,
        select: Any = None,
        adapters: Sequence[str | None] | None = None,
    ) -> Output:
        x = inputs.embeds
        batch, length, _ = x.shape
        self.calls.append((batch, length))
        x = x + 0.1 * mx.sin(positions[0][..., None] * mx.arange(1, DIM + 1) / 7)
        for kind, (q, k, v), out, layer in zip(self.kinds, self.projections, self.outs, cache, strict=True):
            if kind == "recurrent":
                x = x + self._recur(x, layer)
                continue
            rules = AttentionRules(SIZE**-0.5, window=self.window if kind == "window" else None)

            def split(y: mx.array, heads: int) -> mx.array:
                return y.reshape(batch, length, heads, SIZE).swapaxes(1, 2)

            own = kind != "shared"
            keys = split(x @ k, KEY_HEADS) if own else None
            values = split(x @ v, KEY_HEADS) if own else None
            y = layer.attend(split(x @ q, HEADS), keys, values, attention, rules)
            x = x + y.swapaxes(1, 2).reshape(batch, length, -1) @ out
        hidden = x
        chosen = hidden if select is None else hidden[:, select]
        return Output(chosen @ self.head, hidden)

    def _recur(self, x: mx.array, layer: Any) -> mx.array:
        state = layer.read("sum")
        outs = []
        for at in range(x.shape[1]):
            state = 0.9 * state + 0.1 * mx.tanh(x[:, at])
            outs.append(state)
        layer.write("sum", state)
        return mx.stack(outs, axis=1)


def picture(seed: int, rows: int = 5, *, broken: bool = False, digest: str | None = None) -> MediaItem:
    pixels = np.random.default_rng(1000 + seed).standard_normal((rows, DIM), dtype=np.float32)
    name = f"picture-{seed}-{rows}" if digest is None else digest
    return MediaItem("image", {"pixels": pixels}, rows, facts={"broken": broken}, digest=name)


def prompt(tokens: Sequence[int], pictures: Sequence[tuple[int, MediaItem]] = (), *, blocks: bool = False) -> Prompt:
    """Tokens with pictures put in before the given token indices (ascending)."""
    ids: list[int] = []
    spans: list[Span] = []
    waiting = list(enumerate(pictures))
    for at in range(len(tokens) + 1):
        while waiting and waiting[0][1][0] == at:
            index, (_, item) = waiting.pop(0)
            spans.append(Span(index, len(ids), item.num_tokens))
            ids += [IMAGE_TOKEN] * item.num_tokens
        if at < len(tokens):
            ids.append(tokens[at])
    runs = tuple((span.start, span.stop) for span in spans) if blocks else ()
    array = np.asarray(ids, np.int32)
    items = tuple(item for _, item in pictures)
    return Prompt(array, np.arange(len(ids), dtype=np.int32)[None], items, tuple(spans), 0, runs)


def greedy(model: FakeModel, given: Prompt, count: int) -> list[int]:
    """The model's own answer, by plain caches and one call per token over the whole sequence: no engine involved."""
    from vlm_models import plain_caches

    tokens = given.tokens.tolist()
    answer: list[int] = []
    features = model.encode(given.items) if given.items else []
    for _ in range(count):
        ids = np.asarray(tokens + answer, np.int32)
        full = Prompt(ids, np.arange(len(ids), dtype=np.int32)[None], given.items, given.spans, 0, given.blocks)
        plan = Attention.at(0, len(ids), blocks=full.block_ids(0, len(ids)))
        inputs = model.embed(mx.array(ids)[None], features, full.spans)
        output = model(inputs, mx.array(full.positions[:, None]), plan, plain_caches(model.cache_spec()))
        answer.append(int(mx.argmax(output.logits[0, -1]).item()))
    return answer
