"""One training or evaluation item: pictures and a conversation about them."""

from __future__ import annotations

import io
import random
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from PIL import Image

from vlm_train.recipes.demo import charts, colors, lines, questions, receipts, scenes
from vlm_train.recipes.demo.charts import Chart
from vlm_train.recipes.demo.colors import COLORS
from vlm_train.recipes.demo.lines import Limits, Page
from vlm_train.recipes.demo.questions import Exchange
from vlm_train.recipes.demo.receipts import Receipt
from vlm_train.recipes.demo.scenes import Scene
from vlm_train.recipes.demo.shapes import SHAPES

Picture = Scene | Page | Chart | Receipt
Kind = tuple[str | None, str | None]

# Task and share of the samples.
MIX = (
    ("read", 0.39),
    ("count", 0.10),
    ("describe", 0.05),
    ("look", 0.05),
    ("where", 0.04),
    ("more", 0.14),
    ("compare", 0.01),
    ("changed", 0.04),
    ("chart", 0.06),
    ("receipt", 0.08),
    ("sum", 0.025),
    ("talk", 0.015),
)


@dataclass(frozen=True)
class Sample:
    """Pictures and the exchanges about them; the pictures come with the question number `media_turn`.

    A bare sample has no chat template around its question, and no pictures.
    """

    pictures: tuple[Picture, ...]
    images: tuple[Image.Image, ...]
    exchanges: tuple[Exchange, ...]
    thinking: bool
    media_turn: int = 0
    is_bare: bool = False


def limits(progress: float, rng: random.Random) -> Limits:
    """How hard a text picture is at `progress` (0 to 1) through the training: short and large first."""
    if progress < 0.012:
        return Limits(max_characters=4, min_size=28, max_size=48, largest=252)
    if progress < 0.04:
        return Limits(max_characters=8, min_size=22, max_size=48, largest=336)
    hard = rng.random()
    if hard < 0.2 or (hard < 0.6 and progress < 0.2):
        return Limits(max_characters=8, min_size=20, max_size=56)
    if hard < 0.4 or progress < 0.1:
        return Limits(max_characters=16, min_size=16, max_size=48)
    if hard < 0.75:
        return Limits(max_characters=16, max_lines=3, min_size=14, max_size=48, smallest=96, aspect=3.0)
    return Limits(max_characters=16, max_lines=3, min_size=13, max_size=30)


def draw(progress: float, faces: Sequence[str], rng: random.Random) -> Sample:
    """A random training sample."""
    task = rng.choices([name for name, _ in MIX], weights=[share for _, share in MIX])[0]
    thinking = rng.random() < 0.25
    if task == "read":
        page = lines.compose(limits(progress, rng), faces, rng)
        exchanges = [questions.about_text(page.text, rng)]
        if rng.random() < 0.05:  # asked again in other words
            exchanges.append(questions.about_text(page.text, rng))
        return _sample((page,), exchanges, thinking, rng)
    if task == "chart":
        chart = charts.compose(faces, rng)
        return _sample((chart,), chart_questions(chart, rng), thinking, rng)
    if task == "receipt":
        receipt = receipts.compose(faces, rng)
        asked = rng.sample(("receipt", "receipt", "total", "price"), rng.choice((1, 2, 3)))
        return _sample((receipt,), [questions.about_receipt(receipt, rng, about) for about in asked], thinking, rng)
    if task == "changed":
        first, second, change = two_versions(rng)
        return _sample((first, second), [questions.about_change(first, second, change, rng)], thinking, rng)
    if task == "sum":
        return _text_sample(questions.about_sum(rng, held_out=False), thinking, rng)
    if task == "talk":
        return _text_sample(questions.about_nothing(rng), thinking, rng)
    if task in ("more", "compare"):
        first, second, kind = two_scenes(rng, most=4 if task == "compare" or progress < 0.03 else 9)
        if task == "compare":
            return _sample((first, second), [questions.about_both(first, second, rng)], thinking, rng)
        exchanges = [questions.about_more(first, second, kind, rng)]
        if rng.random() < 0.35:
            exchanges.append(questions.about_more(first, second, any_kind(rng), rng))
        if rng.random() < 0.5:
            exchanges.append(questions.about_each(first, second, kind, rng))
        if rng.random() < 0.2:
            rng.shuffle(exchanges)
        return _sample((first, second), exchanges, thinking, rng)
    if task == "count":
        scene, kind = scene_to_count(rng, most=4 if progress < 0.012 else 9)
        main = questions.about_count(scene, rng, kind)
    elif task == "where":
        scene = scene_to_place(rng)
        main = questions.about_place(scene, rng)
    else:
        scene = scene_to_describe(rng)
        if task == "describe":
            main = questions.about_description(scene, rng)
        else:
            main = questions.about_color(scene, rng) or questions.about_shape(scene, rng)
    exchanges = [] if main is None else [main]
    for _ in range(rng.choice((0, 1, 2, 2, 3))):
        follow_up = any_question(scene, rng)
        if follow_up is not None:
            exchanges.append(follow_up)
    if not exchanges:
        exchanges = [questions.about_description(scene, rng)]
    if rng.random() < 0.5:
        rng.shuffle(exchanges)
    return _sample((scene,), exchanges, thinking, rng)


