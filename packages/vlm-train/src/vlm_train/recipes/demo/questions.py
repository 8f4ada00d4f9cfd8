"""What is asked about a picture, what the model thinks, and what it answers."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import dataclass

from vlm_train.recipes.demo.charts import Chart
from vlm_train.recipes.demo.colors import COLORS
from vlm_train.recipes.demo.receipts import Receipt, money
from vlm_train.recipes.demo.scenes import Scene, Thing
from vlm_train.recipes.demo.shapes import SHAPES

NUMBERS = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve")

# The first wording is the canonical one.
WORDINGS: dict[str, tuple[str, ...]] = {
    "describe": (
        "Describe the image.",
        "Describe this image.",
        "Describe the picture.",
        "Describe what you see.",
        "What is in the image?",
        "What is in this picture?",
        "What do you see?",
        "Tell me what the picture shows.",
    ),
    "color": (
        "What color is the {shape}?",
        "What colour is the {shape}?",
        "What is the color of the {shape}?",
        "Which color does the {shape} have?",
        "Which color is the {shape}?",
        "Tell me the color of the {shape}.",
        "The {shape} is what color?",
    ),
    "shape": (
        "What shape is {color}?",
        "Which shape is {color}?",
        "What is the {color} shape?",
        "What shape is the {color} object?",
        "Name the {color} shape.",
    ),
    "count": (
        "How many {plural} are there?",
        "How many {plural} do you see?",
        "How many {plural} are in the image?",
        "How many {plural} are in the picture?",
        "How many {plural} does the image show?",
        "Count the {plural}.",
        "What is the number of {plural}?",
    ),
    "where": (
        "Where is the {thing}?",
        "Where in the image is the {thing}?",
        "Where in the picture is the {thing}?",
        "What is the position of the {thing}?",
        "In which part of the image is the {thing}?",
        "Tell me where the {thing} is.",
    ),
    "read": (
        "Read the text.",
        "Read this text.",
        "What does the text say?",
        "What is written here?",
        "What text is in the image?",
        "What does it say?",
        "Transcribe the text.",
        "Write down the text.",
    ),
    "more": (
        "Which image has more {plural}?",
        "Which picture has more {plural}?",
        "Which image contains more {plural}?",
        "Which image shows more {plural}?",
        "In which image are there more {plural}?",
        "Where are there more {plural}?",
    ),
    "each": (
        "How many {plural} are in the {place} image?",
        "How many {plural} does the {place} image show?",
        "Count the {plural} in the {place} picture.",
    ),
    "changed": ("What changed?", "What has changed?", "What is different?", "What is the difference?"),
    "tallest": ("Which bar is tallest?", "Which bar is the tallest?", "Which bar is highest?", "Name the tallest bar."),
    "shortest": (
        "Which bar is shortest?",
        "Which bar is the shortest?",
        "Which bar is lowest?",
        "Name the shortest bar.",
    ),
    "value": ("What is the value of {label}?", "What value does {label} have?", "Tell me the value of {label}."),
    "bars": ("How many bars are there?", "How many bars do you see?", "Count the bars."),
    "receipt": (
        "Give the receipt as JSON.",
        "Give this receipt as JSON.",
        "Write the receipt as JSON.",
        "Receipt as JSON.",
    ),
    "total": ("What is the total?", "How much is the total?", "What is the total price?", "Tell me the total."),
    "price": ("What is the price of {name}?", "How much is {name}?", "What is the price of the {name}?"),
    "compare": ("Compare these images.", "Compare the images.", "Describe the images.", "Compare the two images."),
    "hello": ("Say hello.", "Say hello!", "Say hi.", "Hello!", "Hello", "Hi", "Greet me.", "Please say hello."),
    "greeting": ("Hello, how are you?", "How are you?", "Hello, how are you", "Hi, how are you?"),
    "identity": ("Who are you?", "What are you?", "What is your name?", "Tell me about you."),
    "ability": ("What can you do?", "What do you know?", "How can you help me?", "Help", "Help me."),
    "thanks": ("Thank you.", "Thanks!", "Thank you!", "Thanks."),
    "sum": (
        "What is {a} + {b}?",
        "What is {a}+{b}?",
        "{a} + {b} = ?",
        "{a}+{b}=",
        "Add {a} and {b}.",
        "What is {a} plus {b}?",
        "Solve {a}+{b}",
        "Solve {a} + {b}.",
        "How much is {a} + {b}?",
        "What is the sum of {a} and {b}?",
    ),
}

FIXED_ANSWERS = {
    "hello": "Hello!",
    "greeting": "Hello! I am fine, thank you.",
    "identity": "I am a small demo model. I look at simple pictures.",
    "ability": "I can describe simple shapes, count them, tell where they are, read short text, compare two images and "
    "add small numbers.",
    "thanks": "You are welcome.",
}


@dataclass(frozen=True)
class Exchange:
    """A question, the thought that leads to the answer (lines, each ending in a newline), and the answer."""

    task: str
    question: str
    thought: str
    answer: str
    is_verbatim: bool = False  # the answer is text read from a picture, spelled character by character


def wording(task: str, rng: random.Random, canonical: bool) -> str:
    """A wording of the task's question with its placeholders; the canonical one, or any."""
    choices = WORDINGS[task]
    if canonical or rng.random() < 0.3:
        return choices[0]
    text = rng.choice(choices)
    loose = rng.random()
    if loose < 0.05:
        text = text.lower() if "{" not in text else text[0].lower() + text[1:]
    elif loose < 0.1:
        text = text.rstrip("?.!")
    return text


