from __future__ import annotations

import json
import sys

import numpy as np
import pytest

from vlm_runtime.errors import ExtraMissing, GrammarError
from vlm_runtime.text.detokenizer import Detokenizer
from vlm_runtime.text.structured import Grammar, GrammarSpec

pytest.importorskip("llguidance")
SCHEMA = {
    "type": "object",
    "properties": {"name": {"type": "string", "maxLength": 8}, "n": {"type": "integer", "minimum": 0, "maximum": 99}},
    "required": ["name", "n"],
    "additionalProperties": False,
}


def write(tokenizer, grammar: Grammar, seed: int, most: int = 400) -> str:
    """Answer with random allowed tokens until the grammar ends it."""
    random = np.random.default_rng(seed)
    ends = {tokenizer.eos_token_id}
    detokenizer, text = Detokenizer(tokenizer), ""
    for _ in range(most):
        allowed = np.flatnonzero(grammar.mask())
        token = int(random.choice(allowed))
        if token in ends:
            return text + detokenizer.finish()
        grammar.accept(token)
        text += detokenizer.add(token)
        if grammar.is_finished:
            return text + detokenizer.finish()
    raise AssertionError(f"no end after {most} tokens: {text!r}")


@pytest.mark.parametrize("name", ["chatml", "llama", "gemma"])
def test_random_answers_fit_the_schema(request, name):
    tokenizer = request.getfixturevalue(name)
    grammar = Grammar.compile(tokenizer, GrammarSpec.json_schema(SCHEMA))
    for seed in range(15):
        grammar.reset()
        value = json.loads(write(tokenizer, grammar, seed))
        assert set(value) == {"name", "n"} and 0 <= value["n"] <= 99 and len(value["name"]) <= 8


def test_regex_and_choice(chatml):
    for seed in range(5):
        grammar = Grammar.compile(chatml, GrammarSpec.regex("[ab]{2,3}-[0-9]"))
        text = write(chatml, grammar, seed)
        assert len(text) in (4, 5) and set(text[:2]) <= {"a", "b"} and text[-1].isdigit()
        grammar = Grammar.compile(chatml, GrammarSpec.choice(['the "first"', "Grüße", "10\n"]))
        assert write(chatml, grammar, seed) in ('the "first"', "Grüße", "10\n")


def test_json_objects(chatml):
    grammar = Grammar.compile(chatml, GrammarSpec.json_object())
    assert grammar.mask()[chatml.encode("{")[0]]
    assert not grammar.mask()[chatml.encode("a")[0]]
    for token in chatml.encode('{"a": [1, null]}'):
        grammar.accept(token)
    assert grammar.is_accepting
    assert grammar.mask()[chatml.eos_token_id]


def test_special_tokens_are_never_text(chatml):
    grammar = Grammar.compile(chatml, GrammarSpec.regex("(?s:.*)"))
    mask = grammar.mask()
    special = sorted(chatml.special_ids - {chatml.eos_token_id})
    assert not mask[special].any()
    assert mask[chatml.eos_token_id]


def test_masks_are_as_wide_as_the_logits(chatml):
    size = chatml.vocab_size + 100
    grammar = Grammar.compile(
        chatml, GrammarSpec.regex("(?s:.*)"), vocab_size=size, eos_token_ids=[3, chatml.eos_token_id]
    )
    mask = grammar.mask()
    assert mask.shape == (size,) and mask.dtype == bool
    assert not mask[chatml.vocab_size :].any()
    assert mask[3] and mask[chatml.eos_token_id]


def test_rollback_copy_and_reset(chatml):
    grammar = Grammar.compile(chatml, GrammarSpec.choice(["one two", "one three"]))
    start = grammar.mask()
    tokens = chatml.encode("one t")
    for token in tokens:
        grammar.accept(token)
    middle = grammar.mask()
    copy = grammar.copy()
    draft = chatml.encode("hree") + chatml.encode("x")
    accepted = copy.accept_many(draft)
    assert accepted == len(chatml.encode("hree")) and copy.is_finished
    copy.rollback(accepted)
    assert (copy.mask() == middle).all()
    assert (grammar.mask() == middle).all()
    grammar.rollback(len(tokens))
    assert (grammar.mask() == start).all()
    copy.reset()
    assert (copy.mask() == start).all()


def test_a_token_that_is_not_allowed_is_an_error(chatml):
    grammar = Grammar.compile(chatml, GrammarSpec.choice(["a"]))
    with pytest.raises(GrammarError):
        grammar.accept(chatml.encode("b")[0])


@pytest.mark.parametrize(
    "spec",
    [
        GrammarSpec.regex("(["),
        GrammarSpec.regex("(?=a)b"),
        GrammarSpec.json_schema("{"),
        GrammarSpec.json_schema({"type": "nonsense"}),
        GrammarSpec.json_schema({"type": "string", "format": "no-such-format"}),
        GrammarSpec.json_schema({"$ref": "http://elsewhere/schema"}),
        GrammarSpec.json_schema({"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/a"}}}),
        GrammarSpec.lark("start: undefined_rule"),
    ],
    ids=str,
)
def test_what_cannot_be_used_is_named(chatml, spec):
    with pytest.raises(GrammarError, match=spec.kind):
        Grammar.compile(chatml, spec)


def test_malformed_specifications(chatml):
    for choices in ([], [""], [3]):
        with pytest.raises(GrammarError, match="choice"):
            GrammarSpec.choice(choices)
    deep: dict = {}
    for _ in range(5000):
        deep = {"items": deep}
    with pytest.raises(GrammarError, match="json_schema"):
        GrammarSpec.json_schema(deep)
    with pytest.raises(GrammarError, match="json_schema"):
        GrammarSpec.json_schema({"const": object()})
    with pytest.raises(GrammarError, match="eos_token_ids"):
        Grammar.compile(chatml, GrammarSpec.json_object(), eos_token_ids=[10**9])


def test_without_the_package_the_extra_is_named(chatml, monkeypatch):
    monkeypatch.setitem(sys.modules, "llguidance", None)
    with pytest.raises(ExtraMissing, match=r"vlm-runtime\[structured\]"):
        Grammar.compile(chatml, GrammarSpec.json_object())


@pytest.mark.parametrize(
    ("text", "is_allowed"),
    [
        (json.dumps({"a": [1, 2], "b": "x"}), True),
        (json.dumps({"a": [1, 2], "b": "x"}, separators=(",", ":")), True),
        (json.dumps({"a": [1, 2], "b": "x"}, indent=4), True),
        (json.dumps({"a": [[[1]]], "b": "x"}, indent="\t"), True),
        ('{   "a": 1}', False),
        ('{"a":\n\n1}', False),
        ('{"a":\n' + " " * 15 + "1}", False),
    ],
)
def test_blanks_between_json_tokens_have_an_end(chatml, text, is_allowed):
    grammar = Grammar.compile(chatml, GrammarSpec.json_object())
    tokens = chatml.encode_literal(text)
    assert (grammar.accept_many(tokens) == len(tokens)) == is_allowed
