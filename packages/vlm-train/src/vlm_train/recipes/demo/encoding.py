"""Samples as token ids, weights, positions and patches."""

from __future__ import annotations

import random
import re
from dataclasses import dataclass
from functools import cache, lru_cache

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from vlm_train.recipes.demo import layout, preprocessing, shapes, vocabulary
from vlm_train.recipes.demo.charts import Chart
from vlm_train.recipes.demo.colors import COLORS
from vlm_train.recipes.demo.lines import CHARACTERS, Page
from vlm_train.recipes.demo.questions import Exchange
from vlm_train.recipes.demo.receipts import Receipt
from vlm_train.recipes.demo.samples import Picture, Sample
from vlm_train.recipes.demo.scenes import Scene
from vlm_train.recipes.demo.shapes import SHAPES

IMAGE_ID = layout.token_id(vocabulary.IMAGE)
TURN_END_ID = layout.token_id(vocabulary.TURN_END)
VISION_START_ID = layout.token_id(vocabulary.VISION_START)
VISION_END_ID = layout.token_id(vocabulary.VISION_END)
PAD_ID = layout.token_id(vocabulary.END_OF_TEXT)
SYSTEMS = (
    "You are a helpful assistant.",
    "You are a helpful assistant.",
    "You are a helpful assistant.",
    "You are helpful.",
    "Be brief.",
    "Answer briefly.",
    "Answer in one word.",
    "You answer questions about images.",
    "You are an expert at reading images. Answer the question of the user.",
    "You are a careful assistant that looks at pictures and answers in short sentences.",
)
THOUGHT_WEIGHT = 0.5
_NAMES = re.compile(r'(?<="name": ")([^"]+)(?=")')
CUT_THOUGHT = 0.12  # share of thoughts cut short, as a thinking budget does

# What a patch shows: nothing, one of the coloured shapes, or a character. Two values a patch (left and right half).
NUM_PATCH_CLASSES = 1 + len(COLORS) * len(SHAPES) + len(CHARACTERS)
_CHARACTER_CLASS = {character: 1 + len(COLORS) * len(SHAPES) + index for index, character in enumerate(CHARACTERS)}


@dataclass(frozen=True)
class Encoded:
    """A sample ready for batching.

    tokens: `[length]`. weights: `[length]`, of predicting this token, 0 where it is given. positions: `[3, length]`.
    patches: per image `[num_patches, 588]` uint8. grids: per image rows and columns in patches.
    patch_classes: per image `[num_patches, 4]`: what covers the left and the right half of the patch, and what has its
    centre there; only training looks at them.
    """

    tokens: NDArray[np.int32]
    weights: NDArray[np.float32]
    positions: NDArray[np.int32]
    patches: tuple[NDArray[np.uint8], ...]
    grids: tuple[tuple[int, int], ...]
    patch_classes: tuple[NDArray[np.int16], ...]


@cache
def tokenizer() -> Tokenizer:
    """The demo tokenizer."""
    return Tokenizer.from_str(layout.files()["tokenizer.json"])


@lru_cache(maxsize=50000)
def text_ids(text: str) -> tuple[int, ...]:
    """Token ids of trusted text, special tokens recognised."""
    return tuple(tokenizer().encode(text, add_special_tokens=False).ids)


@lru_cache(maxsize=50000)
def spelled_ids(text: str) -> tuple[int, ...]:
    """Token ids of text, one a byte; the vocabulary begins with the bytes, in order."""
    return tuple(text.encode())


def answer_ids(exchange: Exchange) -> tuple[int, ...]:
    """Token ids the model should answer with, without the turn's end; what is read from a picture is spelled."""
    if exchange.task == "receipt":
        pieces = _NAMES.split(exchange.answer)  # text, name, text, name, ..., text
        return tuple(
            token
            for index, piece in enumerate(pieces)
            for token in (spelled_ids(piece) if index % 2 else text_ids(piece))
        )
    return spelled_ids(exchange.answer) if exchange.is_verbatim else text_ids(exchange.answer)


