from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import decoders

from vlm_runtime.loading.tokenizer import Tokenizer
from vlm_runtime.text.detokenizer import Detokenizer
from vlm_runtime.text.token_bytes import decoder_rules

SETTINGS = settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def stream(tokenizer, ids, **options):
    detokenizer = Detokenizer(tokenizer, **options)
    pieces = [detokenizer.add(id_) for id_ in ids]
    return pieces, detokenizer.finish()


@given(text=st.text(alphabet=st.characters(exclude_categories=["Cs"]), max_size=20))
@SETTINGS
def test_byte_level_stream_equals_decode(chatml, text):
    ids = chatml.encode(text)
    pieces, rest = stream(chatml, ids)
    assert len(pieces) == len(ids)
    assert "".join(pieces) + rest == chatml.decode(ids)
    assert rest == ""


@pytest.mark.parametrize("name", ["llama", "gemma"])
@given(text=st.text(alphabet=st.sampled_from("the is a\nréд🙂 <>s/"), max_size=20))
@SETTINGS
def test_byte_fallback_stream_equals_decode(request, name, text):
    tokenizer = request.getfixturevalue(name)
    ids = tokenizer.encode(text)
    pieces, rest = stream(tokenizer, ids)
    assert "".join(pieces) + rest == tokenizer.decode(ids)


@pytest.mark.parametrize("scheme", ["first", "always", "never"])
def test_metaspace_stream_equals_decode(unigram, scheme):
    backend = type(unigram.backend).from_str(unigram.backend.to_str())
    backend.decoder = decoders.Metaspace(prepend_scheme=scheme)
    tokenizer = Tokenizer(backend, unigram.config)
    for text in ("the star is", " the", "  the  is", ""):
        ids = tokenizer.encode(text)
        pieces, rest = stream(tokenizer, ids)
        assert "".join(pieces) + rest == tokenizer.decode(ids)


@given(ids=st.lists(st.integers(0, 255), max_size=30))
@SETTINGS
def test_random_bytes_never_show_half_characters(chatml, ids):
    pieces, rest = stream(chatml, ids)
    assert "".join(pieces) + rest == chatml.decode(ids)  # ill-formed UTF-8 too
    valid = chatml.encode("🙂")
    pieces, rest = stream(chatml, valid[:-1])
    assert pieces == [""] * (len(valid) - 1) and rest == "\ufffd"


def test_multi_byte_characters_come_out_whole(llama):
    ids = llama.encode("🙂é", add_special_tokens=False)
    pieces, rest = stream(llama, ids)
    assert [piece for piece in pieces if piece.strip()] == ["🙂", "é"]
    assert rest == ""


def test_special_tokens_are_skipped_kept_or_shown(chatml):
    ids = chatml.encode("<|im_start|>a<think>b<|im_end|>")
    assert "".join(stream(chatml, ids)[0]) == "a<think>b"
    assert "".join(stream(chatml, ids, skip_special_tokens=False)[0]) == "<|im_start|>a<think>b<|im_end|>"
    keep = [chatml.token_to_id("<|im_start|>")]
    assert "".join(stream(chatml, ids, keep=keep)[0]) == "<|im_start|>a<think>b"


def test_decoders_whose_tokens_depend_on_neighbours(chatml):
    from tokenizers import Tokenizer as Backend
    from tokenizers import models

    vocabulary = {"[UNK]": 0, "play": 1, "##ing": 2, "now": 3, "!": 4, "don": 5, "'": 6, "t": 7}
    backend = Backend(models.WordPiece(vocabulary, unk_token="[UNK]"))
    backend.decoder = decoders.WordPiece()
    tokenizer = Tokenizer(backend, {})
    assert decoder_rules({"type": "WordPiece"}) is None
    ids = [1, 2, 3, 4, 1, 3, 3, 1, 2, 3, 1, 2, 3]
    pieces, rest = stream(tokenizer, ids)
    assert "".join(pieces) + rest == tokenizer.decode(ids)
    assert len(pieces) == len(ids)


def test_id_without_a_token_gives_nothing(chatml):
    assert stream(chatml, [chatml.vocab_size + 5]) == ([""], "")


def test_table_of_bytes(any_tokenizer):
    table = any_tokenizer.token_bytes.all
    assert len(table) == any_tokenizer.vocab_size
    assert all(table[id_] == any_tokenizer.token_bytes.of(id_) for id_ in range(any_tokenizer.vocab_size))