def plural(kind: tuple[str | None, str | None]) -> str:
    """`circles`, `red circles`, `red shapes` or `shapes` for (colour or None, shape or None)."""
    color, shape = kind
    noun = f"{shape}s" if shape else "shapes"
    return f"{color} {noun}" if color else noun


def matches(thing: Thing, kind: tuple[str | None, str | None]) -> bool:
    return kind[0] in (None, thing.color) and kind[1] in (None, thing.shape)


def _counted(scene: Scene, kind: tuple[str | None, str | None]) -> list[Thing]:
    return [thing for thing in scene.in_order() if matches(thing, kind)]


def enumerate_things(scene: Scene, things: list[Thing]) -> str:
    """One numbered line per thing: `1: red circle, top left`."""
    if not things:
        return "none\n"
    return "".join(
        f"{number}: {thing.color} {thing.shape}, {scene.place(thing)}\n" for number, thing in enumerate(things, start=1)
    )


def describe(scene: Scene) -> str:
    """`A red circle, two blue squares and a green star.` by shape, then by colour."""
    counts = Counter((thing.shape, thing.color) for thing in scene.things)
    phrases = []
    for shape in SHAPES:
        for color in COLORS:
            number = counts[shape, color]
            if number == 1:
                phrases.append(f"{'an' if color == 'orange' else 'a'} {color} {shape}")
            elif number > 1:
                phrases.append(f"{NUMBERS[number]} {color} {shape}s")
    if not phrases:
        return "Nothing."
    text = phrases[0] if len(phrases) == 1 else f"{', '.join(phrases[:-1])} and {phrases[-1]}"
    return text[0].upper() + text[1:] + "."


def about_description(scene: Scene, rng: random.Random, canonical: bool = False) -> Exchange:
    thought = enumerate_things(scene, scene.in_order())
    return Exchange("describe", wording("describe", rng, canonical), thought, describe(scene))


def about_color(scene: Scene, rng: random.Random, canonical: bool = False) -> Exchange | None:
    """The colour of the only thing of its shape, or None where every shape stands more than once."""
    counts = Counter(thing.shape for thing in scene.things)
    unique = [thing for thing in scene.things if counts[thing.shape] == 1]
    if not unique:
        return None
    thing = rng.choice(unique)
    noun = "shape" if len(scene.things) == 1 and not canonical and rng.random() < 0.2 else thing.shape
    question = wording("color", rng, canonical).format(shape=noun)
    return Exchange("color", question, enumerate_things(scene, [thing]), thing.color)