def encode(sample: Sample, rng: random.Random) -> Encoded:
    """Tokens, weights, positions and patches of a sample; the thought, if any, comes in the last turn only."""
    pixels = [preprocessing.resize(image) for image in sample.images]
    grids = tuple((p.shape[0] // layout.PATCH_SIZE, p.shape[1] // layout.PATCH_SIZE) for p in pixels)
    tokens, weights = _conversation(sample, grids, rng)
    classes = tuple(
        patch_classes(picture, image.size, array.shape[:2])
        for picture, image, array in zip(sample.pictures, sample.images, pixels, strict=True)
    )
    ids = np.asarray(tokens, np.int32)
    return Encoded(
        ids,
        np.asarray(weights, np.float32),
        mrope_positions(ids, grids),
        tuple(preprocessing.patches(p) for p in pixels),
        grids,
        classes,
    )


def prompt_ids(sample: Sample, grids: tuple[tuple[int, int], ...], turn: int = 0) -> list[int]:
    """The prompt that the chat template gives for the sample's `turn`-th question, earlier answers being right."""
    tokens: list[int] = []
    for index, exchange in enumerate(sample.exchanges[: turn + 1]):
        tokens += _question(exchange, grids if index == sample.media_turn else ())
        if index < turn:
            tokens += [*text_ids(exchange.answer), TURN_END_ID, *text_ids("\n")]
    return [*tokens, *text_ids("<think>\n")] if sample.thinking else tokens


def _question(exchange: Exchange, grids: tuple[tuple[int, int], ...]) -> list[int]:
    tokens = list(text_ids("<|im_start|>user\n"))
    for rows, columns in grids:
        num_tokens = rows * columns // layout.MERGE_SIZE**2
        tokens += [VISION_START_ID, *[IMAGE_ID] * num_tokens, VISION_END_ID]
    return [*tokens, *text_ids(exchange.question), *text_ids("<|im_end|>\n<|im_start|>assistant\n")]


def _conversation(
    sample: Sample, grids: tuple[tuple[int, int], ...], rng: random.Random
) -> tuple[list[int], list[float]]:
    tokens: list[int] = []
    weights: list[float] = []

    def add(ids: tuple[int, ...] | list[int], weight: float) -> None:
        tokens.extend(ids)
        weights.extend([weight] * len(ids))

    if sample.is_bare:
        (exchange,) = sample.exchanges
        add(text_ids(exchange.question), 0.0)
        add((*answer_ids(exchange), TURN_END_ID), 1.0)
        return tokens, weights
    if rng.random() < 0.1:
        add(text_ids(f"<|im_start|>system\n{rng.choice(SYSTEMS)}<|im_end|>\n"), 0.0)
    last = len(sample.exchanges) - 1
    for index, exchange in enumerate(sample.exchanges):
        add(_question(exchange, grids if index == sample.media_turn else ()), 0.0)
        if sample.thinking and index == last:
            add(text_ids("<think>\n"), 0.0)
            thought = text_ids(exchange.thought)
            if rng.random() < CUT_THOUGHT:
                add(thought[: rng.randint(0, len(thought))], THOUGHT_WEIGHT)
                add(text_ids("\n</think>"), 0.0)
            else:
                add(thought, THOUGHT_WEIGHT)
                add(text_ids("</think>"), THOUGHT_WEIGHT)
            add(text_ids("\n\n"), THOUGHT_WEIGHT)
        add(answer_ids(exchange), 1.0)
        add((TURN_END_ID,), 1.0)
        if index < last:
            add(text_ids("\n"), 0.0)
    return tokens, weights


def mrope_positions(tokens: NDArray[np.int32], grids: tuple[tuple[int, int], ...]) -> NDArray[np.int32]:
    """Qwen2-VL's positions on three axes, `[3, length]`: text counts on; an image spans rows and columns from where it starts."""
    positions = np.empty((3, len(tokens)), np.int32)
    is_image = tokens == IMAGE_ID
    index, following = 0, 0
    for rows, columns in (*grids, (0, 0)):
        rest = is_image[index:]
        start = index + (int(rest.argmax()) if rest.any() else len(rest))
        positions[:, index:start] = following + np.arange(start - index)
        following += start - index
        if rows == 0:
            break
        rows, columns = rows // layout.MERGE_SIZE, columns // layout.MERGE_SIZE
        index = start + rows * columns
        positions[0, start:index] = following
        positions[1, start:index] = following + np.repeat(np.arange(rows), columns)
        positions[2, start:index] = following + np.tile(np.arange(columns), rows)
        following += max(rows, columns)
    return positions


def patch_classes(picture: Picture, size: tuple[int, int], resized: tuple[int, ...]) -> NDArray[np.int16]:
    """What each half patch of the resized picture shows: `[num_patches, 4]`, see `Encoded`.

    Args:
        size: width and height as drawn.
        resized: height and width as the model sees it.
    """
    rows, columns = resized[0] // layout.PATCH_SIZE, resized[1] // layout.PATCH_SIZE
    across, down = resized[1] / size[0], resized[0] / size[1]
    cover = np.zeros((rows, 2 * columns), np.int16)
    centre = np.zeros((rows, 2 * columns), np.int16)
    x = (np.arange(2 * columns) + 0.5) * (layout.PATCH_SIZE / 2) / across  # centres of the half patches, as drawn
    y = (np.arange(rows) + 0.5) * layout.PATCH_SIZE / down
    if isinstance(picture, Scene):
        _mark_things(picture, x, y, cover, centre)
    else:
        _mark_glyphs(picture, x, y, cover, centre)
    both = np.stack([cover.reshape(rows, columns, 2), centre.reshape(rows, columns, 2)], axis=2)
    blocks = both.reshape(rows // 2, 2, columns // 2, 2, 4)
    return blocks.transpose(0, 2, 1, 3, 4).reshape(-1, 4)


def _mark_things(
    scene: Scene, x: NDArray[np.floating], y: NDArray[np.floating], cover: NDArray[np.int16], centre: NDArray[np.int16]
) -> None:
    for thing in scene.things:
        label = 1 + COLORS.index(thing.color) * len(SHAPES) + SHAPES.index(thing.shape)
        mask = np.asarray(shapes.mask(thing.form))
        left, right = np.searchsorted(x, (thing.left, thing.left + thing.form.size))
        top, bottom = np.searchsorted(y, (thing.top, thing.top + thing.form.size))
        inside = mask[
            (y[top:bottom] - thing.top).astype(int)[:, None], (x[left:right] - thing.left).astype(int)[None, :]
        ]
        cover[top:bottom, left:right][inside > 127] = label
        middle_x, middle_y = thing.centre
        centre[np.abs(y - middle_y).argmin(), np.abs(x - middle_x).argmin()] = label


def _mark_glyphs(
    picture: Page | Chart | Receipt,
    x: NDArray[np.floating],
    y: NDArray[np.floating],
    cover: NDArray[np.int16],
    centre: NDArray[np.int16],
) -> None:
    for glyph in picture.glyphs():
        label = _CHARACTER_CLASS.get(glyph.character)
        if label is None:
            continue
        left, right = np.searchsorted(x, (glyph.left, glyph.right))
        top, bottom = np.searchsorted(y, (glyph.top, glyph.bottom))
        cover[top:bottom, left:right] = label
        row = np.abs(y - (glyph.top + glyph.bottom) / 2).argmin()
        centre[row, np.abs(x - (glyph.left + glyph.right) / 2).argmin()] = label
