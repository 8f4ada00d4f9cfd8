"""Calibration prompts: generated, or from the user's folder or JSON lines, in the checkpoint's own template and tokens.

A folder holds pictures (asked to be described) and .txt files. A .jsonl file holds one object a line: `prompt`, and if wanted
`image` (a path or several, relative to the file) and `answer`.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, UnidentifiedImageError

import vlm_runtime
from vlm_models import Loaded, MediaOptions, Model, Prompt
from vlm_models.testing.forward import greedy
from vlm_runtime import Processor

from .drawing import Sample, generated
from .errors import ConvertError

PICTURES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif")
_KEYS = {"prompt", "image", "images", "answer"}
_ANSWER_TOKENS = 24  # of the model's own, where a sample brings none
_TEXT_CHARACTERS = 4000  # of a .txt file


def samples(path: Path | None, count: int, most_pictures: int) -> list[Sample]:
    """At most `count` samples of a path, spread over it, or as many generated ones. most_pictures: that a prompt may hold.

    Raises ConvertError for what cannot be read, or pictures that the model does not take."""
    if path is None:
        return generated(count, most_pictures=most_pictures)
    if path.is_dir():
        found = [_file(file) for file in sorted(path.rglob("*")) if file.suffix.lower() in (*PICTURES, ".txt")]
    elif path.suffix == ".jsonl" and path.is_file():
        lines = path.read_text(encoding="utf-8").splitlines()
        found = [_row(path, number, line) for number, line in enumerate(lines, start=1) if line.strip()]
    else:
        raise ConvertError(f"calibration: expected a folder or a .jsonl file, got {path}")
    if not found:
        raise ConvertError(f"calibration: {path} holds no pictures, no .txt files and no rows")
    for sample in found:
        if len(sample.images) > most_pictures:
            raise ConvertError(
                f"calibration: {sample.source} has more pictures than the {most_pictures} that this model takes"
            )
    stride = max(1, len(found) // count)
    return found[::stride][:count]


def prepared(loaded: Loaded, folder: Path, path: Path | None, count: int) -> list[Prompt]:
    """Prompts of a checkpoint in `folder`: see `samples`. Raises ConvertError, and what loading its tokenizer raises."""
    _, processor = vlm_runtime.load(folder, lazy=True)
    family = loaded.family
    most = 0 if "image" not in family.modalities else 2 if path is None else 1_000_000
    most = most if family.max_images is None else min(most, family.max_images)
    return [_prompt(sample, processor, loaded.model) for sample in samples(path, count, most)]


def _file(path: Path) -> Sample:
    if path.suffix.lower() == ".txt":
        text = path.read_text(encoding="utf-8", errors="strict")[:_TEXT_CHARACTERS]
        return Sample(text, source=path.name)
    return Sample("Describe the image.", (_picture(path),), source=path.name)


def _row(path: Path, number: int, line: str) -> Sample:
    where = f"{path.name}, line {number}"
    try:
        row: Any = json.loads(line)
    except ValueError as error:
        raise ConvertError(f"calibration: {where}: not valid JSON ({error})") from None
    if not isinstance(row, dict) or not isinstance(row.get("prompt"), str) or set(row) - _KEYS:
        raise ConvertError(f"calibration: {where}: expected an object of prompt, image and answer, got {line[:60]!r}")
    given = row.get("image", row.get("images")) or []
    names = [given] if isinstance(given, str) else list(given)
    pictures = tuple(_picture(path.parent / str(name)) for name in names)
    return Sample(row["prompt"], pictures, row.get("answer"), where)


def _picture(path: Path) -> np.ndarray:
    try:
        with Image.open(path) as picture:
            return np.asarray(picture.convert("RGB"))
    except (OSError, UnidentifiedImageError, Image.DecompressionBombError) as error:
        raise ConvertError(f"calibration: {path.name}: cannot be read as a picture ({error})") from None


def _prompt(sample: Sample, processor: Processor, model: Model) -> Prompt:
    """A sample as the model reads it: the prompt in one user turn, and the answer after it."""
    processing = processor.processing
    rendered = processor.apply_chat_template(sample.prompt, num_images=len(sample.images))
    segments = list(rendered.segments)
    items = processing.in_order(segments, [processing.image(image, MediaOptions()) for image in sample.images])
    tokens = np.array(processor.tokenizer.encode_segments(processing.expand(segments, items)), np.int32)
    prompt = processing.prompt(tokens, items)
    if prompt.context is not None:
        return prompt  # an encoder reads it; its decoder starts anew
    if sample.answer is not None:
        answer = np.array(processor.tokenizer.encode(sample.answer, add_special_tokens=False), np.int32)
    else:
        answer = _without_end(greedy(model, prompt, _ANSWER_TOKENS), processor.stop_tokens)
    return processing.prompt(np.concatenate([tokens, answer.astype(np.int32)]), items)


def _without_end(tokens: np.ndarray, ends: frozenset[int]) -> np.ndarray:
    """Up to the first token that ends an answer."""
    found = np.flatnonzero(np.isin(tokens, list(ends)))
    return tokens[: found[0]] if len(found) else tokens
