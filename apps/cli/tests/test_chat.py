"""The terminal chat: commands, history, stopping, errors."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from vlm_cli.chat import Conversation
from vlm_runtime.errors import MediaError


@dataclass
class Result:
    text: str
    finish_reason: str | None = None
    prompt_tokens: int = 5
    cached_tokens: int = 2
    prompt_tps: float = 1.0
    generation_tokens: int = 3
    generation_tps: float = 1.0


class Model:
    """Answers with what it was asked, thinking first."""

    markers = ("<think>", "</think>")

    def __init__(self, problem: BaseException | None = None, *, opens: bool = False) -> None:
        self.asked: list[Any] = []
        self.problem, self.opens = problem, opens

    def render(self, messages: list[dict[str, Any]]) -> str:
        self.asked.append(messages)
        return "prompt"

    def is_open(self, prompt: str) -> bool:
        return self.opens

    def results(self, prompt: str) -> Iterator[Result]:
        yield Result("" if self.opens else "<thi")
        yield Result("hm</think>yes " if self.opens else "nk>hm</think>yes ")
        if self.problem is not None:
            raise self.problem
        yield Result("sir", "stop")


def conversation(model: Model, system: str | None = None) -> tuple[Conversation, StringIO]:
    out = StringIO()
    return Conversation(model, Console(file=out, width=100), system), out  # type: ignore[arg-type]


@pytest.fixture
def pictures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to chat from, with three pictures."""
    for name in ("a.png", "b.png", "my cat.png"):
        (tmp_path / name).write_bytes(b"x")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_media_join_the_next_question_and_history_grows(pictures: Path) -> None:
    model = Model()
    chat, out = conversation(model, "be kind")
    for line in ("/image a.png", "/image b.png", "what is this?", "and now?"):
        chat.take(line)
    first, second = model.asked
    assert first[0] == {"role": "system", "content": "be kind"}
    assert [part["type"] for part in first[1]["content"]] == ["image", "image", "text"]
    assert second[1] == first[1] and second[2] == {"role": "assistant", "content": "yes sir"}
    assert second[3] == {"role": "user", "content": "and now?"}
    assert "hm" in out.getvalue() and "<think>" not in out.getvalue()
    assert "2 cached" in out.getvalue()


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("/image a.png b.png", ["a.png", "b.png"]),
        ("/image my cat.png", ["my cat.png"]),
        ("/image 'my cat.png' a.png", ["my cat.png", "a.png"]),
        ("/image my\\ cat.png", ["my cat.png"]),
        ("/image https://host/a.png?b=1 nowhere.png", ["https://host/a.png?b=1"]),
    ],
)
def test_several_paths_and_paths_with_blanks(pictures: Path, line: str, expected: list[str]) -> None:
    chat, out = conversation(Model())
    chat.take(line)
    assert chat.waiting == {"image": expected}
    assert ("nowhere.png: no such file" in out.getvalue()) == ("nowhere" in line)


def test_a_prompt_that_opens_the_thinking_shows_it_as_such() -> None:
    model = Model(opens=True)
    chat, out = conversation(model)
    chat.take("what?")
    assert chat.messages[-1] == {"role": "assistant", "content": "yes sir"}
    assert "hm\nyes sir" in out.getvalue()


def test_media_alone_ask_for_a_description(pictures: Path) -> None:
    model = Model()
    chat, _ = conversation(model)
    chat.take("/image a.png")
    chat.take("")
    assert model.asked[0][0]["content"][-1]["text"] == "Describe the image."


def test_clear_forgets_and_unknown_commands_are_named() -> None:
    model = Model()
    chat, out = conversation(model)
    for line in ("hi", "/clear", "/fly", "/image", "/help", "again"):
        chat.take(line)
    assert model.asked[1] == [{"role": "user", "content": "again"}]
    assert "/fly: no such command" in out.getvalue() and "/image needs a path" in out.getvalue()


def test_an_error_is_told_and_the_question_taken_back() -> None:
    model = Model(MediaError("a.png: expected an image"))
    chat, out = conversation(model)
    chat.take("what?")
    assert "expected an image" in out.getvalue() and chat.messages == []


def test_ctrl_c_stops_the_answer_and_keeps_the_chat() -> None:
    model = Model(KeyboardInterrupt())
    chat, out = conversation(model)
    chat.take("what?")
    assert "[stopped]" in out.getvalue()
    assert chat.messages[-1] == {"role": "assistant", "content": "yes "}
