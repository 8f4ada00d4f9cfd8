"""Pictures of text: what is written, in which font, where each character lands."""

from __future__ import annotations

import math
import random
import string
from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw, ImageFont

from vlm_train.recipes.demo import colors, fonts
from vlm_train.recipes.demo.colors import Rgb
from vlm_train.recipes.demo.words import WORDS

PUNCTUATION = ".,:;!?-+/%$&()#'\"@*="
CHARACTERS = string.ascii_letters + string.digits + PUNCTUATION + "€£"


@dataclass(frozen=True)
class Limits:
    """How hard the text pictures are."""

    max_characters: int = 8  # per line
    max_lines: int = 1
    min_size: int = 24  # font size in pixels
    max_size: int = 48
    largest: int = 448  # side of the canvas
    smallest: int = 28  # height of the canvas
    aspect: float = 4.0  # width over height at most; height over width never exceeds 3


@dataclass(frozen=True)
class Glyph:
    """A character and its box in pixels."""

    character: str
    left: float
    top: float
    right: float
    bottom: float


@dataclass(frozen=True)
class Page:
    """A picture of one or more lines of text, before it is drawn."""

    width: int
    height: int
    ink: Rgb
    paper: Rgb
    face: str
    size: int
    lines: tuple[str, ...]
    lefts: tuple[int, ...]
    tops: tuple[int, ...]

    @property
    def text(self) -> str:
        return "\n".join(self.lines)

    def draw(self) -> Image.Image:
        """The picture, RGB."""
        image = Image.new("RGB", (self.width, self.height), self.paper)
        draw = ImageDraw.Draw(image)
        font = fonts.load(self.face, self.size)
        for line, left, top in zip(self.lines, self.lefts, self.tops, strict=True):
            draw.text((left, top), line, font=font, fill=self.ink)
        return image

    def glyphs(self) -> list[Glyph]:
        """Every character's box: its advance wide, the font's ascent and descent high."""
        font = fonts.load(self.face, self.size)
        return [
            glyph
            for line, left, top in zip(self.lines, self.lefts, self.tops, strict=True)
            for glyph in glyph_boxes(line, left, top, font)
        ]


def glyph_boxes(text: str, left: float, top: float, font: ImageFont.FreeTypeFont) -> list[Glyph]:
    """The box of each character of a line drawn at (left, top): its advance wide, about the font's height high."""
    ascent, descent = font.getmetrics()
    edges = [left + font.getlength(text[:end]) for end in range(len(text) + 1)]
    return [
        Glyph(character, start, top + 0.12 * ascent, end, top + ascent + 0.6 * descent)
        for character, start, end in zip(text, edges, edges[1:])
    ]


def _number(rng: random.Random) -> str:
    kind = rng.random()
    if kind < 0.3:
        return str(rng.randint(0, 10 ** rng.randint(1, 7)))
    if kind < 0.6:
        price = f"{rng.randint(0, 10 ** rng.randint(1, 3))}.{rng.randint(0, 99):02d}"
        return rng.choice(("${}", "{}", "{}", "€{}", "£{}")).format(price)
    if kind < 0.7:
        return f"{rng.randint(0, 23)}:{rng.randint(0, 59):02d}"
    if kind < 0.8:
        return f"{rng.randint(1, 31)}{rng.choice('/.-')}{rng.randint(1, 12)}"
    if kind < 0.9:
        return f"{rng.randint(0, 100)}%"
    letters = "".join(
        rng.choice("ABCDEFGHJKLMNPQRSTUVWXYZ") for _ in range(rng.randint(1, 3))
    )  # no I, O: 1 and 0 follow
    return f"{letters}{rng.choice(('-', '', ' '))}{rng.randint(0, 9999)}"


def _word(rng: random.Random) -> str:
    word = rng.choice(WORDS)
    style = rng.random()
    word = word.capitalize() if style < 0.35 else word.upper() if style < 0.6 else word
    return word + rng.choice(".,:!?") if rng.random() < 0.12 else word


