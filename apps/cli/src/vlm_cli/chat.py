"""`vlm chat`: talk about pictures in a terminal. History, media by command, thinking dimmed, Ctrl-C stops an answer."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.text import Text

from vlm_kernels import VlmError
from vlm_runtime import ReasoningSplitter

from .options import cache_options, media_options, model_options, sampling_options
from .parsing import SeveralValues, given
from .session import KINDS, Session, default_prompt, statistics, user_message

HELP = """/image PATH...   add pictures to the next question: paths, URLs, data URIs; quote what has blanks
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
@click.option("--verbose", is_flag=True, help="Tell peak memory after each answer too.")
def chat(model: str, system: str | None, verbose: bool, **options: Any) -> None:
    """Chat about text and pictures in the terminal."""
    settings = given(options)
    media = {kind: settings.pop(kind) for kind in KINDS if kind in settings}
    talk(Session.load(model, settings), system=system, media=media, is_verbose=verbose)


def talk(
    session: Session,
    *,
    system: str | None = None,
    media: Mapping[str, Sequence[str]] | None = None,
    first: str | None = None,
    is_verbose: bool = False,
) -> None:
    """Read, answer, repeat, until the user leaves. media: for the first question. first: that question."""
    if sys.stdin.isatty():
        import readline  # noqa: F401 - being there is what it does: editing and history for `input`

        sys.stdout.write("/help lists the commands\n")
    conversation = Conversation(session, Console(), system, is_verbose=is_verbose)
    for kind, sources in (media or {}).items():
        conversation.waiting[kind] = list(sources)
    if first is not None:
        conversation.say(first)
    while True:
        try:
            line = input("> ").strip()
        except EOFError:
            conversation.console.print()
            return
        except KeyboardInterrupt:  # meant for an answer that had just ended
            conversation.console.print("\n/exit or Ctrl-D leaves", style="dim")
            continue
        if line in ("/exit", "/quit"):
            return
        conversation.take(line)


class Conversation:
    """Messages so far, and media that wait for the next question."""

    def __init__(
        self, session: Session, console: Console, system: str | None = None, *, is_verbose: bool = False
    ) -> None:
        self.session, self.console, self.is_verbose = session, console, is_verbose
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

    def _add(self, kind: str, rest: str) -> None:
        sources = _sources(rest)
        if not sources:
            self.console.print(f"/{kind} needs a path", style="red")
        for source in sources:
            if _is_missing(source):
                self.console.print(f"{source}: no such file", style="red", markup=False)
                continue
            self.waiting.setdefault(kind, []).append(source)
            self.console.print(f"{kind} added: {source}", style="dim", markup=False)

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
        content: list[str] = []
        result = results = None
        is_thinking = False
        try:
            prompt = self.session.render(messages)
            splitter = ReasoningSplitter(*self.session.markers, is_open=self.session.is_open(prompt))
            results = self.session.results(prompt)
            for result in results:
                split = splitter.add(result.text)
                if result.finish_reason is not None:
                    split += splitter.finish()
                if split.reasoning:
                    self._write(split.reasoning, "dim")
                    is_thinking = True
                content.append(split.content)
                shown = split.content.lstrip("\n") if is_thinking else split.content
                if shown and is_thinking:
                    self.console.print()  # thoughts and answer are two paragraphs
                    is_thinking = False
                self._write(shown)
        except KeyboardInterrupt:
            self._write(" [stopped]", "dim")
        finally:
            if results is not None:
                results.close()  # type: ignore[attr-defined]  # a generator: closing it cancels the rest
        self.console.print()
        if result is not None:
            self.console.print(_told(result, self.is_verbose), style="dim", markup=False, highlight=False)
        return "".join(content)

    def _write(self, text: str, style: str = "") -> None:
        if text:
            self.console.print(Text(text, style=style), end="", soft_wrap=True)


def _sources(text: str) -> list[str]:
    """Paths and URLs of a command line: quoted as in a shell, or one path with blanks as it stands."""
    if text and Path(text).expanduser().exists():
        return [text]
    try:
        return shlex.split(text)
    except ValueError:  # a lone quote belongs to the name
        return [text]


def _is_missing(source: str) -> bool:
    if "://" in source or source[:5].lower() == "data:":
        return False
    return not Path(source).expanduser().exists()


def _told(result: Any, is_verbose: bool) -> str:
    if is_verbose:
        return statistics(result)
    cached = f", {result.cached_tokens} cached" if result.cached_tokens else ""
    return (
        f"{result.prompt_tokens} tokens{cached} at {result.prompt_tps:.0f}/s, "
        f"{result.generation_tokens} at {result.generation_tps:.0f}/s"
    )
