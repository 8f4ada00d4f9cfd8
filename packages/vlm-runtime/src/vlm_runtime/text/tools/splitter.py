"""Split an answer into content and tool calls, while it streams."""

from __future__ import annotations

from vlm_runtime.text.markers import first_marker, partial_marker
from vlm_runtime.text.tools.call import Reading, ToolFormat, Tools, ToolSplit


class ToolCallSplitter:
    """Splits text in pieces; the pieces joined equal the split of the whole text.

    A call comes out once it is complete. What looks like a call and is none stays content, every character of it. Blank
    space next to a call is dropped.
    """

    def __init__(self, format: ToolFormat, tools: Tools = ()) -> None:
        """
        Args:
            format: How the checkpoint writes calls; see `vlm_runtime.text.tools.detect_format`.
            tools: The request's tools; their schemas decide between text and JSON where the format does not.
        """
        self._format, self._tools = format, tools
        self._held = ""
        self._blank = ""
        self._in_call = self._after_call = False
        self._at_head = True

    def add(self, text: str) -> ToolSplit:
        """What `text` brings, less what may belong to a call."""
        if self._in_call and not any(closer in text for closer in self._format.closers):
            self._held += text
            return ToolSplit()
        return self._run(self._held + text, final=False)

    def finish(self) -> ToolSplit:
        """What was held back. A call that was cut off is content."""
        result = self._run(self._held, final=True)
        return result if self._after_call else result + ToolSplit(self._take_blank())

    def _run(self, text: str, *, final: bool) -> ToolSplit:
        result = ToolSplit()
        while True:
            if self._in_call:
                reading = self._format.read(text, self._tools, final=final)
                if reading is None:
                    if not final:
                        self._held = text
                        return result
                    reading = Reading(len(text) if self._format.at_head else 1)
                result += self._take(text[: reading.length], reading)
                text = text[reading.length :]
                self._in_call = False
                continue
            match = self._find(text)
            if match is None:
                size = 0 if final else self._undecided(text)
                self._held = text[len(text) - size :]
                return result + self._content(text[: len(text) - size])
            result += self._content(text[:match])
            text = text[match:]
            self._in_call = True

    def _take(self, text: str, reading: Reading) -> ToolSplit:
        if not reading.calls:
            return self._content(text)
        self._blank = ""
        self._after_call = True
        return ToolSplit(calls=reading.calls)

    def _find(self, text: str) -> int | None:
        """Where a call may begin."""
        if not self._format.at_head:
            match = first_marker(text, self._format.starts)
            return None if match is None else match[0]
        head = len(text) - len(text.lstrip(" \t\r\n;" if self._after_call else None))
        return head if self._at_head and text.startswith(self._format.starts, head) else None

    def _undecided(self, text: str) -> int:
        """Length of the end of `text` that may still open a call."""
        if not self._format.at_head:
            return partial_marker(text, self._format.starts)
        head = text.lstrip(" \t\r\n;" if self._after_call else None)
        may_open = self._at_head and (not head or any(start.startswith(head) for start in self._format.starts))
        return len(text) if may_open else 0

    def _content(self, text: str) -> ToolSplit:
        if self._after_call and self._format.at_head and not text.strip(" \t\r\n;"):
            return ToolSplit()  # the separator between two calls
        if not text.strip():
            self._blank += "" if self._after_call else text
            return ToolSplit()
        self._at_head = False
        if self._after_call:
            text = text.lstrip()
            self._after_call = False
        kept = text.rstrip()
        result = ToolSplit(self._take_blank() + kept)
        self._blank = text[len(kept) :]
        return result

    def _take_blank(self) -> str:
        blank, self._blank = self._blank, ""
        return blank
