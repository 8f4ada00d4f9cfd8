"""Token ids to text while they come: N tokens give N pieces, and no piece holds half a character."""

from __future__ import annotations

import codecs
from collections.abc import Collection
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vlm_runtime.loading.tokenizer import Tokenizer

_CONTEXT = 8  # tokens re-decoded before new ones, where a token's text depends on its neighbours


class Detokenizer:
    """Text of one answer. The pieces from `add`, then `finish`, joined, are the answer's text.

    Where the bytes are valid UTF-8 that is what `Tokenizer.decode` gives; each ill-formed stretch becomes U+FFFD.
    """

    def __init__(
        self, tokenizer: Tokenizer, *, skip_special_tokens: bool = True, keep: Collection[int] = frozenset()
    ) -> None:
        """
        Args:
            tokenizer: Of the checkpoint.
            skip_special_tokens: Leave special tokens out.
            keep: Special tokens to write all the same, such as thinking or tool-call markers that a splitter looks for.
        """
        self._tokenizer = tokenizer
        self._skipped = tokenizer.special_ids - frozenset(keep) if skip_special_tokens else frozenset()
        self._bytes = tokenizer.token_bytes
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._strip = self._bytes.rules.strip if self._bytes.rules else 0
        self._is_start = True
        self._context: list[int] = []
        self._pending: list[int] = []

    def add(self, token: int) -> str:
        """The text that `token` completes; empty if its last character is not complete yet."""
        if token in self._skipped:
            return ""
        rules = self._bytes.rules
        if rules is None:
            return self._redecode(token, final=False)
        data = self._bytes.of(token)
        if self._is_start and rules.bare_start:
            data = data.replace(b" ", b"")
        self._is_start = False
        return self._stripped(self._decoder.decode(data))

    def finish(self) -> str:
        """What is still held back, as it stands."""
        if self._bytes.rules is None:
            return self._redecode(None, final=True)
        return self._stripped(self._decoder.decode(b"", final=True))

    def _stripped(self, text: str) -> str:
        while self._strip and text:
            if not text.startswith(" "):
                self._strip = 0
                break
            text = text[1:]
            self._strip -= 1
        return text

    def _redecode(self, token: int | None, *, final: bool) -> str:
        """Decode the last few tokens with and without the new ones; the difference is the new text."""
        if token is not None:
            self._pending.append(token)
        if not self._pending:
            return ""
        before = self._tokenizer.decode(self._context, skip_special_tokens=False)
        after = self._tokenizer.decode([*self._context, *self._pending], skip_special_tokens=False)
        if after.endswith("\ufffd") and not final and len(self._pending) < _CONTEXT:
            return ""
        self._context = [*self._context, *self._pending][-_CONTEXT:]
        self._pending = []
        return after[len(before) :]
