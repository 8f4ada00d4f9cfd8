"""Pictures drawn without any code of the recipe, to judge the demo model on what others would draw.

Plain Pillow calls, common fonts, named colours. Gives (task, images, question, answer).
"""

from __future__ import annotations

import math
import random
import string
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

Item = tuple[str, list[Image.Image], str, str]

COLORS = ["red", "green", "blue", "yellow", "orange", "purple", "black", "white", "gray"]
SHAPES = ["circle", "square", "triangle", "star"]
PLACES = ["top left", "top", "top right", "left", "center", "right", "bottom left", "bottom", "bottom right"]
LIGHT = ["white", "white", "white", "lightblue", "beige", "lightyellow", "lightgray"]
SIZES = [(224, 224), (256, 256), (300, 200), (320, 240), (336, 336), (400, 300), (448, 448), (512, 512), (640, 480)]
WORDS = [
    "Hello",
    "World",
    "Python",
    "Apple",
    "Green",
    "House",
    "Table",
    "Water",
    "Music",
    "Light",
    "Stone",
    "River",
    "Paper",
    "Happy",
    "Sunday",
    "Coffee",
    "Market",
]


def paper_for(colors: list[str], rng: random.Random) -> str:
    if "white" in colors:
        return "darkblue" if "blue" not in colors and "black" not in colors and "purple" not in colors else "tan"
    choices = [
        c for c in LIGHT if not (c == "lightgray" and "gray" in colors) and not ("yellow" in c and "yellow" in colors)
    ]
    return rng.choice(choices)


def put(draw: ImageDraw.ImageDraw, shape: str, color: str, x: float, y: float, r: float) -> None:
    if shape == "circle":
        draw.ellipse([x - r, y - r, x + r, y + r], fill=color)
    elif shape == "square":
        draw.rectangle([x - r, y - r, x + r, y + r], fill=color)
    elif shape == "triangle":
        draw.polygon([(x, y - r), (x - r, y + r), (x + r, y + r)], fill=color)
    else:
        points = []
        for i in range(10):
            radius = r if i % 2 == 0 else r * 0.4
            points.append((x + radius * math.sin(i * math.pi / 5), y - radius * math.cos(i * math.pi / 5)))
        draw.polygon(points, fill=color)


def scatter(things: list[tuple[str, str]], rng: random.Random) -> Image.Image:
    """The things on a jittered grid, no two in one cell."""
    width, height = rng.choice(SIZES)
    image = Image.new("RGB", (width, height), paper_for([color for color, _ in things], rng))
    draw = ImageDraw.Draw(image)
    side = max(1, math.ceil(math.sqrt(len(things)))) if len(things) != 2 else 2
    cells = [(i, j) for i in range(side) for j in range(side)]
    rng.shuffle(cells)
    for (color, shape), (i, j) in zip(things, cells):
        cell_w, cell_h = width / side, height / side
        r = rng.uniform(0.22, 0.38) * min(cell_w, cell_h)
        r = min(r, 0.2 * min(width, height))
        x = (j + 0.5) * cell_w + rng.uniform(-0.1, 0.1) * cell_w
        y = (i + 0.5) * cell_h + rng.uniform(-0.1, 0.1) * cell_h
        put(draw, shape, color, x, y, r)
    return image


def color_item(rng: random.Random) -> Item:
    shapes = rng.sample(SHAPES, rng.randint(1, 3))
    things = [(rng.choice(COLORS), shape) for shape in shapes]
    color, shape = things[0]
    return "color", [scatter(things, rng)], f"What color is the {shape}?", color


def describe_item(rng: random.Random) -> Item:
    color, shape = rng.choice(COLORS), rng.choice(SHAPES)
    return "describe", [scatter([(color, shape)], rng)], "Describe the image.", f"{color} {shape}"


def count_item(rng: random.Random) -> Item:
    number, shape = rng.randint(0, 9), rng.choice(SHAPES)
    kind = rng.choice(["shape", "color", "all"])
    if kind == "all":
        things = [(rng.choice(COLORS), rng.choice(SHAPES)) for _ in range(max(1, number))]
        number, noun = len(things), "shapes"
    else:
        color = rng.choice(COLORS)
        noun = f"{shape}s" if kind == "shape" else f"{color} {shape}s"
        things = [(color if kind == "color" else rng.choice(COLORS), shape) for _ in range(number)]
        others = [s for s in SHAPES if s != shape]
        things += [(rng.choice(COLORS), rng.choice(others)) for _ in range(rng.randint(0 if number else 1, 3))]
    return "count", [scatter(things, rng)], f"How many {noun} are there?", str(number)


