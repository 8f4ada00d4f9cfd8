"""Find marker strings in text that arrives in pieces."""

from __future__ import annotations

from collections.abc import Iterable


def first_marker(text: str, markers: Iterable[str], start: int = 0) -> tuple[int, str] | None:
    """The marker that is complete first, the longest of those, and where it begins; None if there is none."""
    best: tuple[int, int, str] | None = None
    for marker in markers:
        place = text.find(marker, start)
        if place >= 0 and (best is None or (place + len(marker), place) < best[:2]):
            best = (place + len(marker), place, marker)
    return None if best is None else (best[1], best[2])


def partial_marker(text: str, markers: Iterable[str]) -> int:
    """Length of the longest end of `text` that a marker may continue; 0 if none."""
    return max((_partial(text, marker) for marker in markers), default=0)


def _partial(text: str, marker: str) -> int:
    size = min(len(text), len(marker) - 1)
    while size > 0 and not marker.startswith(text[-size:]):
        size -= 1
    return size
