from __future__ import annotations

import pytest

from vlm_train.recipes.demo import evaluation
from vlm_train.recipes.demo.evaluation import Score


def test_the_answer_is_what_follows_the_thought() -> None:
    assert evaluation.answer("1: red circle, top\n</think>\n\n3") == "3"
    assert evaluation.answer(" red ") == "red"


@pytest.mark.parametrize(
    ("said", "right"), [("3", True), ("<think>\n3\n</think>\n\n4", False), ("3.", False), ("", False)]
)
def test_answers_must_be_exact(said: str, right: bool) -> None:
    assert evaluation.is_right(said, "3") is right


@pytest.mark.parametrize(
    ("first", "second", "edits"), [("", "", 0), ("abc", "", 3), ("kitten", "sitting", 3), ("a", "a", 0)]
)
def test_edits_between_strings(first: str, second: str, edits: int) -> None:
    assert evaluation.distance(first, second) == edits


@pytest.mark.parametrize(("said", "valid"), [('{"total": 1.50}', True), ('{"total": 1.5', False), ("3", False)])
def test_json_is_recognised(said: str, valid: bool) -> None:
    assert evaluation.is_json(said) is valid


def test_wilson_intervals() -> None:
    low, high = evaluation.wilson(95, 100)
    assert (round(low, 4), round(high, 4)) == (0.8882, 0.9785)
    assert evaluation.wilson(0, 10)[0] == 0.0 and evaluation.wilson(10, 10)[1] == 1.0
    with pytest.raises(ValueError, match="at least one"):
        evaluation.wilson(0, 0)


def test_the_table_shows_targets_and_character_errors() -> None:
    text = evaluation.table(
        [Score("read", 290, 300, 0.0123), Score("color", 300, 300), Score("receipt", 280, 300, valid=300)]
    )
    assert "| receipt, valid JSON | 300/300 | 100.0 % | 98.7 to 100.0 % | 99 % | - |" in text
    assert "| read | 290/300 | 96.7 % | 94.0 to 98.2 % | 95 % | 1.23 % |" in text
    assert "| color | 300/300 | 100.0 % | 98.7 to 100.0 % | 97 % | - |" in text
