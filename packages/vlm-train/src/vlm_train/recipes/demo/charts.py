"""Pictures of bar charts with labelled bars."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw

from vlm_train.recipes.demo import colors, fonts
from vlm_train.recipes.demo.colors import Rgb
from vlm_train.recipes.demo.lines import Glyph, glyph_boxes
from vlm_train.recipes.demo.words import WORDS

LABELS = (
    tuple("ABCDEFGH"),
    ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun"),
    ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul"),
    ("Q1", "Q2", "Q3", "Q4"),
    ("2019", "2020", "2021", "2022", "2023", "2024"),
    ("Ann", "Bob", "Cat", "Dan", "Eve", "Joe", "Kim", "Max", "Tom", "Zoe"),
    ("Tea", "Rice", "Milk", "Fish", "Corn", "Beef", "Plum", "Lime"),
    ("X", "Y", "Z", "P", "Q", "R"),
)
TITLES = ("Sales", "Results", "Votes", "Points", "Visitors", "Score", "Chart", "Income", "Rain", "Units")
MIN_LEAD = 0.07  # by how much of the plot's height the tallest and the shortest bar stand apart from the rest


@dataclass(frozen=True)
class Chart:
    """A bar chart: labels under the bars, values above them if `shows_values`."""

    width: int
    height: int
    paper: Rgb
    ink: Rgb
    fills: tuple[Rgb, ...]
    labels: tuple[str, ...]
    values: tuple[int, ...]
    shows_values: bool
    has_frame: bool
    face: str
    size: int
    fullness: float  # share of its slot that a bar takes
    scale: int  # the value that would reach the top of the plot
    title: str  # above the plot, or empty

    @property
    def tallest(self) -> str:
        return self.labels[self.values.index(max(self.values))]

    @property
    def shortest(self) -> str:
        return self.labels[self.values.index(min(self.values))]

    def _bars(self) -> list[tuple[float, float, float]]:
        """Left, right and top of each bar."""
        bottom, top = self._floor(), self.size * (3.0 if self.title else 1.6) + 4
        slot = (self.width - 16) / len(self.values)
        return [
            (
                8 + slot * (index + 0.5 - self.fullness / 2),
                8 + slot * (index + 0.5 + self.fullness / 2),
                bottom - (bottom - top) * value / self.scale,
            )
            for index, value in enumerate(self.values)
        ]

    def _floor(self) -> float:
        return self.height - self.size * 1.5 - 4

    def _writing(self) -> list[tuple[str, float, float]]:
        """Every text with its left and top."""
        font = fonts.load(self.face, self.size)
        texts = [(self.title, (self.width - font.getlength(self.title)) / 2, 2.0)] if self.title else []
        for (left, right, top), label, value in zip(self._bars(), self.labels, self.values, strict=True):
            middle = (left + right) / 2
            texts.append((label, middle - font.getlength(label) / 2, self._floor() + 3))
            if self.shows_values:
                texts.append((str(value), middle - font.getlength(str(value)) / 2, top - self.size * 1.3))
        return texts

    def draw(self) -> Image.Image:
        """The picture, RGB."""
        image = Image.new("RGB", (self.width, self.height), self.paper)
        draw = ImageDraw.Draw(image)
        font = fonts.load(self.face, self.size)
        for (left, right, top), fill in zip(self._bars(), self.fills, strict=True):
            draw.rectangle((left, top, right, self._floor()), fill=fill)
        if self.has_frame:
            draw.line((6, self._floor(), self.width - 6, self._floor()), fill=self.ink)
            draw.line((6, 4, 6, self._floor()), fill=self.ink)
        for text, left, top in self._writing():
            draw.text((left, top), text, font=font, fill=self.ink)
        return image

    def glyphs(self) -> list[Glyph]:
        """Every character's box."""
        font = fonts.load(self.face, self.size)
        return [glyph for text, left, top in self._writing() for glyph in glyph_boxes(text, left, top, font)]


def _own_labels(rng: random.Random) -> tuple[str, ...]:
    """Six short words, or six codes of a letter and a number."""
    if rng.random() < 0.3:
        letter = rng.choice("ABCDEFGHKMNPRSTVWX")
        return tuple(f"{letter}{number}" for number in range(1, 7))
    return tuple(word.capitalize() for word in rng.sample([word for word in WORDS if len(word) <= 5], 6))


def compose(faces: Sequence[str], rng: random.Random) -> Chart:
    """A chart of two to six bars; its tallest and its shortest bar are plain to see, its texts do not touch."""
    while True:
        labels = rng.choice(LABELS) if rng.random() < 0.7 else _own_labels(rng)
        number = rng.randint(2, min(6, len(labels)))
        start = rng.randint(0, len(labels) - number)
        chosen = labels[start : start + number] if rng.random() < 0.7 else tuple(rng.sample(labels, number))
        most = rng.choice((10, 20, 50, 100, 100))
        values = tuple(rng.randint(1, most) for _ in range(number))
        ordered = sorted(values)
        scale = max(values) if rng.random() < 0.6 else max(values) + rng.randint(0, max(values) // 3 + 1)
        if rng.random() < 0.2:  # low bars, much room above them
            scale = round(max(values) * rng.uniform(1.0, 2.5))
        if ordered[-1] - ordered[-2] < MIN_LEAD * scale or ordered[1] - ordered[0] < MIN_LEAD * scale:
            continue
        face, size = rng.choice(faces), rng.randint(14, 24)
        width, height = rng.randint(112, 448), rng.randint(100, 448)
        title = rng.choice(TITLES) if rng.random() < 0.2 else ""
        font = fonts.load(face, size)
        slot = (width - 16) / number
        plot = height - size * ((3.0 if title else 1.6) + 1.5) - 8
        if max(font.getlength(text) for text in (*chosen, str(most))) > slot - 4 or width > 3 * height:
            continue
        if plot < 40 or font.getlength(title) > width - 8:
            continue
        paper = colors.background(rng)
        ink = (0, 0, 0) if colors.luminance(paper) > 120 else (255, 255, 255)
        names = [name for name in colors.COLORS if name not in ("white", "black")]
        same = colors.shade(rng.choice(names), rng) if rng.random() < 0.5 else None
        fills = tuple(same or colors.shade(rng.choice(names), rng) for _ in range(number))
        if min(colors.distance(fill, paper) for fill in fills) < colors.MIN_CONTRAST:
            continue
        return Chart(
            width,
            height,
            paper,
            ink,
            fills,
            chosen,
            values,
            rng.random() < 0.7,
            rng.random() < 0.7,
            face,
            size,
            rng.uniform(0.4, 0.9),
            scale,
            title,
        )
