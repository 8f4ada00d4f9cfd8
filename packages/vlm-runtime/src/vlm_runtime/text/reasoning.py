"""Split an answer into reasoning and content at thinking markers, while it streams."""

from __future__ import annotations

from dataclasses import dataclass

from vlm_runtime.text.markers import partial_marker

THINK = ("<think>", "</think>")
_MARKERS = (
    THINK,
    ("<|channel>thought", "<channel|>"),  # Gemma 4; the token <|channel> opens other channels too
    ("[THINK]", "[/THINK]"),
    ("◁think▷", "◁/think▷"),
)


def thinking_markers(chat_template: str) -> tuple[str, str] | None:
    """The start and end of a thinking block that a chat template shows, or None if it shows none."""
    signs = ((start.removesuffix("thought"), (start, end)) for start, end in _MARKERS)
    return next((markers for sign, markers in signs if sign in chat_template or markers[1] in chat_template), None)


@dataclass(frozen=True)
class Split:
    """A piece of an answer: what of it is reasoning, and what is content."""

    reasoning: str = ""
    content: str = ""

    def __add__(self, other: Split) -> Split:
        return Split(self.reasoning + other.reasoning, self.content + other.content)


class ReasoningSplitter:
    """Splits text in pieces; the pieces joined equal the split of the whole text.

    Blank space around a block belongs to the markers: it is dropped at a block's start and end and at the start of the
    content after it. Several blocks are joined by a blank line. A block left open is reasoning to the end.
    """

    def __init__(self, start: str = THINK[0], end: str = THINK[1], *, is_open: bool = False) -> None:
        """
        Args:
            start: Marker that opens a block.
            end: Marker that closes it.
            is_open: Whether the prompt has opened a block already. A start marker at its head is then skipped.
        """
        self._start, self._end = start, end
        self._is_open = self._may_repeat = is_open
        self._held = ""
        self._blank = ""
        self._at_head = is_open
        self._has_reasoning = False

    def add(self, text: str) -> Split:
        """What `text` brings, less what may be the beginning of a marker."""
        return self._run(self._held + text, final=False)

    def finish(self) -> Split:
        """What was held back."""
        return self._run(self._held, final=True)

    def _run(self, text: str, *, final: bool) -> Split:
        result = Split()
        while True:
            marker = self._end if self._is_open else self._start
            markers = (marker, self._start) if self._may_repeat else (marker,)
            place = text.find(marker)
            if self._may_repeat and (skipped := self._skip_repeated(text)) is not None:
                text = skipped
                continue
            if place < 0:
                size = 0 if final else partial_marker(text, markers)
                self._held = text[len(text) - size :]
                return result + self._emit(text[: len(text) - size])
            result += self._emit(text[:place])
            text = text[place + len(marker) :]
            self._is_open, self._at_head, self._may_repeat = not self._is_open, True, False
            self._blank = ""

    def _skip_repeated(self, text: str) -> str | None:
        """Text after a start marker that repeats the prompt's, if it stands at the head of the answer."""
        head = text.lstrip()
        if head.startswith(self._start):
            self._may_repeat = False
            return head[len(self._start) :]
        if head and not self._start.startswith(head):
            self._may_repeat = False
        return None

    def _emit(self, text: str) -> Split:
        if self._at_head:
            text = text.lstrip()
            if not text:
                return Split()
            self._at_head = False
            if self._is_open and self._has_reasoning:
                self._blank = "\n\n"
        if not self._is_open:
            return Split(content=text)
        text = self._blank + text
        kept = text.rstrip()
        self._blank = text[len(kept) :]
        self._has_reasoning = self._has_reasoning or bool(kept)
        return Split(reasoning=kept)