def where_item(rng: random.Random) -> Item:
    width, height = rng.choice(SIZES)
    number = rng.randint(1, 4)
    kinds = rng.sample([(c, s) for c in COLORS for s in SHAPES], number)
    image = Image.new("RGB", (width, height), paper_for([color for color, _ in kinds], rng))
    draw = ImageDraw.Draw(image)
    cells = rng.sample(range(9), number)
    for (color, shape), cell in zip(kinds, cells):
        x, y = (cell % 3 + 0.5) * width / 3, (cell // 3 + 0.5) * height / 3
        put(draw, shape, color, x, y, rng.uniform(0.06, 0.14) * min(width, height))
    return "where", [image], f"Where is the {kinds[0][0]} {kinds[0][1]}?", PLACES[cells[0]]


def more_item(rng: random.Random) -> Item:
    shape = rng.choice(SHAPES)
    others = [s for s in SHAPES if s != shape]
    counts, images = [], []
    for _ in range(2):
        counts.append(rng.randint(0, 6) if not counts or rng.random() < 0.7 else counts[0])
        things = [(rng.choice(COLORS), shape) for _ in range(counts[-1])]
        things += [(rng.choice(COLORS), rng.choice(others)) for _ in range(rng.randint(0 if things else 1, 2))]
        images.append(scatter(things, rng))
    answer = "equal" if counts[0] == counts[1] else "the first" if counts[0] > counts[1] else "the second"
    return "more", images, f"Which image has more {shape}s?", answer


def sum_item(rng: random.Random) -> Item:
    a = rng.randint(0, 99)
    b = rng.randint(0, 99 - a)
    return "sum", [], f"What is {a} + {b}?", str(a + b)


def fonts(folders: list[str]) -> list[str]:
    names = ["DejaVuSans", "DejaVuSans-Bold", "DejaVuSerif", "DejaVuSansMono", "LiberationSans-Regular"]
    names += ["LiberationSans-Bold", "LiberationSerif-Regular", "LiberationMono-Regular"]
    return [str(path) for folder in folders for name in names for path in sorted(Path(folder).rglob(f"{name}.ttf"))[:1]]


def read_item(rng: random.Random, faces: list[str]) -> Item:
    kind = rng.random()
    if kind < 0.4:
        text = rng.choice(WORDS)
        text = rng.choice([text, text.upper(), text.lower()])
    elif kind < 0.6:
        text = rng.choice(
            [f"${rng.randint(1, 99)}.{rng.randint(0, 99):02d}", str(rng.randint(0, 99999)), f"{rng.randint(1, 12)}:30"]
        )
    else:
        # I, l and O, 0 look the same in some of these fonts
        alphabet = [c for c in string.ascii_letters + string.digits if c not in "IlO0"]
        text = "".join(rng.choice(alphabet) for _ in range(rng.randint(3, 8)))
    size = rng.randint(24, 48)
    face = rng.choice([*faces, None])
    font = ImageFont.load_default(size) if face is None else ImageFont.truetype(face, size)
    ink, paper = rng.choice(
        [
            ("black", "white"),
            ("black", "white"),
            ("white", "black"),
            ("darkblue", "white"),
            ("red", "white"),
            ("yellow", "black"),
            ("black", "lightgray"),
            ("white", "darkgreen"),
        ]
    )
    box = font.getbbox(text)
    width, height = box[2] + 20, box[3] + 20
    layout = rng.random()
    if layout < 0.3:
        width, height = max(width, 320), max(height, 96)
    elif layout < 0.5:
        width, height = max(width, 256), max(height, 256)
    elif layout < 0.6:
        width, height = max(width, 448), max(height, 224)
    image = Image.new("RGB", (width, height), paper)
    corner = (10, 10) if rng.random() < 0.5 else ((width - box[2]) // 2, (height - box[3]) // 2)
    ImageDraw.Draw(image).text(corner, text, font=font, fill=ink)
    return "read", [image], "Read the text.", text


def items(number: int, seed: int, folders: list[str]) -> list[Item]:
    """`number` items of each task."""
    rng = random.Random(seed)
    faces = fonts(folders)
    makers = [color_item, describe_item, count_item, where_item, more_item, sum_item, lambda r: read_item(r, faces)]
    return [maker(rng) for maker in makers for _ in range(number)]
