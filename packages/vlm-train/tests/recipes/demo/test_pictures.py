from __future__ import annotations

import json
import random
from collections import Counter

import numpy as np
import pytest

from vlm_train.recipes.demo import charts, colors, evaluation, fonts, lines, questions, receipts, samples, scenes
from vlm_train.recipes.demo.lines import Limits


@pytest.mark.parametrize("task", list(evaluation.TARGETS))
def test_every_task_draws_the_same_item_twice(task: str, faces: tuple[str, ...]) -> None:
    first, second = (evaluation.draw(task, faces, random.Random(f"5/{task}")) for _ in range(2))
    assert first.exchanges == second.exchanges
    assert [image.tobytes() for image in first.images] == [image.tobytes() for image in second.images]


def test_training_samples_repeat_with_their_seed(faces: tuple[str, ...]) -> None:
    def drawn(seed: int) -> list:
        rng = random.Random(seed)
        made = [samples.draw(0.5, faces, rng) for _ in range(30)]
        return [(sample.exchanges, [image.tobytes() for image in sample.images]) for sample in made]

    assert drawn(3) == drawn(3)
    assert drawn(3) != drawn(4)


def test_an_unknown_task_is_refused(faces: tuple[str, ...]) -> None:
    with pytest.raises(KeyError, match="expected one of"):
        evaluation.draw("juggle", faces, random.Random(1))


def test_things_keep_apart_and_inside() -> None:
    rng = random.Random(1)
    for _ in range(100):
        scene, _ = samples.scene_to_count(rng)
        for index, thing in enumerate(scene.things):
            assert thing.left >= 0 and thing.left + thing.form.size <= scene.width
            assert thing.top >= 0 and thing.top + thing.form.size <= scene.height
            assert all(scenes.is_apart(thing, other) for other in scene.things[index + 1 :])
            edge = thing.outline or thing.fill
            assert colors.distance(edge, scene.paper) >= colors.MIN_CONTRAST


def test_counts_are_balanced_and_right() -> None:
    rng = random.Random(2)
    answers = Counter()
    for _ in range(300):
        scene, kind = samples.scene_to_count(rng)
        exchange = questions.about_count(scene, rng, kind)
        assert exchange is not None
        shown = [t for t in scene.things if kind[0] in (None, t.color) and kind[1] in (None, t.shape)]
        assert exchange.answer == str(len(shown))
        assert exchange.thought.count("\n") == max(1, len(shown))
        answers[exchange.answer] += 1
    assert set(answers) == set("0123456789")
    assert max(answers.values()) < 3 * min(answers.values())


def test_places_are_clear_of_the_borders() -> None:
    rng = random.Random(3)
    seen = set()
    for _ in range(200):
        scene = samples.scene_to_place(rng)
        exchange = questions.about_place(scene, rng, canonical=True)
        if exchange is None:
            continue
        name = exchange.question.removeprefix("Where is the ").removesuffix("?")
        (thing,) = [t for t in scene.things if f"{t.color} {t.shape}" == name]
        x, y = thing.centre
        row, column = next((r, c) for r in range(3) for c in range(3) if scenes.CELLS[r][c] == exchange.answer)
        assert row / 3 < y / scene.height < (row + 1) / 3
        assert column / 3 < x / scene.width < (column + 1) / 3
        seen.add(exchange.answer)
    assert len(seen) == 9


def test_a_question_names_one_thing() -> None:
    rng = random.Random(4)
    for _ in range(200):
        scene = samples.scene_to_describe(rng)
        about_color, about_shape = questions.about_color(scene, rng, True), questions.about_shape(scene, rng, True)
        if about_color is not None:
            shapes = [t.color for t in scene.things if t.shape in about_color.question]
            assert shapes == [about_color.answer]
        if about_shape is not None:
            assert [t.shape for t in scene.things if t.color in about_shape.question] == [about_shape.answer]


def test_two_pictures_are_compared_by_their_counts() -> None:
    rng = random.Random(5)
    answers = Counter()
    for _ in range(150):
        first, second, kind = samples.two_scenes(rng)
        exchange = questions.about_more(first, second, kind, rng)
        one, two = (sum(questions.matches(t, kind) for t in scene.things) for scene in (first, second))
        assert exchange.answer == ("equal" if one == two else "the first" if one > two else "the second")
        answers[exchange.answer] += 1
    assert min(answers.values()) > 20


