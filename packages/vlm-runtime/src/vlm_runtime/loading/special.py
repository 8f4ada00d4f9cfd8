"""Which of a tokenizer's added tokens steer the model, and a twin of the tokenizer that cannot produce them."""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

# Gemma and others add HTML tags and runs of blanks as ordinary vocabulary; users may type those.
_HTML = re.compile(
    r"</?(?:a|b|i|u|s|p|em|br|hr|h[1-6]|ul|ol|li|dl|dt|dd|td|th|tr|sub|sup|div|img|pre|code|span|table|thead|tbody|tfoot"
    r"|caption|strong|blockquote)/?>"
)
_DELIMITED = re.compile(r"[<\[{|◁].*[>\]}|▷]", re.DOTALL)


@dataclass(frozen=True)
class AddedToken:
    """One row of a tokenizer's added tokens."""

    id: int
    content: str
    special: bool
    lstrip: bool = False
    rstrip: bool = False
    single_word: bool = False
    normalized: bool = False

    @property
    def is_control(self) -> bool:
        """True if the token steers the model (roles, media, thinking, tools) rather than abbreviating ordinary text."""
        if self.special:
            return bool(self.content)
        return bool(_DELIMITED.fullmatch(self.content.strip())) and not _HTML.fullmatch(self.content)


class ControlText:
    """Finds control strings in text, leftmost and longest first, in time linear in the text."""

    def __init__(self, tokens: Iterable[AddedToken] = (), strings: Iterable[str] = ()) -> None:
        self.token_by_content = {token.content: token for token in tokens}
        contents = {*self.token_by_content, *strings} - {""}
        self.contents = frozenset(contents)
        self._variants: dict[tuple[frozenset[str], frozenset[str]], ControlText] = {}
        self._pattern = re.compile(_trie_pattern(contents)) if contents else None
        self._prefixes = {content[:end] for content in contents for end in range(1, len(content))}
        self._suffixes = {content[start:] for content in contents for start in range(1, len(content))}
        self._joined = "\0".join(contents)
        self._reach = max(map(len, contents), default=0)

    def variant(self, more: frozenset[str] = frozenset(), less: frozenset[str] = frozenset()) -> ControlText:
        """The same with strings added, which `split` must not meet, or taken out."""
        if more <= self.contents and not less & self.contents:
            return self
        if (more, less) not in self._variants:
            tokens = [token for content, token in self.token_by_content.items() if content not in less]
            self._variants[more, less] = ControlText(tokens, more - less)
        return self._variants[more, less]

    def split(self, text: str) -> Iterator[str | AddedToken]:
        """Yield stretches of ordinary text and the tokens between them, with the blanks they swallow left out."""
        start = position = 0
        while self._pattern is not None and (match := self._pattern.search(text, position)):
            token = self.token_by_content[match.group()]
            left, right = match.span()
            if token.single_word and (_is_word(text[left - 1 : left]) or _is_word(text[right : right + 1])):
                position = left + 1
                continue
            stretch = text[start:left]
            yield stretch.rstrip() if token.lstrip else stretch
            yield token
            start = right
            while token.rstrip and start < len(text) and text[start].isspace():
                start += 1
            position = start
        yield text[start:]

    def break_up(self, text: str, border: str) -> str:
        """Put `border` into every control string in `text`, and at an end that neighbouring text might complete.

        A string that is the inside of a control string gets one too.
        """
        if self._pattern is None or not text:
            return text
        pieces: list[str] = []
        position = 0
        while match := self._pattern.search(text, position):
            cut = match.start() + 1
            pieces += text[position:cut], border
            position = cut  # one character on, so that overlapping strings are all broken
        pieces.append(text[position:])
        reach = range(1, min(self._reach, len(text) + 1))
        opens = any(text[:size] in self._suffixes for size in reach)
        closes = any(text[-size:] in self._prefixes for size in reach)
        inside = len(text) < self._reach and text in self._joined
        return (border if opens or inside else "") + "".join(pieces) + (border if closes else "")


def _is_word(character: str) -> bool:
    return character.isalnum() or character == "_"


def _trie_pattern(strings: Iterable[str]) -> str:
    """Regular expression matching the longest of `strings` at a position."""
    root: dict[str, Any] = {}
    for string in strings:
        node = root
        for character in string:
            node = node.setdefault(character, {})
        node[""] = {}
    return _node_pattern(root)


def _node_pattern(node: dict[str, Any]) -> str:
    chain = ""
    while len(node) == 1 and "" not in node:  # long single paths without recursion
        character, node = next(iter(node.items()))
        chain += re.escape(character)
    branches = [re.escape(character) + _node_pattern(child) for character, child in node.items() if character]
    if not branches:
        return chain
    return f"{chain}(?:{'|'.join(branches)}){'?' if '' in node else ''}"


def literal_twin(tokenizer_json: str, control: Iterable[AddedToken], *, at_start: bool) -> str:
    """The JSON of a tokenizer equal to the given one, except that no text can become a control token.

    Their strings are replaced by ones nobody can type, in the added tokens and in the model's vocabulary, so that ids
    stay as they are.

    Args:
        tokenizer_json: Content of a `tokenizer.json`.
        control: Tokens to take out of reach.
        at_start: Whether the text to encode opens the prompt; matters for tokenizers that put a blank there only.
    """
    nonce = secrets.token_hex(12)
    hidden = {token.content: f"\ufdd0{nonce}:{token.id}\ufdd1" for token in control}
    data: dict[str, Any] = json.loads(tokenizer_json)
    for row in data.get("added_tokens") or ():
        if row["content"] in hidden:
            row.update(content=hidden[row["content"]], lstrip=False, rstrip=False, single_word=False, normalized=False)
    data["post_processor"] = None
    _hide_in_model(data["model"], hidden)
    if not at_start:
        _stop_prepending(data.get("pre_tokenizer"))
    return json.dumps(data, ensure_ascii=False)


def _hide_in_model(model: dict[str, Any], hidden: Mapping[str, str]) -> None:
    vocabulary = model.get("vocab")
    if isinstance(vocabulary, dict):
        model["vocab"] = {hidden.get(piece, piece): id_ for piece, id_ in vocabulary.items()}
    elif isinstance(vocabulary, list):
        model["vocab"] = [[hidden.get(piece, piece), score] for piece, score in vocabulary]
    if model.get("unk_token") in hidden:
        model["unk_token"] = hidden[model["unk_token"]]
    if model.get("merges"):
        model["merges"] = [merge for merge in model["merges"] if not _touches(merge, hidden)]


def _touches(merge: str | list[str], hidden: Mapping[str, str]) -> bool:
    left, right = merge.split(" ", 1) if isinstance(merge, str) else merge
    return left in hidden or right in hidden or left + right in hidden


def _stop_prepending(pre_tokenizer: dict[str, Any] | None) -> None:
    if pre_tokenizer is None:
        return
    for inner in pre_tokenizer.get("pretokenizers") or ():
        _stop_prepending(inner)
    if pre_tokenizer.get("type") == "Metaspace" and pre_tokenizer.get("prepend_scheme") == "first":
        pre_tokenizer["prepend_scheme"] = "never"
