"""Calibrated quantization of a model: layer after layer in the order they run, each on what the packed ones before it give."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlx.nn as nn
import numpy as np

from vlm_models import Loaded, Model, Prompt, Quantization, pack_layers, put_module, quantizable

from .calibration import prepared
from .errors import ConvertError
from .gptq import round_matrix
from .plan import Choose
from .verify import log_probabilities, text_positions
from .watching import Fed, call_order, feed, input_moments

METHODS = ("plain", "gptq")
CALIBRATION_SAMPLES = 64


def check_method(method: str, quantize: bool, calibration: str | Path | None, count: int) -> None:
    """Raises ConvertError for options that do not go together."""
    if method not in METHODS:
        raise ConvertError(f"q_method: expected one of {', '.join(METHODS)}, got {method!r}")
    if method != "plain" and not quantize:
        raise ConvertError(f"q_method {method} needs quantize (-q)")
    if method == "plain" and (calibration is not None or count != CALIBRATION_SAMPLES):
        raise ConvertError("calibration needs a calibrated method (--q-method gptq)")
    if count < 4:
        raise ConvertError(f"calibration_samples: expected 4 and more, got {count}")


class Refiner:
    """Packs the layers of a checkpoint by calibration; `result` tells how well, once it has."""

    def __init__(self, loaded: Loaded, source: Path, calibration: str | Path | None, count: int) -> None:
        self.loaded, self.source, self.count = loaded, source, count
        self.path = None if calibration is None else Path(calibration)
        self.result: Refinement | None = None

    def __call__(self, model: nn.Module, choose: Choose) -> dict[str, Quantization]:
        ready = prepared(self.loaded, self.source, self.path, self.count + max(1, self.count // 4))
        held_out = ready[4::5]
        used = [prompt for index, prompt in enumerate(ready) if index % 5 != 4]
        done, self.result = refine(self.loaded.model, choose, used, held_out)
        return done


@dataclass(frozen=True)
class Refinement:
    """Calibrated against plain rounding, at equal bits.

    errors: path -> (plain, calibrated) relative error of a layer's output on the calibration inputs. plain_only: layers rounded
    plainly, by reason. kl: (plain, calibrated) mean divergence from the full model on the held-out prompts, nats per position.
    """

    errors: dict[str, tuple[float, float]]
    plain_only: dict[str, str]
    kl: tuple[float, float]
    num_prompts: int
    num_tokens: int
    num_held_out: int

    def lines(self, most: int = 5) -> list[str]:
        plain, better = (float(np.mean([pair[i] for pair in self.errors.values()])) for i in (0, 1))
        worst = sorted(self.errors.items(), key=lambda item: -item[1][1])[:most]
        reasons = sorted({reason for reason in self.plain_only.values()})
        return [
            f"calibrated on {self.num_prompts} prompts, {self.num_tokens} tokens; {self.num_held_out} held out",
            f"layer output error  plain {plain:.3e}  calibrated {better:.3e}  (mean of {len(self.errors)} layers)",
            f"KL on held-out      plain {self.kl[0]:.3e}  calibrated {self.kl[1]:.3e}  nats per position",
            *(f"output error        {b:.3e} (plain {a:.3e})  {path}" for path, (a, b) in worst),
            *(
                f"rounded plainly     {sum(r == why for r in self.plain_only.values())} layers: {why}"
                for why in reasons
            ),
        ]


def refine(
    model: Model,
    choose: Choose,
    used: Sequence[Prompt],
    held_out: Sequence[Prompt],
    progress: Callable[[int, int], None] | None = None,
) -> tuple[dict[str, Quantization], Refinement]:
    """Quantize in place. Returns what was done by path, and how well.

    Raises ConvertError without prompts, or where no layer can be calibrated."""
    if not used or not held_out:
        raise ConvertError("gptq: expected calibration prompts and some to hold out; give more samples")
    originals = dict(quantizable(model))
    chosen = {path: layer for path, layer in originals.items() if choose(path, layer) is not None}
    fed, judged = feed(model, chosen, used), feed(model, chosen, held_out)
    reference = [log_probabilities(one.run(model)) for one in judged]
    done = pack_layers(model, choose)
    plain_kl = _divergence(model, judged, reference)
    for path in done:
        put_module(model, path, originals[path])
    matrices = {
        path: layer
        for path, layer in originals.items()
        if path in done and done[path].mode == "affine" and layer.weight.ndim == 2
    }
    seen: dict[str, None] = {}
    for one in (*fed[:5], *fed[-2:]):  # text-only prompts do not reach every layer
        seen |= dict.fromkeys(call_order(model, matrices, one))
    if not seen:
        raise ConvertError("gptq: no chosen layer is an affine matrix that the prompts run through; use plain rounding")
    errors: dict[str, tuple[float, float]] = {}
    # a tied table is read before all layers, which make up for its rounding; what it is given as a head comes from the full model
    tables = [path for path in seen if hasattr(matrices[path], "as_linear")]
    groups = [*([path] for path in tables), *grouped([path for path in seen if path not in tables])]
    for index, group in enumerate(groups):
        beyond = groups[index + 1][0] if index + 1 < len(groups) and group[0] not in tables else None
        following = None if beyond is None else (beyond, matrices[beyond])
        moments = input_moments(model, {path: matrices[path] for path in group}, fed, following)
        for path in group:
            given = moments.pop(path)
            if path in tables:
                given += np.eye(len(given)) * np.diag(given).mean()  # its rows are read as they are, too
            made = round_matrix(matrices[path].weight, given, done[path])
            packed: Any = matrices[path].quantized(done[path])
            packed.weight, packed.scales, packed.biases = made.weight, made.scales, made.biases
            put_module(model, path, packed)
            errors[path] = (made.plain_error, made.error)
        if progress is not None:
            progress(index + 1, len(groups))
    left = [path for path in done if path not in errors]
    rest = pack_layers(model, lambda path, _: done[path] if path in left else None)
    reasons = {path: _reason(originals[path], done[path]) for path in rest}
    kl = _divergence(model, judged, reference)
    tokens = sum(len(prompt) for prompt in used)
    return done, Refinement(errors, reasons, (plain_kl, kl), len(used), tokens, len(held_out))


def _reason(layer: nn.Module, how: Quantization) -> str:
    if how.mode != "affine":
        return f"{how.mode} has no calibrated form"
    if hasattr(layer, "as_linear"):
        return "tables of embeddings that are no output head"
    return "stacks of experts" if layer.weight.ndim > 2 else "no calibration prompt reaches them"


def grouped(paths: Sequence[str]) -> list[list[str]]:
    """Layers in call order, those of one block (the path up to its last number) together."""
    groups: list[list[str]] = []
    last: str | None = None
    for path in paths:
        found = re.match(r"(.*\.\d+)\.", path)
        block = found[1] if found else path
        if block != last:
            groups.append([])
        groups[-1].append(path)
        last = block
    return groups


def _divergence(model: Model, judged: Sequence[Fed], reference: Sequence[np.ndarray]) -> float:
    """Mean KL(full || model) in nats per position that text follows."""
    rows = []
    for one, full in zip(judged, reference, strict=True):
        difference = np.exp(full) * (full - log_probabilities(one.run(model)))
        rows.append(difference[text_positions(one.prompt)].sum(axis=-1))
    return float(np.concatenate(rows).mean())
