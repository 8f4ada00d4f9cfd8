"""The bytes that each token stands for, as the tokenizer's decoder would write them."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vlm_runtime.loading.tokenizer import Tokenizer

_BYTE = re.compile(r"<0x([0-9A-Fa-f]{2})>")


def _byte_by_letter() -> dict[str, int]:
    """Byte-level BPE writes each byte as one letter: printable Latin-1 as itself, the rest from U+0100 on."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    letters = {chr(byte): byte for byte in printable}
    others = [byte for byte in range(256) if byte not in printable]
    return letters | {chr(0x100 + place): byte for place, byte in enumerate(others)}


BYTE_BY_LETTER = _byte_by_letter()


@dataclass(frozen=True)
class DecoderRules:
    """What a tokenizer's decoder does, for the kinds whose tokens have bytes of their own.

    byte_level: letters stand for bytes. blank: a letter that stands for a space. byte_tokens: `<0xNN>` stands for a byte.
    strip: spaces taken from the start of a text. bare_start: the first token loses all its blanks.
    """

    byte_level: bool = False
    blank: str = ""
    byte_tokens: bool = False
    strip: int = 0
    bare_start: bool = False


def decoder_rules(decoder: dict[str, Any] | None) -> DecoderRules | None:
    """Rules of a decoder in `tokenizer.json` form; None if its tokens have no bytes of their own (WordPiece, CTC)."""
    steps = [] if decoder is None else decoder["decoders"] if decoder["type"] == "Sequence" else [decoder]
    found: dict[str, Any] = {}
    for step in steps:
        kind = step["type"]
        if kind == "ByteLevel":
            found["byte_level"] = True
        elif kind == "Replace" and step["content"] == " " and len(step["pattern"].get("String", "")) == 1:
            found["blank"] = step["pattern"]["String"]
        elif kind == "Metaspace":
            found |= {"blank": step["replacement"], "bare_start": step.get("prepend_scheme", "always") != "never"}
        elif kind == "ByteFallback":
            found["byte_tokens"] = True
        elif kind == "Strip" and step["content"] == " " and not step["stop"] and "fused" in found:
            found["strip"] = step["start"]
        elif kind == "Fuse":
            found["fused"] = True
        else:
            return None
    found.pop("fused", None)
    return DecoderRules(**found) if found else None


class TokenBytes:
    """Token id -> bytes for one tokenizer.

    Attributes:
        rules: What its decoder does; None if bytes are only an approximation (the token's own text).
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        decoder = tokenizer.backend.decoder
        self.rules = decoder_rules(None if decoder is None else json.loads(decoder.__getstate__()))
        self._tokenizer = tokenizer
        self._cache: dict[int, bytes] = {}

    def of(self, token: int) -> bytes:
        """Bytes of one token; empty for an id without a token."""
        found = self._cache.get(token)
        if found is None:
            found = self._cache[token] = self._bytes(self._tokenizer.id_to_token(token))
        return found

    @cached_property
    def all(self) -> list[bytes]:
        """Bytes of every id below the tokenizer's `vocab_size`."""
        table = [b""] * self._tokenizer.vocab_size
        for text, token in self._tokenizer.backend.get_vocab(with_added_tokens=True).items():
            table[token] = self._bytes(text)
        return table

    def _bytes(self, text: str | None) -> bytes:
        rules = self.rules or DecoderRules()
        if text is None:
            return b""
        if rules.byte_level:
            try:
                return bytes(map(BYTE_BY_LETTER.__getitem__, text))
            except KeyError:  # an added token, which stands for its own text
                return text.encode("utf-8")
        if rules.byte_tokens and (match := _BYTE.fullmatch(text)):
            return bytes([int(match[1], 16)])
        if rules.blank:
            text = text.replace(rules.blank, " ")
        return text.encode("utf-8")