def chart_questions(chart: Chart, rng: random.Random) -> list[Exchange]:
    """One to three questions that the chart answers."""
    about = ["tallest", "tallest", "shortest", "bars", *(["value", "value", "value"] if chart.shows_values else [])]
    return [questions.about_chart(chart, rng, task) for task in rng.sample(about, rng.choice((1, 2, 3)))]


def any_question(scene: Scene, rng: random.Random) -> Exchange | None:
    """A question about the scene of a random task, or None where that task does not fit it."""
    task = rng.random()
    if task < 0.35:
        return questions.about_count(scene, rng)
    if task < 0.55:
        return questions.about_color(scene, rng)
    if task < 0.65:
        return questions.about_shape(scene, rng)
    if task < 0.9:
        return questions.about_place(scene, rng)
    return questions.about_description(scene, rng) if len(scene.things) <= 6 else None


def any_kind(rng: random.Random) -> Kind:
    """What to count: a shape, a coloured shape, a colour or everything."""
    color, shape = rng.choice(COLORS), rng.choice(SHAPES)
    kinds: tuple[Kind, ...] = ((None, shape), (color, shape), (color, None), (None, None))
    return rng.choices(kinds, weights=(45, 30, 8, 17))[0]


def _things(kind: Kind, number: int, rng: random.Random) -> list[tuple[str, str]]:
    one_color = rng.choice(COLORS) if rng.random() < 0.3 else None  # often the same colour throughout
    one_shape = rng.choice(SHAPES) if rng.random() < 0.3 else None
    return [
        (kind[0] or one_color or rng.choice(COLORS), kind[1] or one_shape or rng.choice(SHAPES)) for _ in range(number)
    ]


def _others(kind: Kind, number: int, rng: random.Random) -> list[tuple[str, str]]:
    if kind == (None, None):
        return []
    others: list[tuple[str, str]] = []
    while len(others) < number:
        color, shape = rng.choice(COLORS), rng.choice(SHAPES)
        if rng.random() < 0.4:  # near misses: the right shape in another colour, or the other way round
            color, shape = (kind[0] or color, shape) if rng.random() < 0.5 else (color, kind[1] or shape)
        if kind[0] in (None, color) and kind[1] in (None, shape):
            continue
        others.append((color, shape))
    return others


_COMMON = (
    *((256, 256), (300, 200), (300, 300), (320, 240), (336, 336), (400, 300), (400, 400), (448, 448), (448, 224)),
    *((512, 512), (640, 480), (480, 640), (600, 400), (512, 384), (800, 600)),
)


def _canvas(number: int, rng: random.Random, largest: int = 448) -> tuple[int, int]:
    if largest == 448 and rng.random() < 0.06:  # larger pictures are shrunk to the pixel limit
        return rng.choice(((512, 512), (640, 480), (480, 640), (600, 400), (512, 384), (800, 600)))
    while True:
        width, height = scenes.canvas(rng, 96 if number < 5 else 140 if number < 9 else 168, largest)
        if width * height >= number * 2600:
            return width, height


