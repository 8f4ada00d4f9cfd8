"""`vlm chat`: talk about pictures in a terminal. History, media by command, thinking dimmed, Ctrl-C stops an answer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import click
from rich.console import Console
from rich.text import Text

from vlm_kernels import VlmError
from vlm_runtime import ReasoningSplitter

from .options import cache_options, media_options, model_options, sampling_options
from .parsing import SeveralValues, given
from .session import KINDS, Session, default_prompt, user_message

HELP = """/image PATH...   add pictures to the next question
/audio PATH...   add sound
/video PATH...   add videos
/clear           forget the conversation
/help            this list
/exit            leave (so do Ctrl-D and /quit)
Ctrl-C stops an answer and keeps the chat."""


@click.command(cls=SeveralValues)
@model_options
@click.option("--system", help="System message.")
@media_options
@sampling_options
@cache_options
def chat(model: str, system: str | None, **options: Any) -> None:
    """Chat about text and pictures in the terminal."""
    settings = given(options)
    media = {kind: settings.pop(kind) for kind in KINDS if kind in settings}
    talk(Session.load(model, settings), system=system, media=media)


def talk(
    session: Session,
    *,
    system: str | None = None,
    media: Mapping[str, Sequence[str]] | None = None,
    first: str | None = None,
) -> None:
    """Read, answer, repeat, until the user leaves. media: for the first question. first: that question."""
    conversation = Conversation(session, Console(), system)
    for kind, sources in (media or {}).items():
        conversation.waiting[kind] = list(sources)
    if first is not None:
        conversation.say(first)
    while True:
        try:
            line = conversation.console.input("[bold]> [/bold]").strip()
        except (EOFError, KeyboardInterrupt):
            conversation.console.print()
            return
        if line in ("/exit", "/quit"):
            return
        conversation.take(line)


class Conversation:
    """Messages so far, and media that wait for the next question."""

    def __init__(self, session: Session, console: Console, system: str | None = None) -> None:
        self.session, self.console = session, console
        self._system = [{"role": "system", "content": system}] if system else []
        self.messages: list[dict[str, Any]] = list(self._system)
        self.waiting: dict[str, list[str]] = {}

    def take(self, line: str) -> None:
        """A line the user typed: a command or a question."""
        command, _, rest = line.partition(" ")
        if command == "/help":
            self.console.print(HELP, markup=False, highlight=False)
        elif command == "/clear":
            self.messages, self.waiting = list(self._system), {}
            self.console.print("cleared", style="dim")
        elif command[1:] in KINDS and command.startswith("/"):
            self._add(command[1:], rest.strip())
        elif command.startswith("/"):
            self.console.print(f"{command}: no such command; see /help", style="red", markup=False)
        elif line or self.waiting:
            self.say(line)

    def _add(self, kind: str, path: str) -> None:
        if not path:
            self.console.print(f"/{kind} needs a path", style="red")
            return
        self.waiting.setdefault(kind, []).append(path)
        self.console.print(f"{kind} added: {path}", style="dim", markup=False)

    def say(self, text: str) -> None:
        """Ask, and show the answer as it comes. What goes wrong is told, and the question is taken back."""
        message = user_message(text or default_prompt(self.waiting), self.waiting)
        try:
            answer = self._show([*self.messages, message])
        except VlmError as error:
            self.console.print(f"error: {error}", style="red", markup=False)
            self.waiting = {}
            return
        self.waiting = {}
        self.messages += [message, {"role": "assistant", "content": answer}]

    def _show(self, messages: Sequence[Mapping[str, Any]]) -> str:
        splitter = ReasoningSplitter(*self.session.markers)
        content: list[str] = []
        result = None
        results = self.session.answer(messages)
        try:
            for result in results:
                split = splitter.add(result.text)
                if result.finish_reason is not None:
                    split += splitter.finish()
                self._write(split.reasoning, "dim")
                self._write(split.content)
                content.append(split.content)
        except KeyboardInterrupt:
            self._write(" [stopped]", "dim")
        finally:
            results.close()  # type: ignore[attr-defined]  # a generator: closing it cancels the rest
        self.console.print()
        if result is not None:
            cached = f", {result.cached_tokens} cached" if result.cached_tokens else ""
            self.console.print(
                f"{result.prompt_tokens} tokens{cached} at {result.prompt_tps:.0f}/s, "
                f"{result.generation_tokens} at {result.generation_tps:.0f}/s",
                style="dim",
            )
        return "".join(content)

    def _write(self, text: str, style: str = "") -> None:
        if text:
            self.console.print(Text(text, style=style), end="", soft_wrap=True)
