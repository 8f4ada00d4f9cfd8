"""Held-out items for every task the model is judged on, and how answers are scored."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Sequence
from dataclasses import dataclass

from vlm_train.recipes.demo import charts, lines, questions, receipts, samples
from vlm_train.recipes.demo.lines import Limits
from vlm_train.recipes.demo.samples import Sample

# Task -> the share of right answers it must reach, or None where nothing is promised.
TARGETS: dict[str, float | None] = {
    "color": 0.97,
    "shape": 0.97,
    "describe": 0.97,
    "count": 0.95,
    "count, thinking": 0.95,
    "where": 0.97,
    "read": 0.95,
    "read, long lines": 0.95,
    "read, three lines": 0.85,
    "chart, tallest": 0.97,
    "chart, value": 0.97,
    "receipt": 0.90,
    "receipt, total": 0.90,
    "more": 0.95,
    "changed": 0.95,
    "follow-up": 0.95,
    "hello": 0.95,
    "sum": 0.95,
    "sum, thinking": 0.95,
    "talk": None,
    "bare": None,
}

# `read`: one line, up to 8 characters, 24 px and more. `long lines`: one line, up to 16, 18 px. `three lines`: up to three.
_READING = {
    "read": Limits(max_characters=8, min_size=24, max_size=48),
    "read, long lines": Limits(max_characters=16, min_size=18, max_size=48, smallest=96, aspect=3.0),
    "read, three lines": Limits(max_characters=16, max_lines=3, min_size=14, max_size=48, smallest=96, aspect=3.0),
}


def draw(task: str, faces: Sequence[str], rng: random.Random) -> Sample:
    """A held-out item of a task of `TARGETS`, in any of the wordings.

    Raises:
        KeyError: no such task.
    """
    name, _, mode = task.partition(", ")
    thinking = mode == "thinking"
    if name == "read":
        page = lines.compose(_READING[task], faces, rng)
        return _item((page,), questions.about_text(page.text, rng), thinking)
    if name == "chart":
        chart = charts.compose(faces, rng)
        if mode == "value" and not chart.shows_values:
            return draw(task, faces, rng)
        return _item((chart,), questions.about_chart(chart, rng, mode), False)
    if name == "receipt":
        receipt = receipts.compose(faces, rng)
        return _item((receipt,), questions.about_receipt(receipt, rng, mode or name), False)
    if name == "changed":
        first, second, change = samples.two_versions(rng)
        return _item((first, second), questions.about_change(first, second, change, rng), False)
    if name == "sum":
        return _item((), questions.about_sum(rng, held_out=True), thinking)
    if name == "bare":
        talk = questions.about_nothing(rng) if rng.random() < 0.5 else questions.about_sum(rng, held_out=True)
        return samples.bare(talk)
    if name in ("hello", "talk"):
        return _item((), questions.about_nothing(rng, "hello" if name == "hello" else None), thinking)
    if name == "more":
        first, second, kind = samples.two_scenes(rng)
        return _item((first, second), questions.about_more(first, second, kind, rng), thinking)
    if name == "count":
        scene, kind = samples.scene_to_count(rng)
        exchange = questions.about_count(scene, rng, kind)
    elif name == "where":
        scene = samples.scene_to_place(rng)
        exchange = questions.about_place(scene, rng)
    elif name in ("describe", "color", "shape"):
        scene = samples.scene_to_describe(rng)
        about = {
            "describe": questions.about_description,
            "color": questions.about_color,
            "shape": questions.about_shape,
        }
        exchange = about[name](scene, rng)
    elif name == "follow-up":
        picture, asked = _conversation(faces, rng)
        exchanges = list({e.question: e for e in asked if e is not None}.values())[:3]
        if len(exchanges) < 3:
            return draw(task, faces, rng)
        return Sample((picture,), (picture.draw(),), tuple(exchanges), thinking)
    else:
        raise KeyError(f"expected one of {', '.join(TARGETS)}, got {task!r}")
    return _item((scene,), exchange, thinking) if exchange else draw(task, faces, rng)


def _conversation(faces: Sequence[str], rng: random.Random) -> tuple[samples.Picture, list[questions.Exchange | None]]:
    """A picture and questions about it: shapes mostly, else a chart or a receipt."""
    kind = rng.random()
    if kind < 0.15:
        chart = charts.compose(faces, rng)
        about = ["tallest", "shortest", "bars", *(["value"] if chart.shows_values else [])]
        return chart, [questions.about_chart(chart, rng, task) for task in rng.sample(about, 3)]
    if kind < 0.3:
        receipt = receipts.compose(faces, rng)
        asked = rng.sample(("receipt", "total", "price"), 3)
        return receipt, [questions.about_receipt(receipt, rng, task) for task in asked]
    scene = samples.scene_to_describe(rng)
    return scene, [samples.any_question(scene, rng) for _ in range(6)]


def _item(pictures: tuple[samples.Picture, ...], exchange: questions.Exchange, thinking: bool) -> Sample:
    return Sample(pictures, tuple(picture.draw() for picture in pictures), (exchange,), thinking)


def answer(text: str) -> str:
    """What a generated text answers: the part after the thought, without surrounding white space."""
    return text.rpartition("</think>")[2].strip()


def is_right(generated: str, expected: str) -> bool:
    """Whether a generated text gives the expected answer exactly."""
    return answer(generated) == expected


def is_json(generated: str) -> bool:
    """Whether the answer is a JSON object."""
    try:
        return isinstance(json.loads(answer(generated)), dict)
    except json.JSONDecodeError:
        return False


def distance(first: str, second: str) -> int:
    """Fewest insertions, deletions and replacements that turn one string into the other."""
    row = list(range(len(second) + 1))
    for index, a in enumerate(first, start=1):
        above, row[0] = row[0], index
        for column, b in enumerate(second, start=1):
            above, row[column] = row[column], min(row[column] + 1, row[column - 1] + 1, above + (a != b))
    return row[-1]


def wilson(right: int, total: int, z: float = 1.96) -> tuple[float, float]:
    """The 95 % interval of a share (Wilson, 1927).

    Raises:
        ValueError: `total` is not positive.
    """
    if total <= 0:
        raise ValueError(f"expected a positive number of items, got {total}; evaluate at least one")
    share, spread = right / total, z * z / total
    centre = (share + spread / 2) / (1 + spread)
    half = z * math.sqrt(share * (1 - share) / total + spread / (4 * total)) / (1 + spread)
    return max(0.0, centre - half), min(1.0, centre + half)


@dataclass(frozen=True)
class Score:
    """Right answers of a task."""

    task: str
    right: int
    total: int
    character_errors: float | None = None  # edits per character, of reading tasks
    valid: int | None = None  # answers that are JSON, of tasks that ask for it

    @property
    def share(self) -> float:
        return self.right / self.total


def table(scores: Sequence[Score]) -> str:
    """The scores as a Markdown table."""
    rows = ["| task | right | share | 95 % interval | target | character errors |", "|---|---|---|---|---|---|"]
    for score in scores:
        low, high = wilson(score.right, score.total)
        target = TARGETS.get(score.task)
        rows.append(
            f"| {score.task} | {score.right}/{score.total} | {100 * score.share:.1f} % | "
            f"{100 * low:.1f} to {100 * high:.1f} % | {f'{100 * target:.0f} %' if target else '-'} | "
            f"{'-' if score.character_errors is None else f'{100 * score.character_errors:.2f} %'} |"
        )
    for score in scores:
        if score.valid is not None:
            low, high = wilson(score.valid, score.total)
            shares = f"{100 * score.valid / score.total:.1f} % | {100 * low:.1f} to {100 * high:.1f} %"
            rows.append(f"| {score.task}, valid JSON | {score.valid}/{score.total} | {shares} | 99 % | - |")
    return "\n".join(rows)