def scene_to_count(rng: random.Random, most: int = 9, largest: int = 448) -> tuple[Scene, Kind]:
    """A scene with 0 to `most` things of a kind, each number as likely, and other things between them."""
    kind, number = any_kind(rng), rng.randint(0, most)
    num_others = rng.randint(0, max(0, min(6, scenes.MAX_OBJECTS - number)))
    if number == 0 and num_others == 0 and rng.random() < 0.8:
        num_others = 2
    kinds = _things(kind, number, rng) + _others(kind, num_others, rng)
    rng.shuffle(kinds)
    return scenes.compose(kinds, *_canvas(len(kinds), rng, largest), rng), kind


def scene_to_describe(rng: random.Random) -> Scene:
    """One to five things."""
    number = rng.choice((1, 1, 2, 2, 3, 3, 4, 5))
    kinds = _things((None, None), number, rng)
    return scenes.compose(kinds, *_canvas(number, rng), rng)


def scene_to_place(rng: random.Random, largest: int = 448) -> Scene:
    """One thing clearly in a random cell, and up to five others in cells of their own or anywhere."""
    while True:
        width, height = _canvas(3, rng, largest)
        scene = scenes.compose([], width, height, rng)
        kinds = _things((None, None), rng.choice((1, 1, 2, 3, 4, 5, 6)), rng)
        for color, shape in kinds:
            bigger = scenes.compose_at(color, shape, (rng.randint(0, 2), rng.randint(0, 2)), scene, rng)
            scene = bigger or scene
        if scene.things:
            return scene


def two_scenes(rng: random.Random, most: int = 9) -> tuple[Scene, Scene, Kind]:
    """Two scenes and a kind; the numbers of that kind are equal a third of the time, else often close."""
    kind = any_kind(rng)
    one = rng.randint(0, most)
    relation = rng.random()
    if relation < 0.34:
        two = one
    elif relation < 0.7:
        two = min(most, max(0, one + rng.choice((-2, -1, 1, 2))))
    else:
        two = rng.randint(0, most)
    pair = []
    is_large = rng.random() < 0.6
    size = _pair_canvas(9, is_large, rng) if rng.random() < 0.4 else None
    for number in (one, two):
        kinds = _things(kind, number, rng) + _others(kind, rng.randint(0, 3), rng)
        rng.shuffle(kinds)
        fits = size is not None and size[0] * size[1] >= len(kinds) * 2600
        width, height = size if size and fits else _pair_canvas(len(kinds), is_large and rng.random() < 0.8, rng)
        pair.append(scenes.compose(kinds, width, height, rng))
    return pair[0], pair[1], kind


def _pair_canvas(number: int, is_large: bool, rng: random.Random) -> tuple[int, int]:
    """Width and height of one picture of a pair: any size from 224 to 448 and common larger ones, or small."""
    if not is_large:
        return _canvas(number, rng, 280)
    if rng.random() < 0.4:
        return rng.choice(_COMMON)
    width, height = rng.randint(224, 448), rng.randint(180, 448)
    return width, height


