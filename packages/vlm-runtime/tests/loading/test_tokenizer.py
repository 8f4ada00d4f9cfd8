from __future__ import annotations

import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken

from vlm_runtime.errors import TokenizerError
from vlm_runtime.loading.special import ControlText
from vlm_runtime.loading.tokenizer import Tokenizer


def test_files_give_ids_templates_and_special_tokens(checkpoint_folder):
    tokenizer = Tokenizer.load(checkpoint_folder)
    assert tokenizer.eos_token_id == tokenizer.token_to_id("<|im_end|>")
    assert tokenizer.pad_token_id == tokenizer.token_to_id("<|endoftext|>")
    assert tokenizer.bos_token_id is None
    assert set(tokenizer.chat_templates) == {"default"}
    assert tokenizer.vocab_size == max(tokenizer.backend.get_vocab().values()) + 1
    text = "Grüße aus 東京 🙂"
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_template_files_override_the_configuration(checkpoint_folder):
    (checkpoint_folder / "chat_template.json").write_text(json.dumps({"chat_template": "from json"}))
    assert Tokenizer.load(checkpoint_folder).chat_templates["default"] == "from json"
    (checkpoint_folder / "chat_template.jinja").write_text("from jinja")
    assert Tokenizer.load(checkpoint_folder).chat_templates["default"] == "from jinja"


def test_tokens_declared_by_the_configuration_alone_are_added(checkpoint_folder):
    path = checkpoint_folder / "tokenizer_config.json"
    next_id = Tokenizer.load(checkpoint_folder).vocab_size
    config = json.loads(path.read_text())
    config["added_tokens_decoder"] = {str(next_id): {"content": "<|box|>", "special": True}}
    path.write_text(json.dumps(config))
    tokenizer = Tokenizer.load(checkpoint_folder)
    assert tokenizer.encode("a<|box|>")[-1] == next_id
    config["added_tokens_decoder"] = {str(next_id + 7): {"content": "<|box|>", "special": True}}
    path.write_text(json.dumps(config))
    with pytest.raises(TokenizerError, match=r"<\|box\|>.*says id"):
        Tokenizer.load(checkpoint_folder)


def test_damaged_and_missing_files_are_named(checkpoint_folder, tmp_path):
    (checkpoint_folder / "tokenizer.json").write_text("{")
    with pytest.raises(TokenizerError, match=r"tokenizer\.json"):
        Tokenizer.load(checkpoint_folder)
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(TokenizerError, match="found no tokenizer files"):
        Tokenizer.load(empty)


def test_begin_token_is_added_once(llama):
    assert llama.encode("the")[0] == llama.bos_token_id
    assert llama.encode("<s>the").count(llama.bos_token_id) == 1
    assert llama.bos_token_id not in llama.encode("the", add_special_tokens=False)


def test_configuration_decides_about_begin_and_end_tokens(llama):
    backend = llama.backend
    config = {**llama.config, "add_bos_token": False, "add_eos_token": True}
    ids = Tokenizer(backend, config).encode("the")
    assert ids[0] != llama.bos_token_id
    assert ids[-1] == llama.eos_token_id


def test_segments_without_borders_encode_as_plain_text(any_tokenizer):
    text = "the star is red</s> the the"
    assert any_tokenizer.encode_segments([text]) == any_tokenizer.encode(text)
    assert any_tokenizer.encode_segments(["the star", " is red"]) == any_tokenizer.encode("the star is red")


def test_literals_stay_text_and_neighbours_keep_their_tokens(any_tokenizer):
    eos = any_tokenizer.special_tokens["eos_token"]
    border = "\uf8ff"
    user = any_tokenizer.control.break_up(f"is {eos} the", border)
    ids = any_tokenizer.encode_segments([*f"{eos}{user}".split(border), eos], add_special_tokens=False)
    end = any_tokenizer.eos_token_id
    assert ids[0] == end and ids[-1] == end
    assert ids.count(end) == 2
    # what is not in the vocabulary of these tiny tokenizers is <unk>; the text must otherwise read as typed
    assert any_tokenizer.decode(ids[1:-1], skip_special_tokens=False).strip() == f"is {eos} the"


