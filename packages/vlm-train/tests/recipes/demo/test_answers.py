from __future__ import annotations

import json

import vlm_demo
from vlm_train.recipes.demo import answers, evaluation, fonts, layout
from vlm_train.recipes.demo.__main__ import main


def test_the_shipped_folder_is_what_the_recipe_writes() -> None:
    for name, text in layout.files().items():
        assert (vlm_demo.path() / name).read_text(encoding="utf-8") == text, name


def test_the_shipped_model_answers_rightly(faces: tuple[str, ...]) -> None:
    tasks = ("color", "read", "sum", "more", "receipt", "bare")
    seen = []
    scores = answers.evaluate(vlm_demo.path(), faces, items=3, tasks=tasks, watch=lambda *state: seen.append(state))
    assert [score.task for score in scores] == list(tasks)
    assert sum(score.right for score in scores) >= 17
    assert scores[1].character_errors is not None and scores[0].character_errors is None
    assert scores[4].valid == 3 and scores[0].valid is None
    assert len(seen) == 18


def test_a_follow_up_shows_the_earlier_answers(faces: tuple[str, ...]) -> None:
    import random

    sample = evaluation.draw("follow-up", faces, random.Random(1))
    turns = answers.messages(sample)
    assert [turn["role"] for turn in turns] == ["user", "assistant", "user", "assistant", "user"]
    assert turns[1]["content"] == sample.exchanges[0].answer
    assert turns[0]["content"][0] == {"type": "image"}


def test_the_command_prints_the_table_and_writes_answers(monkeypatch, faces: tuple[str, ...], tmp_path, capsys) -> None:
    monkeypatch.setattr(fonts, "find", lambda folders: faces)
    said = tmp_path / "answers.jsonl"
    assert main(["evaluate", "demo", "--items", "2", "--tasks", "hello", "--answers", str(said)]) == 0
    captured = capsys.readouterr()
    assert "| hello | 2/2 | 100.0 % |" in captured.out and "hello: 2/2" in captured.err
    assert [json.loads(line) for line in said.read_text().splitlines()] == [{"task": "hello", "said": "Hello!"}] * 2


def test_a_missing_checkpoint_is_a_named_error(monkeypatch, faces: tuple[str, ...], tmp_path, capsys) -> None:
    monkeypatch.setattr(fonts, "find", lambda folders: faces)
    assert main(["evaluate", str(tmp_path / "nothing"), "--tasks", "hello"]) == 2
    assert capsys.readouterr().err.startswith("error: ")
