"""The terminal chat: commands, history, stopping, errors."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from io import StringIO
from typing import Any

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

    def __init__(self, problem: BaseException | None = None) -> None:
        self.asked: list[Any] = []
        self.problem = problem

    def answer(self, messages: list[dict[str, Any]]) -> Iterator[Result]:
        self.asked.append(messages)
        yield Result("<thi")
        yield Result("nk>hm</think>yes ")
        if self.problem is not None:
            raise self.problem
        yield Result("sir", "stop")


def conversation(model: Model, system: str | None = None) -> tuple[Conversation, StringIO]:
    out = StringIO()
    return Conversation(model, Console(file=out, width=100), system), out  # type: ignore[arg-type]


def test_media_join_the_next_question_and_history_grows() -> None:
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


def test_media_alone_ask_for_a_description() -> None:
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