def test_one_of_two_pictures_is_counted() -> None:
    rng = random.Random(13)
    for _ in range(40):
        first, second, kind = samples.two_scenes(rng)
        exchange = questions.about_each(first, second, kind, rng)
        scene = first if "first" in exchange.question else second
        assert exchange.answer == str(sum(questions.matches(thing, kind) for thing in scene.things))


def test_a_change_is_the_only_difference() -> None:
    rng = random.Random(6)
    kinds = Counter()
    for _ in range(120):
        first, second, change = samples.two_versions(rng)
        gone = [t for t in first.things if t not in second.things]
        come = [t for t in second.things if t not in first.things]
        kinds[change.split()[-1] if " moved " not in change else "moved"] += 1
        if "added" in change:
            assert (len(gone), len(come)) == (0, 1)
        elif "removed" in change:
            assert (len(gone), len(come)) == (1, 0)
        elif change == "Nothing changed.":
            assert first == second
        elif "moved" in change:
            assert first.place(gone[0]) in change and second.place(come[0]) in change
        else:
            assert come[0].color != gone[0].color and f"turned {come[0].color}." in change
    assert {"moved", "added.", "removed.", "changed."} <= set(kinds)


def test_text_lies_inside_its_picture(faces: tuple[str, ...]) -> None:
    rng = random.Random(7)
    for _ in range(60):
        page = lines.compose(Limits(max_characters=16, max_lines=3, min_size=14), faces, rng)
        pixels = np.asarray(page.draw()).astype(int)
        drawn = np.abs(pixels - np.array(page.paper)).sum(-1) > 60
        assert drawn.any()
        assert not drawn[0].any() and not drawn[-1].any() and not drawn[:, 0].any() and not drawn[:, -1].any()
        assert abs(colors.luminance(page.ink) - colors.luminance(page.paper)) >= 90
        assert max(len(line) for line in page.lines) <= 16


def test_scrambles_leave_out_look_alikes() -> None:
    rng = random.Random(8)
    excluded = frozenset("Il")
    scrambles = [lines._scramble(8, excluded, rng) for _ in range(300)]
    assert not set("".join(scrambles)) & excluded


def test_a_chart_has_one_tallest_bar(faces: tuple[str, ...]) -> None:
    rng = random.Random(9)
    for _ in range(60):
        chart = charts.compose(faces, rng)
        values = sorted(chart.values)
        assert values[-1] > values[-2] and values[0] < values[1]
        assert chart.values[chart.labels.index(chart.tallest)] == values[-1]
        assert len(set(chart.labels)) == len(chart.labels)


def test_a_receipt_adds_up(faces: tuple[str, ...]) -> None:
    rng = random.Random(10)
    for _ in range(40):
        receipt = receipts.compose(faces, rng)
        read = json.loads(receipt.as_json())
        assert round(100 * read["total"]) == sum(round(100 * item["price"]) for item in read["items"])
        assert [item["name"] for item in read["items"]] == [name for name, _ in receipt.items]


def test_held_out_sums_are_never_trained_on() -> None:
    rng = random.Random(11)
    trained = {tuple(questions.about_sum(rng, False, True).question[8:-1].split(" + ")) for _ in range(3000)}
    held_out = {tuple(questions.about_sum(rng, True, True).question[8:-1].split(" + ")) for _ in range(500)}
    assert not trained & held_out
    assert all(int(a) + int(b) < 100 for a, b in trained | held_out)
    share = sum(questions.is_held_out(a, b) for a in range(100) for b in range(100 - a)) / 5050
    assert 0.07 < share < 0.13


def test_the_difficulty_grows() -> None:
    rng = random.Random(12)
    early = [samples.limits(0.0, rng) for _ in range(50)]
    late = [samples.limits(0.9, rng) for _ in range(50)]
    assert max(limit.max_characters for limit in early) == 4
    assert max(limit.max_lines for limit in late) == 3


def test_missing_fonts_are_named(tmp_path) -> None:
    with pytest.raises(fonts.FontError, match="expected DejaVu or Liberation fonts"):
        fonts.find([tmp_path])


def test_look_alikes_are_found_by_drawing() -> None:
    assert "1" not in fonts.look_alikes(fonts.PILLOW)