def two_versions(rng: random.Random) -> tuple[Scene, Scene, str]:
    """A scene, the same scene with one thing moved, recoloured, added or removed, and what changed in words."""
    while True:
        scene = scene_to_place(rng, largest=280 if rng.random() < 0.6 else 448)
        names = [(thing.color, thing.shape) for thing in scene.things]
        unique = [t for t in scene.things if names.count((t.color, t.shape)) == 1 and scene.is_clear(t)]
        kind = rng.choice(
            ("moved", "recoloured", "added", "removed", "moved", "recoloured", "added", "removed", "none")
        )
        if kind == "none":
            return scene, scene, "Nothing changed."
        if kind == "added":
            color, shape = rng.choice(COLORS), rng.choice(SHAPES)
            after = scenes.compose_at(color, shape, (rng.randint(0, 2), rng.randint(0, 2)), scene, rng)
            if after is None or (color, shape) in names or len(scene.things) > 6:
                continue
            return scene, after, f"{'An' if color == 'orange' else 'A'} {color} {shape} was added."
        if not unique:
            continue
        thing = rng.choice(unique)
        others = tuple(other for other in scene.things if other is not thing)
        rest = Scene(scene.width, scene.height, scene.paper, others)
        if kind == "removed":
            if not others:
                continue
            return scene, rest, f"The {thing.color} {thing.shape} was removed."
        if kind == "recoloured":
            color = rng.choice([c for c in COLORS if c != thing.color and (c, thing.shape) not in names])
            fill = colors.shade(color, rng)
            if colors.distance(fill, scene.paper) < colors.MIN_CONTRAST:
                continue
            painted = replace(thing, color=color, fill=fill)
            after = Scene(scene.width, scene.height, scene.paper, (*others, painted))
            return scene, after, f"The {thing.color} {thing.shape} turned {color}."
        row, column = rng.randint(0, 2), rng.randint(0, 2)
        if (row, column) == scene.cell(thing):
            continue
        size = thing.form.size
        for _ in range(12):
            left = int((column + rng.uniform(0.16, 0.84)) / 3 * scene.width - size / 2)
            top = int((row + rng.uniform(0.16, 0.84)) / 3 * scene.height - size / 2)
            moved = replace(thing, left=left, top=top)
            after = Scene(scene.width, scene.height, scene.paper, (*others, moved))
            inside = left >= 1 and top >= 1 and left + size < scene.width and top + size < scene.height
            if inside and all(scenes.is_apart(moved, other) for other in others) and after.is_clear(moved):
                text = f"The {thing.color} {thing.shape} moved from {scene.place(thing)} to {after.place(moved)}."
                return scene, after, text


def _sample(pictures: tuple[Picture, ...], exchanges: list[Exchange], thinking: bool, rng: random.Random) -> Sample:
    images = tuple(_worn(picture.draw(), rng) for picture in pictures)
    exchanges = list({exchange.question: exchange for exchange in exchanges}.values())
    aside = rng.random()
    if aside < 0.04:  # a word before the picture is shown
        return Sample(pictures, images, (_aside(rng), *exchanges), thinking, media_turn=1)
    if aside < 0.08:  # or between the questions about it
        exchanges.insert(rng.randint(1, len(exchanges)), _aside(rng))
    return Sample(pictures, images, tuple(exchanges), thinking)


def _aside(rng: random.Random) -> Exchange:
    return questions.about_sum(rng, held_out=False) if rng.random() < 0.4 else questions.about_nothing(rng)


def bare(exchange: Exchange) -> Sample:
    """A prompt without a template; it does not end in a digit, after which the answer would go on with the number."""
    question = exchange.question
    if question[-1].isdigit():
        question += "?" if question.lower().startswith(("what", "how")) else "."
    return Sample((), (), (replace(exchange, question=question),), thinking=False, is_bare=True)


def _text_sample(exchange: Exchange, thinking: bool, rng: random.Random) -> Sample:
    """Text alone: in a chat of one or two turns, or bare, as a prompt without a template."""
    kind = rng.random()
    if kind < 0.25:
        return bare(exchange)
    if kind < 0.4:
        return Sample((), (), (_aside(rng), exchange), thinking)
    return Sample((), (), (exchange,), thinking)


def _worn(image: Image.Image, rng: random.Random) -> Image.Image:
    """The image as it may come from elsewhere: now and then with noise or JPEG artefacts."""
    wear = rng.random()
    if wear < 0.04:
        buffer = io.BytesIO()
        image.save(buffer, "JPEG", quality=rng.randint(60, 95))
        return Image.open(buffer).convert("RGB")
    if wear < 0.08:
        noise = np.random.default_rng(rng.getrandbits(32)).normal(0, rng.uniform(2, 8), (image.height, image.width, 1))
        return Image.fromarray(np.clip(np.asarray(image) + noise, 0, 255).astype(np.uint8))
    return image
