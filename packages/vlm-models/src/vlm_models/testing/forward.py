"""Run a model over whole prompts with plain caches: the simplest correct runner, for parity and conformance."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
import numpy as np

from ..core.attention import Attention
from ..core.cache import plain_caches
from ..core.inputs import Features, Prompt
from ..core.model import Model


@dataclass
class Run:
    """One row: its caches and where it stands. logits: float32 [L, V] of the prompt."""

    caches: list[Any]
    logits: np.ndarray
    hidden: mx.array
    length: int
    delta: int


def encode(model: Model, prompt: Prompt) -> list[Features]:
    """Features of a prompt's own items, in order; encoder-decoder families read media through the context."""
    items = prompt.items if prompt.context is None else prompt.context.items
    return model.encode(items) if items else []


def prefill(
    model: Model, prompt: Prompt, *, chunk: int | None = None, features: Sequence[Features] | None = None
) -> Run:
    """Run a prompt in chunks of about `chunk` tokens, cut where it is legal; None: in one piece."""
    features = encode(model, prompt) if features is None else features
    caches = plain_caches(model.cache_spec(), dtype=model.dtype)
    if prompt.context is not None:
        model.encode_context(prompt.context, features, caches)
    parts, start, hidden = [], 0, None
    while start < len(prompt):
        stop = len(prompt) if chunk is None else prompt.legal_cut(start + chunk)
        inputs = model.embed(mx.array(prompt.tokens[None, start:stop]), features, prompt.spans_in(start, stop))
        plan = Attention.at(start, stop - start, blocks=prompt.block_ids(start, stop))
        positions = mx.array(prompt.positions[:, None, start:stop])
        adapters = None if prompt.adapter is None else (prompt.adapter,)
        output = model(inputs, positions, plan, caches, adapters=adapters)
        mx.eval(output.logits)
        parts.append(np.array(output.logits[0].astype(mx.float32)))
        start, hidden = stop, output.hidden
    assert hidden is not None
    return Run(caches, np.concatenate(parts), hidden[:, -1:], len(prompt), prompt.position_delta)


def step(model: Model, run: Run, token: int, num_axes: int, adapter: str | None = None) -> np.ndarray:
    """Feed one token; float32 logits [V] of what follows."""
    inputs = model.feedback(run.hidden, mx.array([[token]], mx.int32))
    positions = mx.full((num_axes, 1, 1), run.length + run.delta, mx.int32)
    adapters = None if adapter is None else (adapter,)
    output = model(inputs, positions, Attention.at(run.length, 1), run.caches, adapters=adapters)
    run.length += 1
    run.hidden = output.hidden
    return np.array(output.logits[0, -1].astype(mx.float32))


def greedy(
    model: Model,
    prompt: Prompt,
    num_tokens: int,
    *,
    suppressed: Sequence[int] = (),
    run: Run | None = None,
    watch: Callable[[np.ndarray], None] | None = None,
) -> np.ndarray:
    """int64 [num_tokens]: the likeliest continuation, `suppressed` ids left out. watch: called with each step's logits."""
    run = prefill(model, prompt) if run is None else run
    adapter = prompt.adapter
    logits, tokens = run.logits[-1].copy(), []
    for _ in range(num_tokens):
        logits[list(suppressed)] = -np.inf
        if watch is not None:
            watch(logits)
        tokens.append(int(logits.argmax()))
        if len(tokens) < num_tokens:
            length = len(prompt) + len(tokens)
            if prompt.adapter_at(length) != adapter:
                adapter = prompt.adapter_at(length)
                run = prefill(model, prompt.extended(tokens))
                logits = run.logits[-1].copy()
            else:
                logits = step(model, run, tokens[-1], prompt.positions.shape[0], adapter).copy()
    return np.array(tokens, np.int64)
