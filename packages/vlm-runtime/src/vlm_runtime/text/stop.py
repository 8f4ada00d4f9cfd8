"""End an answer at a stop string, wherever the token borders fall."""

from __future__ import annotations

from collections.abc import Sequence

from vlm_runtime.errors import OptionError
from vlm_runtime.text.markers import first_marker, partial_marker

MAX_STOP_LENGTH = 1000


class StopStrings:
    """Passes text through up to the stop string that is complete first; the stop string itself never comes out.

    Attributes:
        found: The stop string that ended the answer, or None.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        for stop in stops:
            if not isinstance(stop, str) or not 0 < len(stop) <= MAX_STOP_LENGTH:
                raise OptionError(f"stop: expected strings of 1 to {MAX_STOP_LENGTH} characters, got {stop!r:.40}")
        self._stops = tuple(stops)
        self._held = ""
        self.found: str | None = None

    def add(self, text: str) -> str:
        """The text that may be shown now: all but what could be the beginning of a stop string."""
        if self.found is not None:
            return ""
        text = self._held + text
        match = first_marker(text, self._stops)
        if match is not None:
            place, self.found = match
            self._held = ""
            return text[:place]
        size = partial_marker(text, self._stops)
        self._held = text[len(text) - size :]
        return text[: len(text) - size]

    def finish(self) -> str:
        """What was held back, now that nothing follows."""
        held, self._held = self._held, ""
        return held
