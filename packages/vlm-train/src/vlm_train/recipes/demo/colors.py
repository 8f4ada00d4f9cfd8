"""The nine colours the model names: how each may look, and which backgrounds leave it plainly visible."""

from __future__ import annotations

import colorsys
import random

Rgb = tuple[int, int, int]

COLORS = ("red", "green", "blue", "yellow", "orange", "purple", "black", "white", "gray")

# The CSS values, which most programs draw with.
CANONICAL: dict[str, tuple[Rgb, ...]] = {
    "red": ((255, 0, 0), (220, 20, 60), (200, 30, 30)),
    "green": ((0, 128, 0), (0, 255, 0), (34, 139, 34), (0, 160, 60)),
    "blue": ((0, 0, 255), (30, 90, 220), (65, 105, 225), (30, 144, 255)),
    "yellow": ((255, 255, 0), (255, 221, 0), (250, 220, 40)),
    "orange": ((255, 165, 0), (255, 140, 0), (240, 130, 20)),
    "purple": ((128, 0, 128), (160, 32, 240), (140, 40, 170)),
    "black": ((0, 0, 0), (10, 10, 10)),
    "white": ((255, 255, 255), (250, 250, 250)),
    "gray": ((128, 128, 128), (140, 140, 140), (105, 105, 105)),
}

# Hue in degrees, saturation and value in percent: wide, yet no two names meet.
RANGES: dict[str, tuple[tuple[int, int], tuple[int, int], tuple[int, int]]] = {
    "red": ((-12, 7), (78, 100), (72, 100)),
    "green": ((95, 150), (60, 100), (42, 100)),
    "blue": ((207, 245), (68, 100), (60, 100)),
    "yellow": ((50, 62), (72, 100), (86, 100)),
    "orange": ((23, 39), (85, 100), (85, 100)),
    "purple": ((272, 303), (55, 100), (45, 92)),
    "black": ((0, 360), (0, 15), (0, 11)),
    "white": ((0, 360), (0, 3), (95, 100)),
    "gray": ((0, 360), (0, 5), (40, 62)),
}

# tan, dark blue, light green, pink, sky blue, wheat, khaki, silver, dark green, brown, teal, navy, lavender, beige,
# light blue, coral, maroon, light yellow, slate
PAPERS: tuple[Rgb, ...] = (
    (210, 180, 140),
    (0, 0, 139),
    (144, 238, 144),
    (255, 192, 203),
    (135, 206, 235),
    (245, 222, 179),
    (240, 230, 140),
    (192, 192, 192),
    (0, 100, 0),
    (139, 69, 19),
    (0, 128, 128),
    (0, 0, 128),
    (230, 230, 250),
    (245, 245, 220),
    (173, 216, 230),
    (255, 127, 80),
    (128, 0, 0),
    (255, 255, 224),
    (47, 79, 79),
)

MIN_CONTRAST = 105.0  # Euclidean, in RGB


def shade(name: str, rng: random.Random) -> Rgb:
    """One of the ways the colour `name` may look."""
    if rng.random() < 0.5:
        return rng.choice(CANONICAL[name])
    hue, saturation, value = (rng.uniform(*limits) for limits in RANGES[name])
    red, green, blue = colorsys.hsv_to_rgb(hue % 360 / 360, saturation / 100, value / 100)
    return round(red * 255), round(green * 255), round(blue * 255)


def distance(first: Rgb, second: Rgb) -> float:
    """Euclidean distance in RGB."""
    return float(sum((a - b) ** 2 for a, b in zip(first, second, strict=True)) ** 0.5)


def background(rng: random.Random) -> Rgb:
    """A plain background: white often, else a light tint, a light gray, a dark tone, a named colour or any colour."""
    kind = rng.random()
    if kind < 0.36:
        return (255, 255, 255)
    if kind < 0.46:
        return rng.choice(PAPERS)
    if kind < 0.52:
        return rng.randint(0, 255), rng.randint(0, 255), rng.randint(0, 255)
    if kind < 0.6:
        level = rng.randint(235, 254)
        return (level, level, level)
    if kind < 0.78:
        return rng.randint(215, 255), rng.randint(215, 255), rng.randint(205, 255)
    if kind < 0.84:
        level = rng.randint(205, 234)
        return (level, level, level)
    if kind < 0.92:
        return (0, 0, 0)
    return rng.randint(0, 55), rng.randint(0, 55), rng.randint(0, 75)


def luminance(rgb: Rgb) -> float:
    """Perceived lightness, 0 to 255 (Rec. 601 weights)."""
    return 0.299 * rgb[0] + 0.587 * rgb[1] + 0.114 * rgb[2]


def ink_and_paper(rng: random.Random) -> tuple[Rgb, Rgb]:
    """Colours of a line of text and its background: dark on light, light on dark or coloured, at least 90 apart in lightness."""
    while True:
        kind = rng.random()
        if kind < 0.4:
            dark = rng.randint(0, 60)
            pair = (dark, dark, dark), background(rng)
        elif kind < 0.55:
            light = rng.randint(200, 255)
            pair = (light, light, light), (rng.randint(0, 70), rng.randint(0, 70), rng.randint(0, 90))
        elif kind < 0.85:
            pair = shade(rng.choice(COLORS), rng), background(rng)
        else:
            pair = (
                (rng.randint(0, 255), rng.randint(0, 255), rng.randint(0, 255)),
                (rng.randint(0, 255), rng.randint(0, 255), rng.randint(0, 255)),
            )
        if abs(luminance(pair[0]) - luminance(pair[1])) >= 90:
            return pair
