"""The chats in a real terminal: a pseudo-terminal, keys typed, Ctrl-C sent."""

from __future__ import annotations

import os
import pty
import re
import select
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image, ImageDraw

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="no pseudo-terminals")


class Terminal:
    """A command with a terminal of its own."""

    def __init__(self, *arguments: str) -> None:
        self.seen = ""
        self.pid, self.file = pty.fork()
        if self.pid == 0:
            os.environ |= {"TERM": "xterm-256color", "COLUMNS": "100"}
            os.environ.pop("NO_COLOR", None)
            os.execv(sys.executable, [sys.executable, "-m", "vlm_cli.main", *arguments])

    def type(self, text: str) -> None:
        os.write(self.file, text.encode())

    def until(self, text: str, seconds: float = 60) -> str:
        """What comes up to and with a text."""
        deadline = time.monotonic() + seconds
        while text not in self.seen:
            ready, _, _ = select.select([self.file], [], [], max(deadline - time.monotonic(), 0))
            assert ready, f"{text!r} did not come, but {self.seen!r}"
            try:
                self.seen += os.read(self.file, 65536).decode(errors="replace")
            except OSError:
                pytest.fail(f"ended before {text!r}: {self.seen!r}")
        at = self.seen.index(text) + len(text)
        part, self.seen = self.seen[:at], self.seen[at:]
        return part

    def end(self) -> int:
        """Read what is left and wait: the exit status."""
        try:
            while os.read(self.file, 65536):
                pass
        except OSError:
            pass
        _, status = os.waitpid(self.pid, 0)
        os.close(self.file)
        self.pid = 0
        return os.waitstatus_to_exitcode(status)

    def kill(self) -> None:
        if self.pid:
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
            os.close(self.file)


@pytest.fixture
def terminal() -> Iterator[type]:
    made: list[Terminal] = []

    def make(*arguments: str) -> Terminal:
        made.append(Terminal(*arguments))
        return made[-1]

    yield make  # type: ignore[misc]
    for one in made:
        one.kill()


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    path = tmp_path / "a red one.png"
    image = Image.new("RGB", (112, 112), "white")
    ImageDraw.Draw(image).ellipse((25, 25, 85, 85), fill="red")
    image.save(path)
    return path


def plain(text: str) -> str:
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text)


def test_a_chat_about_a_picture(terminal: type, picture: Path) -> None:
    chat = terminal("chat", "--temperature", "0")
    chat.until("> ")
    chat.type("/help\n")
    assert "/image PATH" in chat.until("> ")
    chat.type(f"/image {picture}\n")
    assert "image added" in chat.until("> ")
    chat.type("What color is the shape?\n")
    chat.until("shape?")
    first = plain(chat.until("> "))
    assert re.search(r"^red\s*$", first, re.MULTILINE) and re.search(r"\d+ tokens at \d+/s, \d+ at \d+/s", first)
    chat.type("What shape is red?\n")
    chat.until("red?")
    second = plain(chat.until("> "))
    assert "circle" in second and "cached" in second
    chat.type("/image nowhere.png\n")
    assert "no such file" in chat.until("> ")
    chat.type("/clear\n")
    assert "cleared" in chat.until("> ")
    chat.type("/exit\n")
    assert chat.end() == 0


def test_ctrl_c_stops_an_answer_and_keeps_the_chat(terminal: type, picture: Path) -> None:
    """A picture of its own in every turn, prefilled token by token: the answer is on its way for long."""
    chat = terminal("generate", "--chat", "--temperature", "0", "--prefill-step-size", "1", "--prompt", "Hello")
    chat.until("> ")
    for attempt in range(10):
        chat.type("/clear\n")
        chat.until("> ")
        chat.type(f"/image {picture}\n")
        chat.until("> ")
        chat.type("What color is the shape?\n")
        chat.until("shape?\r\n")
        time.sleep(0.01 * (attempt + 1))
        chat.type("\x03")
        said = chat.until("> ")
        if "[stopped]" in said:
            break
    else:
        pytest.fail("no answer was caught on its way")
    chat.type(f"/image {picture}\n")
    chat.until("> ")
    chat.type("\x04")
    assert chat.end() == 0


def test_thinking_is_dim_and_apart(terminal: type) -> None:
    chat = terminal("chat", "--temperature", "0", "--enable-thinking", "--verbose")
    chat.until("> ")
    chat.type("What is 3 + 4?\n")
    chat.until("4?")
    said = chat.until("peak memory")
    assert "<think>" not in said and "\x1b[2m" in said and "generation" in said
    chat.until("> ")
    chat.type("/quit\n")
    assert chat.end() == 0
