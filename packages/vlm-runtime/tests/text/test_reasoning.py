from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from vlm_runtime.text.reasoning import ReasoningSplitter, Split, thinking_markers


def run(pieces, **options):
    splitter = ReasoningSplitter(**options)
    result = Split()
    for piece in pieces:
        result += splitter.add(piece)
    return result + splitter.finish()


def test_a_block_is_split_off():
    assert run(["<think>\nhm \n</think>\n\nfour"]) == Split("hm", "four")
    assert run(["four"]) == Split("", "four")
    assert run(["a <b> </think> c"]) == Split("", "a <b> </think> c")


def test_a_block_opened_by_the_prompt():
    assert run(["hm\n</think>\n\nfour"], is_open=True) == Split("hm", "four")
    assert run(["\n<think>\nhm</think>four"], is_open=True) == Split("hm", "four")
    assert run(["cut off"], is_open=True) == Split("cut off", "")


def test_several_blocks():
    text = "<think>one</think>A <think> two </think> B"
    assert run([text]) == Split("one\n\ntwo", "A B")


def test_inner_blanks_are_kept():
    assert run(["<think>a\n\n b</think>x \n y\n"]) == Split("a\n\n b", "x \n y\n")


def test_other_markers():
    assert run(["◁think▷x◁/think▷y"], start="◁think▷", end="◁/think▷") == Split("x", "y")


def test_reasoning_streams_as_it_comes():
    splitter = ReasoningSplitter()
    assert splitter.add("<think>step one") == Split("step one")
    assert splitter.add(" \n") == Split()
    assert splitter.add("two</thi") == Split(" \ntwo")
    assert splitter.add("nk>ok") == Split("", "ok")


PIECES = st.lists(
    st.sampled_from(["<think>", "</think>", "<th", "ink>", "</", "think>", "\n", " ", "a", "b c", "<"]), max_size=12
)


@given(PIECES, st.booleans(), st.data())
def test_cuts_do_not_matter(pieces, is_open, data):
    text = "".join(pieces)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=6)))
    parts = [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)])]
    assert run(parts, is_open=is_open) == run([text], is_open=is_open) == run(list(text), is_open=is_open)


def test_templates_tell_their_markers():
    assert thinking_markers("{{ '<think>\\n' }}") == ("<think>", "</think>")
    assert thinking_markers("content.split('</think>')") == ("<think>", "</think>")
    assert thinking_markers("'<|channel>thought\\n' + x + '<channel|>'") == ("<|channel>thought", "<channel|>")
    assert thinking_markers("{{ messages }}") is None
    start, end = thinking_markers("<|channel>")
    assert run(["<|channel>thought\nhm\n<channel|>four"], start=start, end=end) == Split("hm", "four")
