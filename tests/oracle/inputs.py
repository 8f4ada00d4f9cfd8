"""Cases through a family's reference processor: hashed pictures, clips and sounds in, the forward's arguments out."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from maker import CaseSpec
from PIL import Image
from shared import hashed

Extras = Callable[[Any, dict[str, Any]], dict[str, Any]]


def build(
    processor: Any,
    name: str,
    text: list[str],
    *,
    pictures: Sequence[Any] = (),
    videos: Sequence[tuple[int, int, int]] = (),
    sounds: Sequence[int] = (),
    side: str = "left",
    notes: str = "",
    extras: Extras | None = None,
    greedy: int = 6,
    audio_argument: str = "audio",
    arguments: dict[str, Any] | None = None,
    not_for_forward: tuple[str, ...] = (),
    drop: tuple[str, ...] = (),
) -> CaseSpec:
    """Run `processor` on `text` with media.

    Args:
        pictures: (height, width) each, or (height, width, n) to repeat every pixel n x n times; nested in one list a row
            where a processor wants them so.
        videos: (frames, height, width) each.
        sounds: samples each.
        drop: outputs of the processor that are no input of the model.
        side: where rows are padded; rows padded on the right get no greedy tokens.
    """
    processor.tokenizer.padding_side = side
    raw: dict[str, np.ndarray] = {}
    given: dict[str, Any] = dict(arguments or {})

    def picture(size: tuple[int, ...]) -> Image.Image:
        index = sum(key.startswith("image") for key in raw)
        small = hashed.image(f"{name}.{index}", *size[:2])
        raw[f"image{index}"] = small.repeat(size[2], axis=0).repeat(size[2], axis=1) if len(size) == 3 else small
        return Image.fromarray(raw[f"image{index}"])

    if pictures:
        nested = not isinstance(pictures[0][0], int) if len(pictures[0]) else True
        given["images"] = [[picture(s) for s in row] for row in pictures] if nested else [picture(s) for s in pictures]
    if videos:
        for index, (frames, height, width) in enumerate(videos):
            clip = [hashed.image(f"{name}.video{index}.{frame}", height, width) for frame in range(frames)]
            raw[f"video{index}"] = np.stack(clip)
        given["videos"] = [
            torch.from_numpy(raw[f"video{i}"]).permute(0, 3, 1, 2).contiguous() for i in range(len(videos))
        ]
    if sounds:
        for index, samples in enumerate(sounds):
            raw[f"sound{index}"] = hashed.sound(f"{name}.sound{index}", samples)
        given[audio_argument] = [raw[f"sound{i}"] for i in range(len(sounds))]
    padding = {"padding": True} if len(text) > 1 else {}
    inputs = {key: value for key, value in processor(text=text, return_tensors="pt", **padding, **given).items()}
    inputs = {
        key: torch.as_tensor(np.asarray(v)) if not isinstance(v, torch.Tensor) else v for key, v in inputs.items()
    }
    inputs = {key: value for key, value in inputs.items() if key not in drop}
    return CaseSpec(name, inputs, notes, raw, text, greedy if side == "left" else 0, extras, not_for_forward)


def features(model: Any, inputs: dict[str, Any]) -> dict[str, Any]:
    """Projected features of all pictures, clips and sounds, flattened to [tokens, width] in order."""
    found = {}
    for kind, key in (("image", "pixel_values"), ("video", "pixel_values_videos"), ("audio", "input_features")):
        method = getattr(model, f"get_{kind}_features", None) or getattr(model.model, f"get_{kind}_features", None)
        if key not in inputs or method is None:
            continue
        names = inspect.signature(method).parameters
        taken = {name: value for name, value in inputs.items() if name in names and name not in ("input_ids",)}
        result = method(**taken)
        if hasattr(result, "pooler_output"):
            result = result.pooler_output if result.pooler_output is not None else result.last_hidden_state
        parts = list(result) if not isinstance(result, torch.Tensor) else [result]
        found[f"{kind}_features"] = torch.cat([part.reshape(-1, part.shape[-1]) for part in parts])
    return found


def pick(cases: list[CaseSpec], *names: str) -> list[CaseSpec]:
    """The named cases, for configurations that need only a few."""
    return [case for case in cases if case.name in names]
