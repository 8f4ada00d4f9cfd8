"""Pictures drawn without any code of the recipe, to judge the demo model on what others would draw.

Plain Pillow calls, common fonts, named colours. Gives (task, images, questions, answers).
"""

from __future__ import annotations

import math
import random
import string
from collections.abc import Callable
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

Item = tuple[str, list[Image.Image], list[str], list[str]]

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
PHRASE_WORDS = [
    *WORDS,
    "Open",
    "Closed",
    "Exit",
    "Sale",
    "Total",
    "Room",
    "Street",
    "Garden",
    "Blue",
    "Fresh",
    "New",
    "Day",
]
INKS = [
    ("black", "white"),
    ("black", "white"),
    ("white", "black"),
    ("white", "navy"),
    ("darkblue", "white"),
    ("red", "white"),
    ("yellow", "black"),
    ("black", "lightgray"),
    ("white", "darkgreen"),
    ("black", "yellow"),
    ("maroon", "beige"),
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
    return "color", [scatter(things, rng)], [f"What color is the {shape}?"], [color]


def describe_item(rng: random.Random) -> Item:
    color, shape = rng.choice(COLORS), rng.choice(SHAPES)
    return "describe", [scatter([(color, shape)], rng)], ["Describe the image."], [f"{color} {shape}"]


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
    return "count", [scatter(things, rng)], [f"How many {noun} are there?"], [str(number)]


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
    return "where", [image], [f"Where is the {kinds[0][0]} {kinds[0][1]}?"], [PLACES[cells[0]]]


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
    return "more", images, [f"Which image has more {shape}s?"], [answer]


def sum_item(rng: random.Random) -> Item:
    a = rng.randint(0, 99)
    b = rng.randint(0, 99 - a)
    return "sum", [], [f"What is {a} + {b}?"], [str(a + b)]


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
    return "read", [image], ["Read the text."], [text]


def typeface(faces: list[str], size: int, rng: random.Random) -> ImageFont.FreeTypeFont:
    face = rng.choice([*faces, None])
    return ImageFont.load_default(size) if face is None else ImageFont.truetype(face, size)


def phrase(rng: random.Random) -> str:
    """A line of at most 16 characters."""
    while True:
        kind = rng.random()
        if kind < 0.45:
            words = [rng.choice(PHRASE_WORDS) for _ in range(rng.randint(1, 3))]
            text = " ".join(rng.choice([w, w.lower(), w.upper()]) for w in words) + rng.choice(
                ["", "", "", ".", "!", "?"]
            )
        elif kind < 0.6:
            text = rng.choice(["${}", "{}", "{} EUR", "Price: {}"]).format(
                f"{rng.randint(0, 999)}.{rng.randint(0, 99):02d}"
            )
        elif kind < 0.75:
            text = f"{rng.choice(PHRASE_WORDS)} {rng.randint(0, 9999)}"
        else:
            alphabet = [c for c in string.ascii_letters + string.digits if c not in "IlO0"]
            text = "".join(rng.choice(alphabet) for _ in range(rng.randint(3, 16)))
        if len(text) <= 16:
            return text


def page_item(task: str, most: int, sizes: tuple[int, int], rng: random.Random, faces: list[str]) -> Item:
    """One to `most` lines on a canvas of 96x96 to 448x448, at most 3:1, chosen before the text."""
    while True:
        width, height = rng.randint(96, 448), rng.randint(96, 448)
        if max(width, height) > 3 * min(width, height):
            continue
        font = typeface(faces, rng.randint(*sizes), rng)
        text = "\n".join(phrase(rng) for _ in range(rng.randint(1, most)))
        ink, paper = rng.choice(INKS)
        image = Image.new("RGB", (width, height), paper)
        draw = ImageDraw.Draw(image)
        align, spacing = rng.choice(["left", "left", "center"]), rng.randint(4, 14)
        box = draw.multiline_textbbox((0, 0), text, font=font, align=align, spacing=spacing)
        free_x, free_y = width - box[2] - 4, height - box[3] - 4
        if free_x < 4 or free_y < 2:
            continue
        corner = rng.choice([(4, 2), (free_x // 2, free_y // 2), (rng.randint(4, free_x), rng.randint(2, free_y))])
        draw.multiline_text(corner, text, font=font, fill=ink, align=align, spacing=spacing)
        return task, [image], ["Read the text."], [text]


def chart_item(task: str, rng: random.Random, faces: list[str]) -> Item:
    """A chart of three to five bars with labels below and values above."""
    while True:
        number = rng.randint(3, 5)
        labels = rng.choice([list("ABCDE"), ["Mon", "Tue", "Wed", "Thu", "Fri"], ["Q1", "Q2", "Q3", "Q4", "Q5"]])[
            :number
        ]
        if rng.random() < 0.3:
            labels = [
                name.capitalize() for name in rng.sample(["apple", "pear", "kiwi", "plum", "fig", "lime"], number)
            ]
        values = rng.sample(range(5, 100), number)
        ordered = sorted(values)
        if ordered[-1] - ordered[-2] < 8:
            continue
        width, height = rng.choice([(300, 200), (320, 240), (400, 300), (448, 336), (256, 256), (448, 448)])
        font = typeface(faces, rng.randint(14, 20), rng)
        slot = (width - 20) / number
        if max(font.getlength(label) for label in labels) > slot - 2:
            continue
        image = Image.new("RGB", (width, height), "white")
        draw = ImageDraw.Draw(image)
        color = rng.choice(["steelblue", "orange", "green", "tomato", "purple", "gray"])
        floor = height - 30
        for index, (label, value) in enumerate(zip(labels, values)):
            left = 10 + slot * index + slot * 0.15
            top = floor - (floor - 40) * value / 100
            draw.rectangle([left, top, left + slot * 0.7, floor], fill=color)
            middle = left + slot * 0.35
            draw.text((middle, floor + 4), label, font=font, fill="black", anchor="ma")
            draw.text((middle, top - 3), str(value), font=font, fill="black", anchor="md")
        draw.line([5, floor, width - 5, floor], fill="black")
        if task == "tallest":
            return task, [image], ["Which bar is tallest?"], [labels[values.index(max(values))]]
        index = rng.randrange(number)
        return task, [image], [f"What is the value of {labels[index]}?"], [str(values[index])]


def receipt_item(task: str, rng: random.Random, faces: list[str]) -> Item:
    """Two to four things, prices on the right, the total last."""
    goods = ["Coffee", "Tea", "Bread", "Butter", "Croissant", "Milk", "Apple Pie", "Sandwich", "Juice", "Cake", "Water"]
    while True:
        names = rng.sample(goods, rng.randint(2, 4))
        cents = [rng.randint(50, 1999) for _ in names]
        font = typeface(faces, rng.randint(15, 24), rng)
        width, height = rng.choice([(224, 224), (300, 200), (280, 320), (320, 320), (260, 400), (400, 300)])
        step = round(font.size * rng.uniform(1.3, 1.7))
        rows = [*zip(names, cents), (rng.choice(["Total", "TOTAL"]), sum(cents))]
        widest = max(font.getlength(name) for name, _ in rows) + font.getlength("88.88") + 40
        if widest > width or step * len(rows) + 30 > height:
            continue
        image = Image.new("RGB", (width, height), rng.choice(["white", "white", "ivory", "whitesmoke"]))
        draw = ImageDraw.Draw(image)
        for index, (name, price) in enumerate(rows):
            y = 15 + step * index
            draw.text((12, y), name, font=font, fill="black")
            draw.text((width - 12, y), f"{price / 100:.2f}", font=font, fill="black", anchor="ra")
        if task == "total":
            return task, [image], ["What is the total?"], [f"{sum(cents) / 100:.2f}"]
        listed = ", ".join(f'{{"name": "{name}", "price": {price / 100:.2f}}}' for name, price in zip(names, cents))
        answer = f'{{"items": [{listed}], "total": {sum(cents) / 100:.2f}}}'
        return task, [image], ["Give the receipt as JSON."], [answer]


def placed(things: dict[int, tuple[str, str]], size: tuple[int, int], paper: str, r: float) -> Image.Image:
    """The things in the middle of cells 0 to 8."""
    image = Image.new("RGB", size, paper)
    for cell, (color, shape) in things.items():
        x, y = (cell % 3 + 0.5) * size[0] / 3, (cell // 3 + 0.5) * size[1] / 3
        put(ImageDraw.Draw(image), shape, color, x, y, r)
    return image


def changed_item(rng: random.Random) -> Item:
    cells = rng.sample(range(9), rng.randint(2, 5))
    kinds = rng.sample([(c, s) for c in COLORS for s in SHAPES], len(cells))
    before = dict(zip(cells, kinds))
    after, cell = dict(before), cells[0]
    (color, shape), change = kinds[0], rng.choice(["moved", "turned", "added", "removed"])
    empty = rng.choice([c for c in range(9) if c not in before])
    others = [c for c in COLORS if (c, shape) not in kinds]
    new = rng.choice(others)
    if change == "moved":
        after[empty] = after.pop(cell)
        answer = f"The {color} {shape} moved from {PLACES[cell]} to {PLACES[empty]}."
    elif change == "turned":
        after[cell] = (new, shape)
        answer = f"The {color} {shape} turned {new}."
    elif change == "added":
        after[empty] = (new, shape)
        answer = f"{'An' if new == 'orange' else 'A'} {new} {shape} was added."
    else:
        del after[cell]
        answer = f"The {color} {shape} was removed."
    size = rng.choice([(224, 224), (300, 300), (320, 240), (400, 300), (448, 448)])
    paper = paper_for([c for c, _ in [*before.values(), *after.values()]], rng)
    r = rng.uniform(0.07, 0.14) * min(size)
    return "changed", [placed(things, size, paper, r) for things in (before, after)], ["What changed?"], [answer]


def turns_item(rng: random.Random) -> Item:
    """Three questions about one picture; the last one is judged."""
    cells = rng.sample(range(9), rng.randint(2, 4))
    shapes = rng.sample(SHAPES, len(cells))
    things = {cell: (rng.choice(COLORS), shape) for cell, shape in zip(cells, shapes)}
    size = rng.choice(SIZES)
    image = placed(things, size, paper_for([c for c, _ in things.values()], rng), rng.uniform(0.07, 0.14) * min(size))
    asked = [(f"What color is the {shape}?", color) for color, shape in things.values()]
    asked += [(f"Where is the {shape}?", PLACES[cell]) for cell, (_, shape) in things.items()]
    asked += [("How many shapes are there?", str(len(things)))]
    chosen = rng.sample(asked, 3)
    return "turns", [image], [question for question, _ in chosen], [answer for _, answer in chosen]


def items(number: int, seed: int, folders: list[str], tasks: list[str] | None = None) -> list[Item]:
    """`number` items of each task, or of those named."""
    faces = fonts(folders)
    makers: dict[str, Callable[[random.Random], Item]] = {
        "color": color_item,
        "describe": describe_item,
        "count": count_item,
        "where": where_item,
        "more": more_item,
        "changed": changed_item,
        "turns": turns_item,
        "sum": sum_item,
        "read": lambda rng: read_item(rng, faces),
        "line": lambda rng: page_item("line", 1, (18, 48), rng, faces),
        "lines": lambda rng: page_item("lines", 3, (14, 48), rng, faces),
        "tallest": lambda rng: chart_item("tallest", rng, faces),
        "value": lambda rng: chart_item("value", rng, faces),
        "receipt": lambda rng: receipt_item("receipt", rng, faces),
        "total": lambda rng: receipt_item("total", rng, faces),
    }
    made = []
    for name in tasks or makers:
        rng = random.Random(f"{seed}/{name}")
        made += [makers[name](rng) for _ in range(number)]
    return made