def _scramble(longest: int, excluded: frozenset[str], rng: random.Random) -> str:
    kind = rng.random()
    if kind < 0.45:
        alphabet = CHARACTERS
    elif kind < 0.65:
        alphabet = string.ascii_letters + string.digits
    elif kind < 0.85:
        alphabet = rng.choice((string.ascii_uppercase, string.ascii_lowercase, string.ascii_letters))
    else:
        alphabet = string.ascii_uppercase + string.digits
    allowed = [character for character in alphabet if character not in excluded]
    return "".join(rng.choice(allowed) for _ in range(rng.randint(1, longest)))


def line(longest: int, excluded: frozenset[str], rng: random.Random) -> str:
    """A line of at most `longest` characters: words, numbers, prices, or a scramble without the `excluded` characters."""
    while True:
        kind = rng.random()
        if kind < 0.35:
            text = _word(rng)
            while rng.random() < 0.6 and len(text) < longest - 2:
                text += " " + (_word(rng) if rng.random() < 0.7 else _number(rng))
        elif kind < 0.55:
            text = _number(rng)
        elif kind < 0.62:
            text = f"{_word(rng)} {_number(rng)}"
        else:
            text = _scramble(longest, excluded, rng)
        if len(text) <= longest:
            return text


def compose(limits: Limits, faces: Sequence[str], rng: random.Random) -> Page:
    """A random page within `limits`, all of its text inside the canvas and plainly visible."""
    while True:
        face = rng.choice(faces)
        size = rng.randint(limits.min_size, limits.max_size)
        font = fonts.load(face, size)
        num_lines = rng.randint(1, limits.max_lines)
        excluded = fonts.look_alikes(face)
        texts = tuple(line(limits.max_characters, excluded, rng) for _ in range(num_lines))
        boxes = [font.getbbox(text) for text in texts]
        ascent, descent = font.getmetrics()
        pitch = round((ascent + descent) * rng.choice((rng.uniform(1.0, 1.4), rng.uniform(1.0, 1.8))))
        widths = [int(max(box[2], font.getlength(text))) + 1 for box, text in zip(boxes, texts, strict=True)]
        text_width, overhang = max(widths), max(0, -int(min(box[0] for box in boxes)))
        text_height = pitch * (num_lines - 1) + ascent + descent
        canvas = _canvas(text_width + overhang, text_height, limits, rng)
        if canvas is None:
            continue
        width, height = canvas
        ink, paper = colors.ink_and_paper(rng)
        left = rng.randint(2 + overhang, max(2 + overhang, width - text_width - 2))
        if rng.random() < 0.3:
            left = max(2 + overhang, (width - text_width) // 2)
        top = rng.randint(1, max(1, height - text_height - 1))
        if rng.random() < 0.2:
            top = max(1, (height - text_height) // 2)
        centred = rng.random() < 0.25
        lefts = tuple(left + (text_width - own) // 2 if centred else left for own in widths)
        tops = tuple(top + pitch * index for index in range(num_lines))
        return Page(width, height, ink, paper, face, size, texts, lefts, tops)


def _canvas(text_width: int, text_height: int, limits: Limits, rng: random.Random) -> tuple[int, int] | None:
    """Width and height: close around the text, or of any size that holds it; None where the limits forbid the one drawn."""
    if rng.random() < 0.35:
        width, height = (rng.randint(min(96, limits.largest), limits.largest) for _ in range(2))
    else:
        pad = rng.choice((4, 8, 16))
        slack = 1.0 + 1.6 * rng.betavariate(1, 3)
        width = max(64, round((text_width + 2 * pad) * slack))
        height = max(28, round((text_height + 2 * pad) * (1.0 + 3 * rng.betavariate(1, 3))))
        if rng.random() < 0.12:
            width, height = max(width, 224), max(height, 224)
        if rng.random() < 0.4:
            width, height = -(-width // 28) * 28, -(-height // 28) * 28
    width, height = max(width, limits.smallest), max(height, limits.smallest)
    width, height = max(width, -(-height // 3)), max(height, math.ceil(width / limits.aspect))
    if width > limits.largest or height > limits.largest or width < text_width + 4 or height < text_height + 2:
        return None
    return width, height
