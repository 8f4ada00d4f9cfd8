"""Masks of the four shapes."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass
from functools import lru_cache

from PIL import Image, ImageDraw

SHAPES = ("circle", "square", "triangle", "star")
_SUPERSAMPLING = 4


@dataclass(frozen=True)
class Form:
    """What a shape looks like apart from its colour. `size` is the side of its bounding square in pixels."""

    shape: str
    size: int
    angle: int  # degrees
    waist: int  # inner radius of a star, or height of a triangle, in percent of the outer radius or of the side
    smooth: bool  # antialiased


def form(shape: str, size: int, rng: random.Random) -> Form:
    """A random form of `shape`: mostly upright, sometimes turned, but never so that it could be taken for another."""
    angle, waist = 0, 0
    if shape == "square" and rng.random() < 0.15:
        angle = rng.choice((-15, -10, -5, 5, 10, 15))
    elif shape == "triangle":
        waist = rng.choice((87, 87, 100, 100, 92, 80))
        if rng.random() < 0.25:
            angle = rng.choice((180, 180, 90, 270, 15, 345))
    elif shape == "star":
        waist = rng.choice((38, 38, 40, 45, 50))
        if rng.random() < 0.3:
            angle = rng.choice((12, 24, 36, 348, 180))
    return Form(shape, size, angle, waist, rng.random() < 0.5)


def _points(form: Form, side: float) -> list[tuple[float, float]]:
    centre, radius = side / 2, side / 2
    turn = math.radians(form.angle)
    if form.shape == "star":
        corners = [
            (centre + radius * r * math.sin(a), centre - radius * r * math.cos(a))
            for k in range(10)
            for r, a in [(1.0 if k % 2 == 0 else form.waist / 100, math.pi * k / 5 + turn)]
        ]
        return corners
    if form.shape == "square":
        half = radius / (abs(math.cos(turn)) + abs(math.sin(turn)))
        base = [(-half, -half), (half, -half), (half, half), (-half, half)]
    else:
        height = side * form.waist / 100
        base = [(0.0, -height / 2), (radius, height / 2), (-radius, height / 2)]
        if form.angle % 90:
            base = [(x * 0.85, y * 0.85) for x, y in base]
    cosine, sine = math.cos(turn), math.sin(turn)
    return [(centre + x * cosine - y * sine, centre + x * sine + y * cosine) for x, y in base]


@lru_cache(maxsize=20000)
def mask(form: Form) -> Image.Image:
    """The form's coverage as an 8-bit image of `size` x `size`, 255 inside. Treat it as read-only."""
    factor = _SUPERSAMPLING if form.smooth else 1
    side = form.size * factor
    image = Image.new("L", (side, side), 0)
    draw = ImageDraw.Draw(image)
    if form.shape == "circle":
        draw.ellipse((0, 0, side - 1, side - 1), fill=255)
    else:
        draw.polygon(_points(form, side - 1), fill=255)
    return image.reduce(factor) if form.smooth else image
