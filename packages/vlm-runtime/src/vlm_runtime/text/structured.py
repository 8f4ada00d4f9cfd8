"""Structured output: which tokens may come next so that an answer fits a JSON schema, a regex, a choice or a grammar.

llguidance (extra `structured`) does the parsing; this file turns requests into its grammars and its masks into arrays.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from vlm_runtime.errors import ExtraMissing, GrammarError

if TYPE_CHECKING:
    from llguidance import LLMatcher, LLTokenizer

    from vlm_runtime.loading.tokenizer import Tokenizer

# between JSON tokens: a blank or two, or a new line and its indentation; without a bound a model may write blanks until its
# budget is spent
_BLANKS = r"( {0,2}|\n[ \t]{0,14})"


@dataclass(frozen=True)
class GrammarSpec:
    """What an answer must look like.

    Args:
        kind: `json_schema`, `json_object`, `regex`, `choice`, or `lark` (llguidance's dialect).
        value: The schema as JSON text, the pattern, the choices as a JSON list, or the grammar.
    """

    kind: Literal["json_schema", "json_object", "regex", "choice", "lark"]
    value: str = ""

    @classmethod
    def json_schema(cls, schema: Mapping[str, Any] | bool | str) -> GrammarSpec:
        """JSON that a schema accepts."""
        if isinstance(schema, str):
            return cls("json_schema", schema)
        try:
            return cls("json_schema", json.dumps(schema, ensure_ascii=False, allow_nan=False))
        except (TypeError, ValueError, RecursionError) as error:
            raise GrammarError(f"json_schema: expected a JSON schema, got: {error}") from error

    @classmethod
    def json_object(cls) -> GrammarSpec:
        """Any JSON object."""
        return cls("json_object")

    @classmethod
    def regex(cls, pattern: str) -> GrammarSpec:
        """Text that a regular expression matches as a whole (Rust's syntax)."""
        return cls("regex", pattern)

    @classmethod
    def choice(cls, choices: Sequence[str]) -> GrammarSpec:
        """One of several texts."""
        if not choices or any(not isinstance(choice, str) or not choice for choice in choices):
            raise GrammarError(f"choice: expected non-empty strings, got {choices!r:.80}")
        return cls("choice", json.dumps(list(choices), ensure_ascii=False))

    @classmethod
    def lark(cls, grammar: str) -> GrammarSpec:
        """A context-free grammar."""
        return cls("lark", grammar)


class Grammar:
    """A compiled specification, at one place in one answer. Fits `vlm_runtime.request.Grammar`."""

    def __init__(self, matcher: LLMatcher, vocab_size: int) -> None:
        self._matcher, self._vocab_size = matcher, vocab_size

    @classmethod
    def compile(
        cls,
        tokenizer: Tokenizer,
        spec: GrammarSpec,
        *,
        vocab_size: int | None = None,
        eos_token_ids: Sequence[int] | None = None,
    ) -> Grammar:
        """Make the matcher of a specification.

        Args:
            tokenizer: Of the checkpoint.
            spec: What the answer must look like.
            vocab_size: Width of the model's logits, which may be padded; None takes the tokenizer's.
            eos_token_ids: Tokens that end an answer; None takes the tokenizer's.

        Raises:
            ExtraMissing: llguidance is not installed.
            GrammarError: The specification is malformed, unsupported or too large.
        """
        llguidance = _llguidance()
        ends = tuple(eos_token_ids if eos_token_ids is not None else [tokenizer.eos_token_id or 0])
        size = max(vocab_size or 0, tokenizer.vocab_size)
        if not ends or any(not 0 <= end < size for end in ends):
            raise GrammarError(f"eos_token_ids: expected ids below {size}, got {ends}")
        grammar = _grammar_text(llguidance, spec)
        matcher = llguidance.LLMatcher(_ll_tokenizer(tokenizer, size, ends), grammar, log_level=0)
        compiled = cls(matcher, vocab_size or tokenizer.vocab_size)
        if not matcher.is_error():
            compiled._fill()  # some limits are met only when the first tokens are looked for: better now than mid-answer
        if matcher.is_error():
            raise GrammarError(f"{spec.kind}: cannot be used: {_line(matcher.get_error())}")
        return compiled

    def mask(self) -> np.ndarray:
        """Tokens allowed next, end tokens included where the answer may end. bool [vocabulary].

        Raises:
            GrammarError: The grammar met a limit.
        """
        bits = self._fill()
        self._check()
        return np.unpackbits(bits.view(np.uint8)[0], bitorder="little")[: self._vocab_size].astype(bool)

    def accept(self, token: int) -> None:
        """Move on by a token that was chosen.

        Raises:
            GrammarError: The token is not allowed here; the grammar is then of no further use.
        """
        if not self._matcher.consume_token(token):
            self._check()
            raise GrammarError(f"token {token}: expected one that the grammar allows here")

    def accept_many(self, tokens: Sequence[int]) -> int:
        """Move on by tokens as far as they are allowed, and return how many were: for drafts."""
        return int(self._matcher.try_consume_tokens(list(tokens)))

    def rollback(self, count: int) -> None:
        """Take back the last `count` tokens."""
        if count and not self._matcher.rollback(count):
            self._check()

    def reset(self) -> None:
        """Go back to the start."""
        if not self._matcher.reset():
            self._check()

    def copy(self) -> Grammar:
        """An independent one at the same place."""
        return Grammar(self._matcher.deep_copy(), self._vocab_size)

    @property
    def is_accepting(self) -> bool:
        """Whether the answer may end here."""
        return bool(self._matcher.is_accepting())

    @property
    def is_finished(self) -> bool:
        """Whether nothing but the end may follow."""
        return bool(self._matcher.is_stopped())

    def _fill(self) -> np.ndarray:
        from llguidance.numpy import allocate_token_bitmask, fill_next_token_bitmask  # as in _llguidance

        bits = allocate_token_bitmask(1, self._vocab_size)
        fill_next_token_bitmask(self._matcher, bits, 0)
        return bits

    def _check(self) -> None:
        if self._matcher.is_error():
            raise GrammarError(f"structured output: {_line(self._matcher.get_error())}")


def _grammar_text(llguidance: Any, spec: GrammarSpec) -> str:
    matcher = llguidance.LLMatcher
    try:
        if spec.kind in ("json_schema", "json_object"):
            schema = spec.value if spec.kind == "json_schema" else '{"type": "object"}'
            return matcher.grammar_from_json_schema(schema, overrides={"whitespace_pattern": _BLANKS})
    except (ValueError, RecursionError) as error:
        raise GrammarError(f"{spec.kind}: expected a JSON schema, got: {_line(str(error))}") from error
    if spec.kind == "regex":
        return matcher.grammar_from_regex(spec.value)
    if spec.kind == "choice":
        return "start: " + " | ".join(json.dumps(choice, ensure_ascii=False) for choice in json.loads(spec.value))
    return matcher.grammar_from_lark(spec.value)


class _Vocabulary:
    """A tokenizer as llguidance reads it."""

    def __init__(self, tokenizer: Tokenizer, size: int, ends: tuple[int, ...]) -> None:
        self._tokenizer = tokenizer
        self.eos_token_id = ends[0]
        self.bos_token_id = tokenizer.bos_token_id
        table = tokenizer.token_bytes.all
        self.tokens = table + [b""] * (size - len(table))
        self.special_token_ids = sorted(tokenizer.special_ids | set(ends))
        names = {token.id: token.content.encode() for token in tokenizer.added_tokens.values() if token.special}
        for id_ in self.special_token_ids:
            self.tokens[id_] = names.get(id_, self.tokens[id_])

        # Some tokenizers put a blank before every text; behind a letter that merges with nothing it can be cut off.
        adds_blank = b"".join(table[id_] for id_ in tokenizer.encode_literal("a")) != b"a"
        self._guard = "\x02" if adds_blank else ""
        self._guard_ids = tokenizer.encode_literal(self._guard) if adds_blank else []

    def __call__(self, text: str | bytes) -> list[int]:
        if isinstance(text, bytes):
            text = text.decode("utf-8", "replace")
        return self._tokenizer.encode_literal(self._guard + text)[len(self._guard_ids) :]


def _ll_tokenizer(tokenizer: Tokenizer, size: int, ends: tuple[int, ...]) -> LLTokenizer:
    """Built once for a tokenizer, and kept with it: it takes a while for a large vocabulary."""
    key = ("llguidance", size, ends)
    if key not in tokenizer.derived:
        llguidance = _llguidance()
        wrapper = llguidance.TokenizerWrapper(_Vocabulary(tokenizer, size, ends))
        tokenizer.derived[key] = llguidance.LLTokenizer(wrapper, n_vocab=size, eos_token=list(ends))
    return tokenizer.derived[key]


def _llguidance() -> Any:
    try:
        import llguidance  # optional, and not needed for plain text
    except ImportError as error:
        raise ExtraMissing("structured output: llguidance is missing; install vlm-runtime[structured]") from error
    return llguidance


def _line(message: str) -> str:
    return (message.strip().splitlines() or ["unknown reason"])[0][:300]
