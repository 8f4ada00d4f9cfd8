"""Fonts to draw with: every DejaVu and Liberation face found on the machine, and Pillow's own."""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

PILLOW = "Pillow's default"
FOLDERS = ("/usr/share/fonts", "/usr/local/share/fonts", "/Library/Fonts", "~/.fonts", "~/.local/share/fonts")
FAMILIES = ("DejaVuSans", "DejaVuSerif", "LiberationSans", "LiberationSerif", "LiberationMono")
_LEFT_OUT = ("ExtraLight", "MathTeX")
LOOK_ALIKES = ("I", "l", "|", "O", "0", "o", "1")


class FontError(ValueError):
    """No font to draw with."""


def find(folders: Sequence[str | Path] = FOLDERS) -> tuple[str, ...]:
    """Paths of the known faces under `folders`, in name order, each once, and `PILLOW`.

    Raises:
        FontError: not one face was found.
    """
    found: dict[str, str] = {}
    for folder in folders:
        for path in sorted(Path(os.path.expanduser(folder)).rglob("*.ttf")):
            if path.stem.startswith(FAMILIES) and not any(part in path.stem for part in _LEFT_OUT):
                found.setdefault(path.stem, str(path))
    if not found:
        raise FontError(
            f"expected DejaVu or Liberation fonts under {', '.join(map(str, folders))}, found none; "
            "install them (Debian: fonts-dejavu, fonts-liberation) or name their folder with --fonts"
        )
    return (*(found[stem] for stem in sorted(found)), PILLOW)


@lru_cache(maxsize=4000)
def load(face: str, size: int) -> ImageFont.FreeTypeFont:
    """The face at `size` pixels.

    Raises:
        FontError: this Pillow has no FreeType.
    """
    if face == PILLOW:
        font = ImageFont.load_default(size)
        if not isinstance(font, ImageFont.FreeTypeFont):
            raise FontError("expected Pillow with FreeType, got one without; install a complete Pillow")
        return font
    return ImageFont.truetype(face, size, layout_engine=ImageFont.Layout.BASIC)


@lru_cache(maxsize=200)
def look_alikes(face: str) -> frozenset[str]:
    """Characters that this face draws (nearly) like another one, so that a string without sense would be ambiguous."""
    font = load(face, 32)
    same = set()
    boxes = {character: _outline(character, font) for character in LOOK_ALIKES}
    for first, (one, ink) in boxes.items():
        for second, (two, other_ink) in boxes.items():
            same_width = abs((one[2] - one[0]) - (two[2] - two[0])) <= 1
            aligned = same_width and abs(one[1] - two[1]) <= 1 and abs(one[3] - two[3]) <= 1
            if first < second and aligned and _difference(ink, other_ink) < 0.1:
                same |= {first, second}
    return frozenset(same)


def _outline(character: str, font: ImageFont.FreeTypeFont) -> tuple[tuple[int, int, int, int], bytes]:
    """The drawn character's box, and its ink stretched to one size."""
    image = Image.new("L", (48, 48), 0)
    ImageDraw.Draw(image).text((8, 4), character, font=font, fill=255)
    box = image.getbbox() or (0, 0, 48, 48)
    return box, image.crop(box).resize((24, 24)).tobytes()


def _difference(first: bytes, second: bytes) -> float:
    return sum(abs(a - b) for a, b in zip(first, second)) / (255 * len(first))
