"""Answers of the embedded model with a quantized cache beside those with 16 bits: the same questions, in pairs.

The start index is 0, so every key and value is quantized, those of the pictures too.
"""

from __future__ import annotations

import hashlib
import math
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from operator import eq
from pathlib import Path
from typing import Any

from PIL import Image

import vlm_demo
from vlm_runtime import VisionFeatureCache, batch_generate, load
from vlm_train.recipes.demo import evaluation, fonts, lines, questions
from vlm_train.recipes.demo.answers import messages
from vlm_train.recipes.demo.lines import Limits
from vlm_train.recipes.demo.samples import Sample

TASKS = (
    "color",
    "shape",
    "describe",
    "count",
    "count, thinking",
    "where",
    "read",
    "read, long lines",
    "read, three lines",
    "chart, tallest",
    "chart, value",
    "receipt",
    "receipt, total",
    "more",
    "changed",
    "follow-up",
)
RECALL = "recall"
# Turns about other things between a picture and the question about it.
FILLERS = (2, 6, 12)
PER_TASK, NUM_RECALL = 130, 300
MAX_TOKENS = 300
BATCH = 24


@dataclass(frozen=True)
class Way:
    """How keys and values are kept. true_bits: a coordinate, norms or scales and biases included, at the demo's head size 64."""

    name: str
    true_bits: float
    options: dict[str, Any]


def turboquant_way(bits: float, **own: float) -> Way:
    """TurboQuant; a norm of 16 bits for each vector of 64."""
    shown = own.get("kv_key_bits", math.floor(bits)), own.get("kv_value_bits", math.ceil(bits))
    return Way(
        f"turboquant {shown[0]:g}/{shown[1]:g}",
        sum(shown) / 2 + 16 / 64,
        {"kv_bits": bits, "kv_quant_scheme": "turboquant", **own},
    )


def uniform_way(bits: int, group: int = 64) -> Way:
    """`mx.quantize`; a scale and a bias of 16 bits for each group."""
    return Way(
        f"uniform {bits} g{group}",
        bits + 32 / group,
        {"kv_bits": bits, "kv_quant_scheme": "uniform", "kv_group_size": group},
    )


PLAIN = Way("16 bits", 16.0, {})
WAYS = (
    PLAIN,
    turboquant_way(4),
    turboquant_way(3.5),
    turboquant_way(3.5, kv_key_bits=4, kv_value_bits=3),
    turboquant_way(3),
    turboquant_way(2),
    uniform_way(4),
    uniform_way(3),
    uniform_way(2),
)


def items(task: str, count: int, seed: int) -> Iterator[Sample]:
    """Held-out questions of a task; of `recall`, about a picture some turns back."""
    faces = fonts.find(fonts.FOLDERS)
    rng = random.Random(f"{seed}/{task}/kv")
    for index in range(count):
        if task != RECALL:
            yield evaluation.draw(task, faces, rng)
            continue
        page = lines.compose(Limits(max_characters=8, min_size=24, max_size=48), faces, rng)
        fillers = [questions.about_sum(rng, held_out=True) for _ in range(FILLERS[index % len(FILLERS)])]
        asked = questions.about_text(page.text, rng)
        greeting = questions.about_nothing(rng, "hello")
        yield Sample((page,), (page.draw(),), (greeting, *fillers, asked), thinking=False)


@dataclass(frozen=True)
class Question:
    """A prompt, its pictures, and the right answer."""

    task: str
    prompt: str
    images: list[Image.Image] | None
    expected: str


def questions_of(processor: Any, tasks: Sequence[str], per_task: int, seed: int = 11) -> list[Question]:
    """The same questions each time."""
    made = []
    for task in tasks:
        for sample in items(task, per_task, seed):
            prompt = processor.apply_chat_template(
                messages(sample), num_images=len(sample.images), enable_thinking=sample.thinking
            )
            made.append(Question(task, prompt, list(sample.images) or None, sample.exchanges[-1].answer))
    return made


def digest(checkpoint: str) -> str:
    """The first 12 digits of the SHA-256 of a checkpoint's weights."""
    folder = vlm_demo.path() if checkpoint == "demo" else Path(checkpoint)
    return hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()[:12]


def right_answers(
    model: Any, processor: Any, asked: Sequence[Question], way: Way, cache: VisionFeatureCache
) -> list[bool]:
    """Whether each question is answered rightly, greedily, in batches."""
    order = sorted(range(len(asked)), key=lambda i: len(asked[i].expected))  # rows of one batch end together
    right = [False] * len(asked)
    for first in range(0, len(order), BATCH):
        part = order[first : first + BATCH]
        results = batch_generate(
            model,
            processor,
            [asked[i].prompt for i in part],
            images=[asked[i].images for i in part],
            max_tokens=MAX_TOKENS,
            temperature=0.0,
            vision_cache=cache,
            **way.options,
        )
        for i, result in zip(part, results, strict=True):
            right[i] = evaluation.is_right(result.text, asked[i].expected)
    return right


def ask(
    asked: Sequence[Question] | None = None,
    ways: Sequence[Way] = WAYS,
    checkpoint: str = "demo",
    done: Callable[[Way, list[bool]], None] = lambda way, right: None,
) -> tuple[list[str], dict[str, list[bool]]]:
    """The task of each question, and by way whether it was answered rightly. done: called after each way."""
    model, processor = load(checkpoint)
    if asked is None:
        asked = questions_of(processor, TASKS, PER_TASK) + questions_of(processor, (RECALL,), NUM_RECALL)
    cache = VisionFeatureCache(max_entries=2 * len(asked), max_bytes=1 << 30)
    answers = {}
    for way in ways:
        answers[way.name] = right_answers(model, processor, asked, way, cache)
        done(way, answers[way.name])
    return [question.task for question in asked], answers


def demo_rows(
    tasks: Sequence[str], answers: Mapping[str, Sequence[bool]], ways: Sequence[Way] = WAYS
) -> list[dict[str, Any]]:
    """One row for each way and group of questions; `tasks` and `answers` are those of `ask`. The first way is what the others
    are compared with."""
    groups = {"all tasks": lambda task: task != RECALL, RECALL: lambda task: task == RECALL}
    groups |= {task: partial(eq, task) for task in TASKS if task in tasks}
    plain = answers[ways[0].name]
    rows = []
    for group, belongs in groups.items():
        at = [index for index, task in enumerate(tasks) if belongs(task)]
        for way in ways:
            if at and way.name in answers:
                pairs = [(plain[index], answers[way.name][index]) for index in at]
                rows.append({"questions": group, "method": way.name, "true_bits": way.true_bits, **paired(pairs)})
    return rows


def paired(pairs: Sequence[tuple[bool, bool]]) -> dict[str, Any]:
    """Shares right in percent, the difference of the second to the first in points, and its 95 % interval over pairs."""
    total = len(pairs)
    lost, won = sum(a and not b for a, b in pairs), sum(b and not a for a, b in pairs)
    difference = (won - lost) / total
    # Variance of a difference of paired shares; one pair more on either side keeps it from being nought.
    spread = (won + lost + 2) / (total + 2) - ((won - lost) / (total + 2)) ** 2
    half = 1.96 * math.sqrt(spread / (total + 2))
    return {
        "asked": total,
        "right_percent": 100 * sum(b for _, b in pairs) / total,
        "points": 100 * difference,
        "low": 100 * (difference - half),
        "high": 100 * (difference + half),
        "lost": lost,
        "won": won,
    }
