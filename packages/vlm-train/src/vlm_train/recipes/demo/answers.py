"""Ask a checkpoint held-out questions through the runtime, as a user would, and count right answers."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from vlm_runtime import Processor, batch_generate, load
from vlm_train.recipes.demo import evaluation
from vlm_train.recipes.demo.evaluation import Score
from vlm_train.recipes.demo.samples import Sample

MAX_TOKENS = 400
BATCH = 24  # questions answered together

Watch = Callable[[str, str, bool], None]


def messages(sample: Sample) -> list[dict[str, Any]]:
    """The conversation up to the sample's last question; the earlier ones have been answered rightly."""
    turns: list[dict[str, Any]] = []
    for index, exchange in enumerate(sample.exchanges):
        media = [{"type": "image"} for _ in sample.images] if index == sample.media_turn else []
        turns.append({"role": "user", "content": [*media, {"type": "text", "text": exchange.question}]})
        if index + 1 < len(sample.exchanges):
            turns.append({"role": "assistant", "content": exchange.answer})
    return turns


def _prompt(sample: Sample, processor: Processor) -> str:
    if sample.is_bare:
        return sample.exchanges[0].question
    return processor.apply_chat_template(
        messages(sample), num_images=len(sample.images), enable_thinking=sample.thinking
    )


def evaluate(
    checkpoint: Path | str,
    faces: Sequence[str],
    *,
    items: int = 300,
    seed: int = 7,
    tasks: Sequence[str] | None = None,
    watch: Watch | None = None,
) -> list[Score]:
    """Score a checkpoint on `items` held-out items of each task, answered greedily.

    Args:
        tasks: of `evaluation.TARGETS`; None for all.
        watch: called after each item with its task, what was said, and whether it is right.

    Raises:
        VlmError: the checkpoint cannot be loaded.
    """
    model, processor = load(checkpoint)
    scores = []
    for task in tasks or evaluation.TARGETS:
        rng = random.Random(f"{seed}/{task}")
        right = edits = length = valid = 0
        for start in range(0, items, BATCH):
            asked = [evaluation.draw(task, faces, rng) for _ in range(min(BATCH, items - start))]
            prompts = [_prompt(sample, processor) for sample in asked]
            images = [list(sample.images) or None for sample in asked]
            results = batch_generate(model, processor, prompts, images, max_tokens=MAX_TOKENS, temperature=0.0)
            for sample, result in zip(asked, results, strict=True):
                said, expected = result.text, sample.exchanges[-1].answer
                is_right = evaluation.is_right(said, expected)
                right += is_right
                edits += evaluation.distance(evaluation.answer(said), expected)
                length += len(expected)
                valid += evaluation.is_json(said)
                if watch is not None:
                    watch(task, said, is_right)
        errors = edits / length if task.startswith("read") else None
        scores.append(Score(task, right, items, errors, valid if task == "receipt" else None))
    return scores
