"""Pictures of small receipts: names on the left, prices on the right, the total below."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw

from vlm_train.recipes.demo import colors, fonts
from vlm_train.recipes.demo.colors import Rgb
from vlm_train.recipes.demo.lines import Glyph, glyph_boxes
from vlm_train.recipes.demo.words import WORDS

# fmt: off
GOODS = """
Apple Bacon Bagel Banana Beans Beer Bread Butter Cake Candy Carrot Cheese Cherry Chips Cider Cocoa Coffee Cookie Corn
Cream Donut Eggs Fish Flour Fries Garlic Ginger Grapes Ham Honey Ice Jam Juice Ketchup Kiwi Lamb Lemon Lime Mango Melon
Milk Muffin Mustard Nuts Oil Olives Onion Pasta Peach Pear Pepper Pie Pizza Plum Pork Potato Radish Rice Rolls Salad
Salmon Salt Sauce Soap Soda Soup Steak Sugar Sushi Syrup Taco Tea Toast Tofu Tomato Tuna Turkey Waffle Walnut Yogurt
Batteries Candle Card Comb Glue Lamp Paper Pen Pencil Rope Scarf Sponge Stamp Tape Towel Umbrella
""".split()  # noqa: SIM905 - a list of words reads better as text
# fmt: on
SHOPS = ("Receipt", "RECEIPT", "CAFE", "Market", "SHOP", "Corner Shop", "STORE", "Bakery", "Grocery", "INVOICE")


@dataclass(frozen=True)
class Receipt:
    """A receipt before it is drawn. Prices are in cents."""

    width: int
    height: int
    ink: Rgb
    paper: Rgb
    face: str
    size: int
    left: int
    right: int
    top: int
    pitch: int
    sign: str
    title: str
    total_label: str
    items: tuple[tuple[str, int], ...]
    has_rule: bool  # a line above the total

    @property
    def total(self) -> int:
        return sum(cents for _, cents in self.items)

    def _rows(self) -> list[tuple[str, str]]:
        rows = [(self.title, "")] if self.title else []
        rows += [(name, self.sign + money(cents)) for name, cents in self.items]
        return [*rows, (self.total_label, self.sign + money(self.total))]

    def _writing(self) -> list[tuple[str, float, float]]:
        font = fonts.load(self.face, self.size)
        texts: list[tuple[str, float, float]] = []
        for index, (name, price) in enumerate(self._rows()):
            top = self.top + self.pitch * index
            texts.append((name, self.left, top))
            texts.append((price, self.right - font.getlength(price), top))
        return texts

    def draw(self) -> Image.Image:
        """The picture, RGB."""
        image = Image.new("RGB", (self.width, self.height), self.paper)
        draw = ImageDraw.Draw(image)
        font = fonts.load(self.face, self.size)
        for text, left, top in self._writing():
            draw.text((left, top), text, font=font, fill=self.ink)
        if self.has_rule:
            y = self.top + self.pitch * (len(self._rows()) - 1)
            draw.line((self.left, y, self.right, y), fill=self.ink)
        return image

    def glyphs(self) -> list[Glyph]:
        """Every character's box."""
        font = fonts.load(self.face, self.size)
        return [glyph for text, left, top in self._writing() for glyph in glyph_boxes(text, left, top, font)]

    def as_json(self) -> str:
        """`{"items": [{"name": "Tea", "price": 3.50}], "total": 3.50}`."""
        items = ", ".join(f'{{"name": "{name}", "price": {money(cents)}}}' for name, cents in self.items)
        return f'{{"items": [{items}], "total": {money(self.total)}}}'


def money(cents: int) -> str:
    """`350` -> `3.50`."""
    return f"{cents // 100}.{cents % 100:02d}"


def _names(number: int, rng: random.Random) -> list[str]:
    """Names of different things: mostly goods, else any words, one or two at a time."""
    names: dict[str, None] = {}
    while len(names) < number:
        kind = rng.random()
        if kind < 0.65:
            name = rng.choice(GOODS)
        elif kind < 0.85:
            name = rng.choice(WORDS).capitalize()
        else:
            name = f"{rng.choice(WORDS).capitalize()} {rng.choice((rng.choice(GOODS), rng.choice(WORDS)))}"
        names[name] = None
    return list(names)


def compose(faces: Sequence[str], rng: random.Random) -> Receipt:
    """A receipt of one to five things, dark on light, all of it inside the canvas."""
    while True:
        names = _names(rng.randint(1, 5), rng)
        style = rng.random()
        shown = [name.upper() if style < 0.15 else name for name in names]
        items = tuple((name, rng.randint(50, rng.choice((999, 1999, 4999)))) for name in shown)
        face, size = rng.choice(faces), rng.randint(14, 26)
        font = fonts.load(face, size)
        ascent, descent = font.getmetrics()
        pitch = round((ascent + descent) * rng.uniform(1.0, 1.35))
        title = rng.choice(SHOPS) if rng.random() < 0.35 else ""
        label = rng.choice(("Total", "Total", "TOTAL", "Total:"))
        sign = rng.choice("$$$€£") if rng.random() < 0.25 else ""
        num_rows = len(items) + 1 + bool(title)
        names_width = max(font.getlength(text) for text in (*shown, label, title))
        prices_width = font.getlength(sign + "188.88")
        margin = rng.randint(4, 20)
        least = int(names_width + prices_width + size + 2 * margin)
        width = least + int(rng.betavariate(1, 2) * 200)
        height = pitch * num_rows + 2 * margin + int(rng.betavariate(1, 3) * 220)
        if width > 448 or height > 448 or max(width, height) > 3 * min(width, height):
            continue
        dark, light = rng.randint(0, 60), rng.randint(225, 255)
        paper = (255, 255, 255) if rng.random() < 0.6 else (light, light, max(200, light - rng.randint(0, 25)))
        ink = (dark, dark, dark) if rng.random() < 0.8 else colors.shade(rng.choice(("blue", "purple", "black")), rng)
        if abs(colors.luminance(ink) - colors.luminance(paper)) < 100:
            continue
        top = margin + rng.randint(0, max(0, height - pitch * num_rows - 2 * margin))
        return Receipt(
            width,
            height,
            ink,
            paper,
            face,
            size,
            margin,
            width - margin,
            top,
            pitch,
            sign,
            title,
            label,
            items,
            pitch > ascent + descent and rng.random() < 0.3,
        )
