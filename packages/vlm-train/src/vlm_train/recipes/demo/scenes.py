"""Pictures of shapes: what stands where, placed so that every question about it has one answer."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass

from PIL import Image

from vlm_train.recipes.demo import colors, shapes
from vlm_train.recipes.demo.colors import Rgb

CELLS = (
    ("top left", "top", "top right"),
    ("left", "center", "right"),
    ("bottom left", "bottom", "bottom right"),
)
MAX_OBJECTS = 12
_GAP = 4  # pixels between two objects' bounding squares, and to the border's inside
_CLEAR = 0.045  # a position is only asked for if the centre keeps this share of the side from the cell's border
_SMALLEST = 18


@dataclass(frozen=True)
class Thing:
    """One shape: its name, its look, and where its bounding square starts (pixels)."""

    shape: str
    color: str
    form: shapes.Form
    fill: Rgb
    outline: Rgb | None
    left: int
    top: int

    @property
    def centre(self) -> tuple[float, float]:
        return self.left + self.form.size / 2, self.top + self.form.size / 2


@dataclass(frozen=True)
class Scene:
    """A picture of shapes, before it is drawn."""

    width: int
    height: int
    paper: Rgb
    things: tuple[Thing, ...]

    def cell(self, thing: Thing) -> tuple[int, int]:
        """Row and column (0 to 2) of the third of the picture that holds the thing's centre."""
        x, y = thing.centre
        return min(2, int(3 * y / self.height)), min(2, int(3 * x / self.width))

    def place(self, thing: Thing) -> str:
        row, column = self.cell(thing)
        return CELLS[row][column]

    def is_clear(self, thing: Thing) -> bool:
        """Whether the thing's centre is well inside its cell."""
        x, y = thing.centre
        return all(
            abs(share - border) >= _CLEAR for share in (x / self.width, y / self.height) for border in (1 / 3, 2 / 3)
        )

    def in_order(self) -> list[Thing]:
        """Things from left to right, by their centres."""
        return sorted(self.things, key=lambda thing: thing.centre)

    def draw(self) -> Image.Image:
        """The picture, RGB."""
        image = Image.new("RGB", (self.width, self.height), self.paper)
        for thing in self.things:
            mask = shapes.mask(thing.form)
            corner = (thing.left, thing.top)
            if thing.outline is None:
                image.paste(thing.fill, corner, mask)
                continue
            image.paste(thing.outline, corner, mask)
            width = max(1, thing.form.size // 16)
            inner = shapes.Form(
                thing.form.shape, thing.form.size - 2 * width, thing.form.angle, thing.form.waist, thing.form.smooth
            )
            image.paste(thing.fill, (thing.left + width, thing.top + width), shapes.mask(inner))
        return image


def canvas(rng: random.Random, smallest: int = 112, largest: int = 448) -> tuple[int, int]:
    """Width and height: small ones more often, aspect at most 3:1, some multiples of 28 and some not."""

    def side() -> int:
        pixels = smallest + (largest - smallest) * rng.betavariate(1.1, 2.0)
        return round(pixels / 28) * 28 if rng.random() < 0.5 else round(pixels)

    if rng.random() < 0.15:
        common = rng.choice([s for s in (112, 128, 160, 200, 224, 256, 300, 320, 336, 400, 448) if s <= largest])
        return common, common
    width = side()
    height = width if rng.random() < 0.4 else side()
    return min(width, 3 * height), min(height, 3 * width)


def compose(kinds: list[tuple[str, str]], width: int, height: int, rng: random.Random) -> Scene:
    """Place one thing of each (colour, shape) without overlap; things shrink as they grow in number.

    Every colour stands out from the background and, where an outline is drawn, from the outline.
    """
    side = min(width, height)
    while True:
        if kinds and rng.random() < 0.25:
            regular = _on_grid(kinds, width, height, rng)
            if regular is not None:
                return regular
        paper = colors.background(rng)
        outlined = rng.random() < 0.15
        room = (width * height / max(1, len(kinds))) ** 0.5
        largest = int(max(_SMALLEST + 1, min(0.45 * side, 0.6 * room)))
        smallest = int(max(_SMALLEST, min(0.12 * side, largest - 1)))
        same_size = rng.randint(smallest, largest) if rng.random() < 0.4 else None
        things: list[Thing] = []
        for color, shape in kinds:
            thing = _place(color, shape, (width, height), paper, outlined, things, (smallest, largest, same_size), rng)
            if thing is None:
                break
            things.append(thing)
        else:
            return Scene(width, height, paper, tuple(things))


def _on_grid(kinds: list[tuple[str, str]], width: int, height: int, rng: random.Random) -> Scene | None:
    """One thing in each of as many cells of a square grid, a little off its middle; None where they do not fit."""
    paper, side = colors.background(rng), math.ceil(len(kinds) ** 0.5)
    side += len(kinds) == 1 and rng.random() < 0.5
    cells = rng.sample([(row, column) for row in range(side) for column in range(side)], len(kinds))
    things: list[Thing] = []
    for (color, shape), (row, column) in zip(kinds, cells, strict=True):
        fill = colors.shade(color, rng)
        size = int(min(rng.uniform(0.4, 0.8) * min(width, height) / side, 0.42 * min(width, height)))
        left = int((column + 0.5 + rng.uniform(-0.12, 0.12)) * width / side - size / 2)
        top = int((row + 0.5 + rng.uniform(-0.12, 0.12)) * height / side - size / 2)
        if size < _SMALLEST or colors.distance(fill, paper) < colors.MIN_CONTRAST:
            return None
        thing = Thing(shape, color, shapes.form(shape, size, rng), fill, None, left, top)
        inside = left >= 1 and top >= 1 and left + size < width and top + size < height
        if not inside or not all(is_apart(thing, other) for other in things):
            return None
        things.append(thing)
    return Scene(width, height, paper, tuple(things))


def _place(
    color: str,
    shape: str,
    canvas: tuple[int, int],
    paper: Rgb,
    outlined: bool,
    others: list[Thing],
    sizes: tuple[int, int, int | None],
    rng: random.Random,
) -> Thing | None:
    fill = colors.shade(color, rng)
    outline: Rgb | None = None
    if outlined:
        outline = (0, 0, 0) if colors.luminance(paper) > 120 else (255, 255, 255)
        if colors.distance(fill, outline) < colors.MIN_CONTRAST:
            outline = None
    if outline is None and colors.distance(fill, paper) < colors.MIN_CONTRAST:
        return None
    width, height = canvas
    smallest, largest, same_size = sizes
    for attempt in range(30):
        size = same_size or rng.randint(smallest, largest)
        if attempt > 12:
            size = max(_SMALLEST, int(size * 0.8))
        if size + 4 > min(width, height):
            continue
        left, top = rng.randint(2, width - size - 2), rng.randint(2, height - size - 2)
        thing = Thing(shape, color, shapes.form(shape, size, rng), fill, outline, left, top)
        if all(is_apart(thing, other) for other in others):
            return thing
    return None


def is_apart(first: Thing, second: Thing) -> bool:
    """Whether the bounding squares keep a gap."""
    return (
        first.left >= second.left + second.form.size + _GAP
        or second.left >= first.left + first.form.size + _GAP
        or first.top >= second.top + second.form.size + _GAP
        or second.top >= first.top + first.form.size + _GAP
    )


def compose_at(color: str, shape: str, cell: tuple[int, int], scene: Scene, rng: random.Random) -> Scene | None:
    """`scene` with one more thing whose centre lies clearly in `cell` (row, column), or None where there is no room."""
    row, column = cell
    side = min(scene.width, scene.height)
    for _ in range(12):
        fill = colors.shade(color, rng)
        if colors.distance(fill, scene.paper) < colors.MIN_CONTRAST:
            continue
        size = rng.randint(_SMALLEST, max(_SMALLEST, int(0.31 * side)))
        x = (column + rng.uniform(0.16, 0.84)) / 3 * scene.width
        y = (row + rng.uniform(0.16, 0.84)) / 3 * scene.height
        left, top = int(x - size / 2), int(y - size / 2)
        if left < 1 or top < 1 or left + size >= scene.width or top + size >= scene.height:
            continue
        thing = Thing(shape, color, shapes.form(shape, size, rng), fill, None, left, top)
        if all(is_apart(thing, other) for other in scene.things):
            return Scene(scene.width, scene.height, scene.paper, (*scene.things, thing))
    return None
