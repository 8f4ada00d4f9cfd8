"""A prompt as rendered by a chat template: text, where special tokens may be matched in it, and the media it names."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

MediaKind = Literal["image", "audio", "video"]


@dataclass(frozen=True, eq=False)
class MediaRef:
    """A medium named inside a message, not yet fetched.

    Args:
        kind: What it is.
        source: Path, URL, data URI, bytes, `PIL.Image`, array...; None where the message holds a bare placeholder.
        options: What the message says beside the source, such as `fps` or `max_pixels`.
    """

    kind: MediaKind
    source: Any = None
    options: Mapping[str, Any] = field(default_factory=dict)


class Rendered(str):
    """The rendered prompt. Reads and prints as plain text; its borders and media travel with it.

    `segments` joined give the text. Special tokens and media placeholders are recognised only inside one segment: a
    border runs through every such string that a user typed, so that it stays text. String methods other than `+`
    return a plain `str`, which is trusted like any prompt that the caller writes.
    """

    segments: tuple[str, ...]
    media: tuple[MediaRef, ...]

    def __new__(cls, segments: Sequence[str], media: Sequence[MediaRef] = ()) -> Rendered:
        parts = (segments,) if isinstance(segments, str) else tuple(segments)
        self = super().__new__(cls, "".join(parts))
        self.segments = parts
        self.media = tuple(media)
        return self

    def __getnewargs__(self) -> tuple[Any, ...]:
        return (self.segments, self.media)

    def map_trusted(self, function: Callable[[str], str]) -> Rendered:
        """Apply `function` to each segment in order, as placeholder expansion does; borders and media stay."""
        return Rendered([function(segment) for segment in self.segments], self.media)

    def __add__(self, other: str) -> Rendered:
        if isinstance(other, Rendered):
            return Rendered((*self.segments, *other.segments), (*self.media, *other.media))
        return Rendered((*self.segments[:-1], "".join((*self.segments[-1:], other))), self.media)

    def __radd__(self, other: str) -> Rendered:
        return Rendered((str(other) + "".join(self.segments[:1]), *self.segments[1:]), self.media)