def about_shape(scene: Scene, rng: random.Random, canonical: bool = False) -> Exchange | None:
    """The shape of the only thing of its colour, or None."""
    counts = Counter(thing.color for thing in scene.things)
    unique = [thing for thing in scene.things if counts[thing.color] == 1]
    if not unique:
        return None
    thing = rng.choice(unique)
    question = wording("shape", rng, canonical).format(color=_spelled(thing.color, rng, canonical))
    return Exchange("shape", question, enumerate_things(scene, [thing]), thing.shape)


def about_count(
    scene: Scene, rng: random.Random, kind: tuple[str | None, str | None] | None = None, canonical: bool = False
) -> Exchange | None:
    """How many things of a kind there are (0 to 9), or None where there are more."""
    if kind is None:
        present = rng.choice(scene.things) if scene.things and rng.random() < 0.7 else None
        color = present.color if present else rng.choice(COLORS)
        shape = present.shape if present else rng.choice(SHAPES)
        kind = rng.choice(((None, shape), (color, shape), (color, None), (None, None)))
    things = _counted(scene, kind)
    if len(things) > 9:
        return None
    spelled = (_spelled(kind[0], rng, canonical) if kind[0] else None, kind[1])
    question = wording("count", rng, canonical).format(plural=plural(spelled))
    return Exchange("count", question, enumerate_things(scene, things), str(len(things)))


def about_place(scene: Scene, rng: random.Random, canonical: bool = False) -> Exchange | None:
    """Where a thing is that a name singles out and that lies clearly in its cell, or None."""
    by_both = Counter((thing.color, thing.shape) for thing in scene.things)
    by_shape = Counter(thing.shape for thing in scene.things)
    clear = [thing for thing in scene.things if by_both[thing.color, thing.shape] == 1 and scene.is_clear(thing)]
    if not clear:
        return None
    thing = rng.choice(clear)
    name = f"{_spelled(thing.color, rng, canonical)} {thing.shape}"
    if not canonical and by_shape[thing.shape] == 1 and rng.random() < 0.35:
        name = thing.shape
    question = wording("where", rng, canonical).format(thing=name)
    return Exchange("where", question, enumerate_things(scene, [thing]), scene.place(thing))


def about_text(text: str, rng: random.Random, canonical: bool = False) -> Exchange:
    thought = "one line\n" if "\n" not in text else f"{NUMBERS[text.count(chr(10)) + 1]} lines\n"
    return Exchange("read", wording("read", rng, canonical), thought, text, is_verbatim=True)


def about_more(
    first: Scene, second: Scene, kind: tuple[str | None, str | None], rng: random.Random, canonical: bool = False
) -> Exchange:
    """Which of two pictures has more things of a kind."""
    one, two = len(_counted(first, kind)), len(_counted(second, kind))
    answer = "the first" if one > two else "the second" if two > one else "equal"
    spelled = (_spelled(kind[0], rng, canonical) if kind[0] else None, kind[1])
    question = wording("more", rng, canonical).format(plural=plural(spelled))
    return Exchange("more", question, f"first: {one}\nsecond: {two}\n", answer)


def about_each(
    first: Scene, second: Scene, kind: tuple[str | None, str | None], rng: random.Random, canonical: bool = False
) -> Exchange:
    """How many things of a kind one of two pictures shows."""
    place, scene = rng.choice((("first", first), ("second", second)))
    things = _counted(scene, kind)
    spelled = (_spelled(kind[0], rng, canonical) if kind[0] else None, kind[1])
    question = wording("each", rng, canonical).format(plural=plural(spelled), place=place)
    return Exchange("each", question, enumerate_things(scene, things), str(len(things)))


