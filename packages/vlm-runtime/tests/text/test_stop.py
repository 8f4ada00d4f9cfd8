from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vlm_runtime.errors import OptionError
from vlm_runtime.text.stop import StopStrings


def run(stops, pieces):
    matcher = StopStrings(stops)
    out = "".join(matcher.add(piece) for piece in pieces)
    return out + ("" if matcher.found else matcher.finish()), matcher.found


def test_stop_across_pieces_is_not_shown():
    assert run(["STOP"], ["one S", "T", "OP two"]) == ("one ", "STOP")
    assert run(["STOP"], ["one ST", "AR"]) == ("one STAR", None)


def test_only_a_possible_beginning_is_held_back():
    matcher = StopStrings(["\n\nUser:"])
    assert matcher.add("hello\n") == "hello"
    assert matcher.add("world") == "\nworld"
    assert matcher.add("\n\nUser") == ""
    assert matcher.finish() == "\n\nUser"


def test_the_stop_that_is_complete_first_wins():
    assert run(["abcd", "bc"], ["xabcd"]) == ("xa", "bc")
    assert run(["bc", "abc"], ["xabc"]) == ("x", "abc")


@pytest.mark.parametrize("stops", [[""], ["x" * 1001], [3]])
def test_useless_stops_are_refused(stops):
    with pytest.raises(OptionError, match="stop: expected"):
        StopStrings(stops)


@given(
    st.lists(st.text("ab", min_size=1, max_size=4), min_size=1, max_size=3),
    st.lists(st.text("abc", max_size=4), max_size=8),
)
def test_cuts_do_not_matter(stops, pieces):
    text = "".join(pieces)
    assert run(stops, pieces) == run(stops, [text])
    shown, found = run(stops, pieces)
    ends = [(text.find(stop) + len(stop), -len(stop), stop) for stop in stops if stop in text]
    if ends:
        end, size, stop = min(ends)
        assert (shown, found) == (text[: end + size], stop)
    else:
        assert (shown, found) == (text, None)
