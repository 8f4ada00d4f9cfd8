"""From media and text to a `Prompt`, for every family along one path. Knows tokens and placeholders; no model, no files.

image()/video()/audio()  one decoded medium -> MediaItem
expand()                 placeholders in trusted template text -> token runs, still as text
prompt()                 token ids + items -> spans, positions, blocks
unpack()                 arrays under transformers' argument names -> items (parity tooling)
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..core.family import TokenTable
from ..core.inputs import MediaItem, MediaKind, Prompt, Span
from ..errors import ModalityError, PlaceholderError, ProcessingError


@dataclass(frozen=True)
class MediaOptions:
    """What a caller may ask of processing; None leaves the checkpoint's setting.

    min_pixels, max_pixels: limits of an image's or frame's area after resizing. resize_shape: (height, width) to resize to
    before anything else. fps, max_frames: how a video is sampled. duration: seconds of the whole video the frames are from,
    where the reader knows it (the families that place frames in time need it). num_images: images in the same prompt, which
    the caller counts (some families spend fewer tokens on each where there are several).
    """

    min_pixels: int | None = None
    max_pixels: int | None = None
    resize_shape: tuple[int, int] | None = None
    fps: float | None = None
    max_frames: int | None = None
    duration: float | None = None
    num_images: int = 1

    def area_limits(self, low: int, high: int) -> tuple[int, int]:
        """The checkpoint's limits of area, with the caller's put over them. Raises ProcessingError if they cross."""
        if self.min_pixels is not None and self.max_pixels is not None and self.min_pixels > self.max_pixels:
            raise ProcessingError(f"min_pixels {self.min_pixels} is above max_pixels {self.max_pixels}")
        if self.min_pixels is not None:
            low, high = self.min_pixels, max(high, self.min_pixels)
        if self.max_pixels is not None:
            low, high = min(low, self.max_pixels), self.max_pixels
        return low, high


class Processing:
    """Base of the families' strategies. Subclasses set `token_ids` and what they support.

    token_ids: the token that stands for one feature row, by kind of media, as it occurs in expanded prompts.
    """

    token_ids: Mapping[MediaKind, int] = {}
    # what the loader hands on: the family's name for messages, and Model.whole_beyond, where longer prompts are never cut
    family: str = ""
    whole_beyond: int | None = None

    def __init__(self, table: TokenTable | None = None) -> None:
        self.table = table

    def image(self, rgb: np.ndarray, options: MediaOptions) -> MediaItem:
        """rgb: uint8 [H, W, 3]."""
        raise ModalityError(f"{self._name} takes no images")

    def video(self, frames: np.ndarray, timestamps: Sequence[float], options: MediaOptions) -> MediaItem:
        """frames: uint8 [T, H, W, 3], already sampled. timestamps: seconds of each frame."""
        raise ModalityError(f"{self._name} takes no video")

    def sample(self, total: int, rate: float, options: MediaOptions) -> np.ndarray:
        """int64 indices of the frames that `video` wants of a video of `total` frames at `rate` a second."""
        raise ModalityError(f"{self._name} takes no video")

    def audio(self, pcm: np.ndarray, rate: int, options: MediaOptions) -> MediaItem:
        """pcm: float32 [samples], mono, at `rate` = `sample_rate`."""
        raise ModalityError(f"{self._name} takes no audio")

    @property
    def sample_rate(self) -> int:
        """Samples per second that `audio` wants."""
        raise ModalityError(f"{self._name} takes no audio")

    @property
    def kinds(self) -> tuple[MediaKind, ...]:
        """Kinds of media with a placeholder of their own."""
        return tuple(self.token_ids)

    def placeholder(self, kind: MediaKind) -> str:
        """The text that stands for one medium in a prompt before expansion. Default: the kind's feature token."""
        if kind not in self.token_ids:
            raise ModalityError(f"{self._name} takes no {kind}")
        return self._text(self.token_ids[kind])

    def replacement(self, item: MediaItem) -> str:
        """The text that replaces an item's placeholder. Default: its feature token, num_tokens times."""
        return self._text(self.token_ids[item.kind]) * item.num_tokens

    def expand(self, pieces: Sequence[str], items: Sequence[MediaItem]) -> list[str]:
        """Replace each placeholder in the pieces (trusted text, in order) by its item's run.

        Items of one kind are taken in order. Raises PlaceholderError where counts differ."""
        waiting = iter(self.in_order(pieces, items))
        marks = self._marks()
        return [marks.sub(lambda _: self.replacement(next(waiting)), piece) for piece in pieces]

    def in_order(self, pieces: Sequence[str], items: Sequence[MediaItem]) -> list[MediaItem]:
        """The items in the order of their placeholders in the pieces; items of one kind are taken as they come.

        Raises PlaceholderError where counts differ."""
        spellings = self.spellings
        found = [spellings[mark.group()] for piece in pieces for mark in self._marks().finditer(piece)]
        waiting = {kind: [item for item in items if item.kind == kind] for kind in self.kinds}
        for kind in self.kinds:
            if found.count(kind) != len(waiting[kind]):
                raise PlaceholderError(
                    f"the prompt has {found.count(kind)} {kind} placeholder(s) {self.placeholder(kind)!r} "
                    f"but {len(waiting[kind])} {kind}(s) were given"
                )
        return [waiting[kind].pop(0) for kind in found]

    @property
    def spellings(self) -> Mapping[str, MediaKind]:
        """Every text that `expand` takes for a placeholder, with its kind. Default: each kind's placeholder."""
        return {self.placeholder(kind): kind for kind in self.kinds}

    def mentions(self, text: str) -> dict[MediaKind, int]:
        """How many media of each kind a text has placeholders for."""
        found = [self.spellings[mark.group()] for mark in self._marks().finditer(text)]
        return {kind: found.count(kind) for kind in self.kinds}

    def _marks(self) -> re.Pattern[str]:
        marks = sorted(self.spellings, key=len, reverse=True)
        return re.compile("|".join(re.escape(mark) for mark in marks) or "(?!)")

    def prompt(self, tokens: Sequence[int] | np.ndarray, items: Sequence[MediaItem]) -> Prompt:
        """Put items in their places. Raises PlaceholderError where the runs do not fit the items."""
        ids = np.asarray(tokens, dtype=np.int32)
        spans = self.locate(ids, items)
        positions, delta = self.positions(ids, items, spans)
        blocks = self.blocks(ids, items, spans)
        if self.whole_beyond is not None and len(ids) > self.whole_beyond:
            blocks = ((0, len(ids)),)
        return Prompt(ids, positions, tuple(items), spans, delta, blocks)

    def places(self, tokens: np.ndarray) -> list[tuple[tuple[MediaKind, ...], np.ndarray]]:
        """Indices of feature tokens, with the kinds of media that may stand there. Kinds that share a token share places."""
        kinds: dict[int, list[MediaKind]] = {}
        for kind, token_id in self.token_ids.items():
            kinds.setdefault(token_id, []).append(kind)
        return [(tuple(names), np.flatnonzero(tokens == token_id)) for token_id, names in kinds.items()]

    def locate(self, tokens: np.ndarray, items: Sequence[MediaItem]) -> tuple[Span, ...]:
        """Feature tokens, handed to the items of their kinds in order: for kinds that share a token, `items` must be
        in the order of the prompt (see `in_order`)."""
        spans: list[Span] = []
        for kinds, where in self.places(tokens):
            queue = [(index, item.num_tokens) for index, item in enumerate(items) if item.kind in kinds]
            if len(where) != sum(count for _, count in queue):
                name = " and ".join(kinds)
                raise PlaceholderError(
                    f"the prompt has {len(where)} {name} tokens, its {len(queue)} {name}(s) take {sum(c for _, c in queue)}"
                )
            at = 0
            for index, count in queue:
                spans += _runs(index, where[at : at + count])
                at += count
        return tuple(sorted(spans, key=lambda span: span.start))

    def positions(
        self, tokens: np.ndarray, items: Sequence[MediaItem], spans: Sequence[Span]
    ) -> tuple[np.ndarray, int]:
        """Positions [axes, L] and the delta for what follows. Default: one axis, counting from 0."""
        return np.arange(len(tokens), dtype=np.int32)[None], 0

    def blocks(
        self, tokens: np.ndarray, items: Sequence[MediaItem], spans: Sequence[Span]
    ) -> tuple[tuple[int, int], ...]:
        """Runs that see themselves in both directions. Default: none."""
        return ()

    def type_ids(self, tokens: np.ndarray) -> np.ndarray:
        """What transformers calls mm_token_type_ids [L]. Default: 1 at tokens of pictures, 2 of videos, 3 of sounds."""
        kinds = np.zeros(len(tokens), int)
        for names, places in self.places(tokens):
            kinds[places] = ("image", "video", "audio").index(names[0]) + 1
        return kinds

    def typed(self, prompt: Prompt, type_ids: np.ndarray) -> Prompt:
        """The prompt that these token_type_ids [L] describe. Default: they must be 1 at image tokens and 0 elsewhere.

        Raises ProcessingError where they are not what the family makes of the prompt."""
        if not np.array_equal(type_ids, prompt.tokens == self.token_ids.get("image", -1)):
            raise ProcessingError("token_type_ids differ from the places of image tokens")
        return prompt

    def unpack(self, arrays: Mapping[str, np.ndarray]) -> list[MediaItem]:
        """Items from arrays under transformers' argument names, in prompt order per kind; takes only what it knows.

        `used` names of this family are in `unpack_names`."""
        if arrays:
            raise ProcessingError(f"{self._name} does not read {', '.join(sorted(arrays))}")
        return []

    unpack_names: frozenset[str] = frozenset()

    @property
    def _name(self) -> str:
        return self.family or type(self).__module__.rpartition(".")[2]

    def _text(self, token_id: int) -> str:
        if self.table is None:
            raise ProcessingError("expansion of placeholders needs the checkpoint's tokenizer")
        return self.table.text(token_id)


def _runs(item: int, where: np.ndarray) -> list[Span]:
    """Consecutive stretches of the indices `where` as spans of one item."""
    if len(where) == 0:
        return []
    breaks = np.flatnonzero(np.diff(where) != 1) + 1
    starts = np.concatenate([[0], breaks])
    stops = np.concatenate([breaks, [len(where)]])
    return [Span(item, int(where[a]), int(b - a), int(a)) for a, b in zip(starts, stops, strict=True)]


def pick(files: Mapping[str, Any], key: str, default: Any) -> Any:
    """files[key], or the default where it is absent or null."""
    value = files.get(key)
    return default if value is None else value