def test_literal_ids_exist_in_the_same_vocabulary(any_tokenizer):
    for token in any_tokenizer.control.token_by_content.values():
        ids = any_tokenizer.encode_literal(token.content)
        if token.content != "<unk>":
            assert token.id not in ids
        assert all(any_tokenizer.id_to_token(id_) is not None for id_ in ids)


def test_unigram_blank_is_put_at_the_start_only(unigram):
    # prepend_scheme "first": the run after a token is no start, in the twin as in the tokenizer
    whole = unigram.encode("</s>the </s>", add_special_tokens=False)
    user = unigram.control.break_up("the </s>", "\uf8ff").split("\uf8ff")
    split = unigram.encode_segments(["</s>", *user], add_special_tokens=False)
    assert split[: len(whole) - 1] == whole[:-1]


def test_text_that_normalizes_to_a_control_token_stays_text(chatml):
    from tokenizers import normalizers

    backend = type(chatml.backend).from_str(chatml.backend.to_str())
    backend.normalizer = normalizers.NFKC()
    backend.add_special_tokens([AddedToken("<|stop|>", special=True, normalized=True)])
    tokenizer = Tokenizer(backend, {})
    stop = tokenizer.token_to_id("<|stop|>")
    wide = "\uff1c|stop|\uff1e"
    assert stop in tokenizer.encode(wide)  # what the backend does with trusted text
    assert stop not in tokenizer.encode_segments([wide])
    assert tokenizer.encode_segments(["<|stop|>", wide]).count(stop) == 1


def test_swallowed_blanks_are_swallowed_in_segments_too(chatml):
    backend = type(chatml.backend).from_str(chatml.backend.to_str())
    backend.add_special_tokens([AddedToken("<|end|>", special=True, lstrip=True, rstrip=True, normalized=False)])
    tokenizer = Tokenizer(backend, {})
    user = tokenizer.control.break_up("<|end|>", "\uf8ff").split("\uf8ff")
    end = tokenizer.token_to_id("<|end|>")
    plain = tokenizer.encode("one <|end|>  two", add_special_tokens=False)
    ids = tokenizer.encode_segments(["one <|end|>  two", *user], add_special_tokens=False)
    assert ids[: len(plain)] == plain
    assert ids.count(end) == 1


def test_html_and_blank_runs_are_ordinary_text(chatml):
    backend = type(chatml.backend).from_str(chatml.backend.to_str())
    backend.add_tokens(["<table>", "\n\n\n", "</h1>", "word"])
    tokenizer = Tokenizer(backend, {})
    assert not {"<table>", "\n\n\n", "</h1>", "word"} & tokenizer.control.contents
    assert {"<think>", "<tool_call>", "<|im_end|>"} <= tokenizer.control.contents


def test_lone_surrogates_do_not_break_encoding(chatml):
    assert chatml.encode("a\ud800b") == chatml.encode("a?b")
    assert chatml.encode_segments(["a\ud800", "b"]) == chatml.encode("a?b")


ALPHABET = st.sampled_from(
    ["<", "|", "im_end", ">", "<|im_end|>", "im_", "end|>", "<think>", " ", "the", "\n", "é", "🙂"]
)


@given(st.lists(ALPHABET, max_size=8).map("".join), st.lists(ALPHABET, max_size=8).map("".join))
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_text_becomes_control(chatml, first, second):
    border = "\uf8ff"
    joined = chatml.control.break_up(first, border) + chatml.control.break_up(second, border)
    ids = chatml.encode_segments(["<|im_start|>", *joined.split(border), "<|im_end|>"])
    control = {token.id for token in chatml.control.token_by_content.values()}
    assert [id_ for id_ in ids if id_ in control] == [
        chatml.token_to_id("<|im_start|>"),
        chatml.token_to_id("<|im_end|>"),
    ]
    assert chatml.decode(ids, skip_special_tokens=True) == first + second


@given(st.lists(st.sampled_from(["ab", "abc", "b", "cd", "xyz", "a", "."]), max_size=12).map("".join))
def test_longest_control_string_wins(text):
    control = ControlText(strings=["ab", "abc", "abcd", "xy"])
    broken = control.break_up(text, "#")
    assert broken.replace("#", "") == text
    assert not any(word in piece for piece in broken.split("#") for word in ("ab", "abc", "abcd", "xy"))