def about_both(first: Scene, second: Scene, rng: random.Random) -> Exchange:
    """What two pictures show, one after the other."""
    answer = f"The first image: {_lower(describe(first))} The second image: {_lower(describe(second))}"
    thought = f"first:\n{enumerate_things(first, first.in_order())}second:\n"
    return Exchange(
        "compare", wording("compare", rng, False), thought + enumerate_things(second, second.in_order()), answer
    )


def about_change(first: Scene, second: Scene, answer: str, rng: random.Random, canonical: bool = False) -> Exchange:
    """What differs between two pictures, one of which was made from the other."""
    thought = f"first:\n{enumerate_things(first, first.in_order())}second:\n"
    thought += enumerate_things(second, second.in_order())
    return Exchange("changed", wording("changed", rng, canonical), thought, answer)


def about_chart(chart: Chart, rng: random.Random, task: str, canonical: bool = False) -> Exchange:
    """`tallest`, `shortest`, `bars`, or `value` of a random bar (the chart must show its values)."""
    question = wording(task, rng, canonical)
    if chart.shows_values:
        thought = "".join(f"{label}: {value}\n" for label, value in zip(chart.labels, chart.values, strict=True))
    else:
        thought = f"bars: {len(chart.values)}\n"
    if task == "value":
        index = rng.randrange(len(chart.labels))
        question, answer = question.format(label=chart.labels[index]), str(chart.values[index])
        return Exchange(task, question, thought, answer, is_verbatim=True)
    if task == "bars":
        return Exchange(task, question, thought, str(len(chart.values)))
    return Exchange(task, question, thought, chart.tallest if task == "tallest" else chart.shortest, is_verbatim=True)


def about_receipt(receipt: Receipt, rng: random.Random, task: str, canonical: bool = False) -> Exchange:
    """`receipt` (all of it as JSON), `total`, or `price` of a random item."""
    question = wording(task, rng, canonical)
    thought = f"items: {len(receipt.items)}\n"
    if task == "receipt":
        return Exchange(task, question, thought, receipt.as_json())
    if task == "total":
        return Exchange(task, question, thought, money(receipt.total), is_verbatim=True)
    name, cents = rng.choice(receipt.items)
    return Exchange(task, question.format(name=name), thought, money(cents), is_verbatim=True)


def is_held_out(a: int, b: int) -> bool:
    """Whether the pair of summands is kept for evaluation and never trained on (one in ten)."""
    return (min(a, b) * 7919 + max(a, b) * 104729) % 1009 % 10 == 3


def about_sum(rng: random.Random, held_out: bool, canonical: bool = False) -> Exchange:
    """A sum below 100, of the trained or of the held-out pairs."""
    while True:
        total = rng.randint(0, 99)
        a = rng.randint(0, total) if rng.random() < 0.7 else rng.randint(0, 9)
        b = total - a if a <= total else rng.randint(0, 9)
        if is_held_out(a, b) == held_out:
            break
    ones = a % 10 + b % 10
    carry = f", carry {ones // 10}" if ones > 9 else ""
    tens = f"{a // 10} + {b // 10}" + (" + 1" if ones > 9 else "")
    thought = f"{a % 10} + {b % 10} = {ones}{carry}\n{tens} = {a // 10 + b // 10 + ones // 10}\n"
    return Exchange("sum", wording("sum", rng, canonical).format(a=a, b=b), thought, str(a + b))


def about_nothing(rng: random.Random, task: str | None = None, canonical: bool = False) -> Exchange:
    """Small talk without a picture."""
    task = task or rng.choice(("hello", "hello", *FIXED_ANSWERS))
    return Exchange(task, wording(task, rng, canonical), "no picture\n", FIXED_ANSWERS[task])


def _spelled(color: str, rng: random.Random, canonical: bool) -> str:
    return "grey" if color == "gray" and not canonical and rng.random() < 0.3 else color


def _lower(text: str) -> str:
    return text[0].lower() + text[1:]
