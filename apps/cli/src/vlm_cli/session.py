"""A loaded model on a terminal: load with a bar, answer messages, tell the statistics."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from .options import LOAD

KINDS = ("image", "audio", "video")
MARKERS = ("<think>", "</think>")


@dataclass(frozen=True)
class Session:
    """model, processor: loaded. options: for every answer."""

    model: Any
    processor: Any
    options: Mapping[str, Any]

    @classmethod
    def load(cls, name: str, settings: dict[str, Any]) -> Session:
        """Load `name`; `settings` are the options that were set, those of loading included. Raises VlmError."""
        import vlm_runtime  # brings MLX: only once the arguments are known to be right

        settings = dict(settings)
        loading = {key: settings.pop(key) for key in LOAD if key in settings}
        show_notes()
        with loading_bar() as progress:
            model, processor = vlm_runtime.load(name, progress=progress, **loading)
        return cls(model, processor, settings)

    @property
    def markers(self) -> tuple[str, str]:
        start, end = (self.options.get(f"thinking_{side}_token") for side in ("start", "end"))
        return start or MARKERS[0], end or MARKERS[1]

    def render(self, messages: Sequence[Mapping[str, Any]]) -> Any:
        """The prompt of messages, by the checkpoint's template. Raises VlmError."""
        import vlm_runtime

        options = {key: self.options[key] for key in ("fps", "max_frames") if key in self.options}
        messages = vlm_runtime.with_frames(self.processor, messages, vlm_runtime.GenerateOptions(**options))
        thinking = self.options.get("enable_thinking")
        return vlm_runtime.apply_chat_template(
            self.processor, self.processor.config, messages, enable_thinking=thinking
        )

    def is_open(self, prompt: str) -> bool:
        """Whether a prompt ends inside a thinking block, so that the answer begins there."""
        start, end = self.markers
        return str(prompt).rfind(start) > str(prompt).rfind(end)

    def results(self, prompt: Any) -> Iterator[Any]:
        """Results as the tokens come. Raises VlmError."""
        import vlm_runtime

        options = {name: value for name, value in self.options.items() if name != "enable_thinking"}
        yield from vlm_runtime.stream_generate(self.model, self.processor, prompt, **options)

    def answer(self, messages: Sequence[Mapping[str, Any]]) -> Iterator[Any]:
        """Results for messages, as the tokens come. Raises VlmError."""
        yield from self.results(self.render(messages))


class Notes(logging.Handler):
    """What decoding did to media, a line each on standard error, each once."""

    def __init__(self) -> None:
        super().__init__()
        self._seen: set[str] = set()

    def emit(self, record: logging.LogRecord) -> None:
        line = record.getMessage()
        if line not in self._seen:
            self._seen.add(line)
            sys.stderr.write(f"note: {line}\n")


def show_notes() -> None:
    """Let notes about media through."""
    log = logging.getLogger("vlm_runtime.media")
    log.setLevel(logging.INFO)
    log.propagate = False
    log.handlers = [Notes()]


def user_message(text: str, media: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    """One user turn: media first, then the text."""
    parts: list[dict[str, Any]] = [{"type": kind, kind: source} for kind in KINDS for source in media.get(kind, ())]
    return {"role": "user", "content": [*parts, {"type": "text", "text": text}] if parts else text}


def default_prompt(media: Mapping[str, Sequence[str]]) -> str:
    """What to ask about media that come without a question."""
    given = [kind for kind in KINDS if media.get(kind)]
    if given == ["audio"]:
        return "Describe what you hear."
    if given == ["video"]:
        return "Describe this video."
    if given == ["image"]:
        return "Describe the image." if len(media["image"]) == 1 else "Describe the images."
    return "Describe what you see and hear."


def statistics(result: Any) -> str:
    """The last result's counts, rates and memory."""
    cached = f" ({result.cached_tokens} cached)" if result.cached_tokens else ""
    return (
        f"prompt      {result.prompt_tokens} tokens{cached}, {result.prompt_tps:.1f} tokens/s\n"
        f"generation  {result.generation_tokens} tokens, {result.generation_tps:.1f} tokens/s\n"
        f"peak memory {result.peak_memory:.3f} GB"
    )


@contextmanager
def loading_bar() -> Iterator[Callable[[int, int], None] | None]:
    """A bar on standard error while weights are read; nothing where that is no terminal."""
    if not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console  # slow to import, and only for terminals
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("loading", total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)
