"""Compare two checkpoints by what they predict: divergence of the distributions, agreement of the best token, worst layers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np

from vlm_models import Loaded, MediaOptions, Prompt, load, module_at, packed_layers
from vlm_models.testing.forward import prefill
from vlm_runtime import resolve_checkpoint

from .calibration import prepared
from .errors import ConvertError


@dataclass(frozen=True)
class Comparison:
    """Second checkpoint against the first.

    kl: mean divergence in nats per position, of the first's distribution from the second's; positions that a picture follows
    are left out. top1: share of positions with
    the same best token. worst: path -> relative error of a layer's weight, largest first.
    """

    kl: float
    kl_max: float
    top1: float
    num_positions: int
    worst: tuple[tuple[str, float], ...]

    def lines(self) -> list[str]:
        return [
            f"positions        {self.num_positions}",
            f"KL divergence    {self.kl:.3e} nats (largest {self.kl_max:.3e})",
            f"same best token  {100 * self.top1:.2f} %",
            *(f"weight error     {error:.3e}  {path}" for path, error in self.worst),
        ]


def verify(
    a: str | Path,
    b: str | Path,
    *,
    prompts: Sequence[Prompt] | None = None,
    data: str | Path | None = None,
    num_prompts: int = 4,
    seed: int = 0,
) -> Comparison:
    """Compare checkpoint b with a (the original).

    Args:
        prompts: what to compare on; None: see data.
        data: a folder or .jsonl as for calibration; None: random text with a random picture.
        num_prompts: most of data, or how many random ones.

    Raises:
        ConvertError: not the same architecture, unreadable data; and what loading raises.
    """
    folder = resolve_checkpoint(str(a))
    first = load(folder)
    second = load(resolve_checkpoint(str(b)))
    if first.family.name != second.family.name or first.hf.get("vocab_size") != second.hf.get("vocab_size"):
        raise ConvertError(f"cannot compare a {first.family.name} with a {second.family.name} of another vocabulary")
    if prompts is None and data is not None:
        prompts = prepared(first, folder, Path(data), num_prompts)
    prompts = generated_prompts(first, num_prompts, seed) if prompts is None else prompts
    divergences, agreements = [], []
    for prompt in prompts:
        rows = text_positions(prompt)
        ours, theirs = (log_probabilities(prefill(loaded.model, prompt).logits[rows]) for loaded in (first, second))
        divergences.append(np.sum(np.exp(ours) * (ours - theirs), axis=-1))
        agreements.append(ours.argmax(-1) == theirs.argmax(-1))
    kl, same = np.concatenate(divergences), np.concatenate(agreements)
    return Comparison(float(kl.mean()), float(kl.max()), float(same.mean()), len(kl), weight_errors(first, second))


def text_positions(prompt: Prompt) -> np.ndarray:
    """Bool [L]: positions whose next token is not a picture's."""
    result = np.ones(len(prompt), bool)
    for span in prompt.spans:
        result[max(span.start - 1, 0) : span.stop - 1] = False
    return result


def generated_prompts(loaded: Loaded, count: int, seed: int) -> list[Prompt]:
    """Random text tokens behind a random picture, for families that take one and whose positions need no tokenizer."""
    generator = np.random.default_rng(seed)
    processing = loaded.processing()
    special = set(processing.token_ids.values())
    ordinary = np.array([t for t in range(_vocabulary(loaded)) if t not in special], np.int32)
    prompts = []
    for _ in range(count):
        text = generator.choice(ordinary, 48)
        if "image" not in loaded.family.modalities:
            prompts.append(processing.prompt(text, []))
            continue
        pixels = generator.integers(0, 256, (84, 112, 3), dtype=np.uint8)
        item = processing.image(pixels, MediaOptions())
        run = np.full(item.num_tokens, processing.token_ids["image"], np.int32)
        prompts.append(processing.prompt(np.concatenate([text[:4], run, text[4:]]), [item]))
    return prompts


def _vocabulary(loaded: Loaded) -> int:
    text: Any = loaded.hf.get("text_config") or loaded.hf
    return int(text.get("vocab_size") or loaded.hf["vocab_size"])


def log_probabilities(logits: np.ndarray) -> np.ndarray:
    """float64, over the last axis."""
    values = mx.array(logits)
    return np.array(values - mx.logsumexp(values, axis=-1, keepdims=True), np.float64)


def weight_errors(first: Loaded, second: Loaded, most: int = 5) -> tuple[tuple[str, float], ...]:
    """Relative error of each packed layer's weight, the largest first."""
    errors: list[tuple[str, float]] = []
    for path in packed_layers(second.model):
        ours, theirs = _weight(first, path), _weight(second, path)
        error = mx.linalg.norm((ours - theirs).reshape(-1)) / mx.linalg.norm(ours.reshape(-1))
        errors.append((path, float(error)))
    return tuple(sorted(errors, key=lambda pair: -pair[1])[:most])


def _weight(loaded: Loaded, path: str) -> mx.array:
    module = module_at(loaded.model, path)
    if path in packed_layers(loaded.model):
        return module.unpacked(mx.float32)
    return module.weight.astype(mx.float32)
