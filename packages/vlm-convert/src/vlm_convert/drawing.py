"""Pictures and questions to calibrate on where the user brings none: coloured shapes, lines of text, and plain text."""

from __future__ import annotations

import random
import string
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFont

COLORS = {
    "red": (220, 40, 40),
    "green": (40, 160, 70),
    "blue": (50, 80, 220),
    "yellow": (240, 210, 50),
    "orange": (240, 140, 40),
    "purple": (140, 60, 180),
    "black": (20, 20, 20),
}
SHAPES = ("circle", "square", "triangle")
TEXTS = (
    "Say hello.",
    "What can you do?",
    "What is {a} + {b}?",
    "Write one sentence about {color} things.",
    "List {few} words that start with {letter}.",
)
WORDS = (
    "river",
    "light",
    "garden",
    "seven",
    "table",
    "winter",
    "paper",
    "orange",
    "music",
    "stone",
    "market",
    "silver",
)


@dataclass(frozen=True)
class Sample:
    """One calibration prompt. images: uint8 [height, width, 3]. answer: what follows; None: what the model itself answers."""

    prompt: str
    images: tuple[np.ndarray, ...] = ()
    answer: str | None = None
    source: str = "generated"


def generated(count: int, seed: int = 0, *, most_pictures: int = 2) -> list[Sample]:
    """Samples of every kind in turn, the same for the same seed. most_pictures: that a prompt may hold."""
    rng = random.Random(seed)
    kinds = ((_text,), (_scene, _page, _text), (_scene, _scene, _page, _text, _pair))[min(most_pictures, 2)]
    return [kinds[index % len(kinds)](rng) for index in range(count)]


def _text(rng: random.Random) -> Sample:
    few = rng.choice(("three", "five"))
    values = {
        "a": rng.randint(1, 60),
        "b": rng.randint(1, 39),
        "few": few,
        "letter": rng.choice(string.ascii_uppercase),
    }
    return Sample(rng.choice(TEXTS).format(color=rng.choice(list(COLORS)), **values))


def _scene(rng: random.Random) -> Sample:
    color, shape = rng.choice(list(COLORS)), rng.choice(SHAPES)
    question = rng.choice(
        (
            "Describe the image.",
            f"How many {shape}s are there?",
            f"How many {color} shapes are there?",
            f"Where is the {shape}?",
            f"What color is the {shape}?",
            f"What shape is {color}?",
        )
    )
    return Sample(question, (draw_scene(rng),))


def _pair(rng: random.Random) -> Sample:
    question = rng.choice((f"Which image has more {rng.choice(SHAPES)}s?", "What changed?"))
    return Sample(question, (draw_scene(rng), draw_scene(rng)))


def _page(rng: random.Random) -> Sample:
    lines = [" ".join(rng.choices(WORDS, k=rng.randint(1, 2))).title() for _ in range(rng.randint(1, 3))]
    if rng.random() < 0.5:
        lines[-1] = f"{rng.randint(1, 99)}.{rng.randint(0, 99):02d}"
    return Sample(rng.choice(("Read the text.", "What does it say?")), (draw_lines(lines, rng),))


def draw_scene(rng: random.Random) -> np.ndarray:
    """A few shapes on a light ground."""
    width, height = (rng.randrange(168, 340, 28) for _ in range(2))
    picture = Image.new("RGB", (width, height), tuple(rng.randint(225, 255) for _ in range(3)))
    pen = ImageDraw.Draw(picture)
    for _ in range(rng.randint(1, 7)):
        size = rng.randint(24, 52)
        x, y = rng.randint(4, width - size - 4), rng.randint(4, height - size - 4)
        fill = rng.choice(list(COLORS.values()))
        match rng.choice(SHAPES):
            case "circle":
                pen.ellipse((x, y, x + size, y + size), fill=fill)
            case "square":
                pen.rectangle((x, y, x + size, y + size), fill=fill)
            case _:
                pen.polygon(((x, y + size), (x + size, y + size), (x + size // 2, y)), fill=fill)
    return np.asarray(picture)


def draw_lines(lines: list[str], rng: random.Random) -> np.ndarray:
    """Dark text on a light ground."""
    size = rng.randint(18, 36)
    font = ImageFont.load_default(size)
    width = max(int(font.getlength(line)) for line in lines) + 40
    picture = Image.new("RGB", (max(width, 112), 30 + len(lines) * (size + 10)), (250, 248, 244))
    pen = ImageDraw.Draw(picture)
    for index, line in enumerate(lines):
        pen.text((20, 15 + index * (size + 10)), line, fill=rng.choice(((0, 0, 0), (30, 30, 90))), font=font)
    return np.asarray(picture)
