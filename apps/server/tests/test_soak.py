"""The long run of `soak.py`, and a short one that shows that it sees what it looks for."""

from __future__ import annotations

import asyncio
import random

import pytest

from .soak import Seen, Visitor, crowd, distance, report, served, slope


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_ten_minutes_of_32_clients() -> None:
    with served() as (url, pid):
        result = report(asyncio.run(crowd(url, pid, 600)), 600)
    assert result["problems"] == [], result


def test_answers_of_others_and_growth_are_seen() -> None:
    seen = Seen()
    visitor = Visitor(None, random.Random(0), seen)  # type: ignore[arg-type]
    visitor.check("ACDEFHJ", "ACDEFHJ")
    visitor.check("ACDEFHJ", "ACDFHJ")
    visitor.check("ACDEFHJ", "KLMNPRT")
    visitor.check("7", "8")
    assert seen.misread == [("ACDEFHJ", "ACDFHJ")] and [asked for asked, _ in seen.wrong] == ["ACDEFHJ", "7"]
    assert distance("abc", "abc") == 0 and distance("abc", "b") == 2 and distance("", "ab") == 2
    assert slope([(second, 100.0 + second / 60) for second in range(600)]) == pytest.approx(1.0)
    assert slope([(second, 50.0 if second < 100 else 100.0) for second in range(600)]) == pytest.approx(0.0)
