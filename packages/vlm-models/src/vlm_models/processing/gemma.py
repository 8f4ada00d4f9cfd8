"""Processing of Gemma 3 and PaliGemma: pictures of one size; who sees whom in both directions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from ..core.family import TokenTable
from ..core.inputs import MediaItem, MediaKind, Prompt, Span
from ..errors import ModalityError, ProcessingError
from .image.fixed import FixedStrategy
from .pictures import FixedPictures


class BracketedPictures(FixedPictures):
    """A picture stands as its begin token in a prompt and becomes begin, features, end between blank lines; its features see
    each other in both directions."""

    def __init__(
        self,
        image_token: int,
        brackets: tuple[int, int],
        strategy: FixedStrategy,
        num_tokens: int,
        table: TokenTable | None = None,
    ) -> None:
        super().__init__(image_token, strategy, num_tokens, table)
        self.brackets = brackets

    def placeholder(self, kind: MediaKind) -> str:
        if kind != "image":
            raise ModalityError(f"this family takes no {kind}")
        return self._text(self.brackets[0])

    def replacement(self, item: MediaItem) -> str:
        begin, end = (self._text(token) for token in self.brackets)
        return f"\n\n{begin}{super().replacement(item)}{end}\n\n"

    def blocks(
        self, tokens: np.ndarray, items: Sequence[MediaItem], spans: Sequence[Span]
    ) -> tuple[tuple[int, int], ...]:
        return tuple((span.start, span.stop) for span in spans)


class PrefixPictures(FixedPictures):
    """The whole prompt sees itself in both directions; positions count from one (PaliGemma).

    begin: the token between the pictures and the text."""

    def __init__(
        self, image_token: int, begin: int, strategy: FixedStrategy, num_tokens: int, table: TokenTable | None = None
    ) -> None:
        super().__init__(image_token, strategy, num_tokens, table)
        self.begin = begin

    def expand(self, pieces: Sequence[str], items: Sequence[MediaItem]) -> list[str]:
        """Pictures, the begin token, the text, a line end: the last two are put where the prompt lacks them."""
        expanded = super().expand(pieces, items)
        begin, image = self._text(self.begin), self._text(self.token_ids["image"])
        if not any(begin in piece for piece in expanded):
            last = max((i for i, piece in enumerate(expanded) if image in piece), default=0)
            at = expanded[last].rfind(image) + len(image) if image in expanded[last] else 0
            expanded[last] = expanded[last][:at] + begin + expanded[last][at:]
        if not expanded[-1].endswith("\n"):
            expanded[-1] += "\n"
        return expanded

    def positions(
        self, tokens: np.ndarray, items: Sequence[MediaItem], spans: Sequence[Span]
    ) -> tuple[np.ndarray, int]:
        return np.arange(1, len(tokens) + 1, dtype=np.int32)[None], 1

    def blocks(
        self, tokens: np.ndarray, items: Sequence[MediaItem], spans: Sequence[Span]
    ) -> tuple[tuple[int, int], ...]:
        return ((0, len(tokens)),)

    def typed(self, prompt: Prompt, type_ids: np.ndarray) -> Prompt:
        """Type 0 is what sees itself in both directions, type 1 an answer behind it."""
        prefix = int((type_ids == 0).sum())
        if not np.array_equal(type_ids, np.arange(len(prompt)) >= prefix):
            raise ProcessingError("token_type_ids must be zeros (the prompt), then ones (the answer)")
        return replace(prompt, blocks=((0, prefix),))
