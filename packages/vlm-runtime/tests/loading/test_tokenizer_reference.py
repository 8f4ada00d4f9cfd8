"""The same checkpoint through transformers' AutoTokenizer gives the same ids and prompts."""

from __future__ import annotations

import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer

from vlm_runtime.errors import TokenizerError
from vlm_runtime.loading.template import render
from vlm_runtime.loading.tokenizer import Tokenizer

CLASS = {"tokenizer_class": "PreTrainedTokenizerFast"}


@pytest.fixture(scope="module")
def pair(tmp_path_factory, chatml):
    folder = tmp_path_factory.mktemp("checkpoint")
    chatml.backend.save(str(folder / "tokenizer.json"))
    config = {**CLASS, "eos_token": "<|im_end|>", "chat_template": chatml.chat_templates["default"]}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return Tokenizer.load(folder), AutoTokenizer.from_pretrained(folder)


@given(
    text=st.text(max_size=30) | st.lists(st.sampled_from(["<|im_start|>", "<think>", "a", " ", "\n", "é"])).map("".join)
)
@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_ids_and_text_are_equal(pair, text):
    ours, reference = pair
    if any(0xD800 <= ord(letter) < 0xE000 for letter in text):
        return
    ids = reference(text).input_ids
    assert ours.encode(text) == ids
    for skip in (False, True):
        assert ours.decode(ids, skip_special_tokens=skip) == reference.decode(ids, skip_special_tokens=skip)


@pytest.mark.parametrize("thinking", [None, True, False])
def test_rendered_chats_are_equal(pair, thinking):
    ours, reference = pair
    tools = [{"type": "function", "function": {"name": "f", "description": "é <b>", "parameters": {"type": "object"}}}]
    call = {"type": "function", "function": {"name": "f", "arguments": {"x": [1, "ü"]}}}
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What 'is' <this>?"}]},
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "content": "42", "name": "f"},
    ]
    extra = {} if thinking is None else {"enable_thinking": thinking}
    want = reference.apply_chat_template(messages, tools=tools, add_generation_prompt=True, tokenize=False, **extra)
    prompt = render(ours, messages, tools=tools, enable_thinking=thinking)
    assert prompt == want
    assert ours.encode(prompt) == reference(want, add_special_tokens=False).input_ids


@pytest.mark.parametrize("kind", ["llama", "gemma", "unigram"])
def test_other_kinds_encode_equally(request, tmp_path, kind):
    tokenizer = request.getfixturevalue(kind)
    tokenizer.backend.save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({**CLASS, **tokenizer.config}))
    ours, reference = Tokenizer.load(tmp_path), AutoTokenizer.from_pretrained(tmp_path)
    for text in ("the star is red", " the", "the</s> is", "é🙂"):
        assert ours.encode(text) == reference(text).input_ids


def test_a_tokenizer_without_tokenizer_json_is_converted(tmp_path, chatml):
    model = json.loads(chatml.backend.to_str())["model"]
    (tmp_path / "vocab.json").write_text(json.dumps({**model["vocab"], "<|endoftext|>": len(model["vocab"])}))
    (tmp_path / "merges.txt").write_text("#version: 0.2\n" + "\n".join(" ".join(pair) for pair in model["merges"]))
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "GPT2Tokenizer"}))
    ours = Tokenizer.load(tmp_path)
    assert ours.encode("the star is red") == AutoTokenizer.from_pretrained(tmp_path)("the star is red").input_ids
    assert ours.decode(ours.encode("Grüße 🙂")) == "Grüße 🙂"


def test_a_tokenizer_that_cannot_be_converted_is_named(tmp_path):
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "NoSuchTokenizer"}))
    with pytest.raises(TokenizerError, match=r"no tokenizer\.json"):
        Tokenizer.load(tmp_path)
