"""The thinking budget of one answer. Knows token ids; no arrays, no text."""

from __future__ import annotations

from collections.abc import Sequence

from ..request import ThinkingParams


def is_open(tokens: Sequence[int], params: ThinkingParams) -> bool:
    """Whether a prompt leaves a thinking block open: its last marker is a start."""
    return _last(tokens, params.start) > _last(tokens, params.end)


def _last(tokens: Sequence[int], marker: tuple[int, ...]) -> int:
    """Index of a marker's last occurrence, -1 for none."""
    for at in range(len(tokens) - len(marker), -1, -1):
        if tokens[at] == marker[0] and tuple(tokens[at : at + len(marker)]) == marker:
            return at
    return -1


class Thinking:
    """Follows one answer. At most `budget` tokens inside a block; then newline and end marker are forced, not counted.

    The count starts anew with each block. `forced` is the next token where it is not the model's to choose.
    """

    def __init__(self, params: ThinkingParams, prompt: Sequence[int]) -> None:
        self.params = params
        self.is_open = is_open(prompt, params)
        self.count = 0
        self._recent: list[int] = []
        self._queue: list[int] = []
        self._fill()

    @property
    def forced(self) -> int | None:
        return self._queue[0] if self._queue else None

    @property
    def is_near(self) -> bool:
        """Whether the token after the next one may be forced, so that the next must be known before it is queued."""
        if self.params.budget is None:
            return False
        return bool(self._queue) or self.params.budget == 0 or (self.is_open and self.count + 1 >= self.params.budget)

    def observe(self, token: int) -> None:
        """A token was added to the answer."""
        if self._queue:
            self._queue.pop(0)
            if not self._queue:
                self._close()
            return
        self._recent = [*self._recent, token][-max(len(self.params.start), len(self.params.end)) :]
        if self.is_open:
            self.count += 1
            if self._ends_with(self.params.end):
                self._close()
        elif self._ends_with(self.params.start):
            self.is_open, self.count, self._recent = True, 0, []
        self._fill()

    def _fill(self) -> None:
        if self.is_open and self.params.budget is not None and self.count >= self.params.budget:
            self._queue = [*self.params.newline, *self.params.end]

    def _close(self) -> None:
        self.is_open, self.count, self._recent = False, 0, []

    def _ends_with(self, marker: tuple[int, ...]) -> bool:
        return tuple(self._recent[-len(marker) :]) == marker
