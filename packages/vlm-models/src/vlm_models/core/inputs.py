"""What travels between processing, the runtime and a model. Frozen, with named axes; knows no family.

media --Processing--> MediaItem --Model.encode--> Features
text  --Processing.expand, tokenizer--> tokens --Processing.prompt--> Prompt
Prompt (a chunk of it) + Features --Model.embed--> Inputs --Model()--> Output
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import mlx.core as mx
import numpy as np

MediaKind = Literal["image", "video", "audio"]


@dataclass(frozen=True)
class MediaItem:
    """One image, video or audio in the form its encoder reads.

    arrays: numpy arrays by name; the names belong to the family's processing and encoder.
    grid: the item's shape in encoder patches, where the family has one: (t, h, w) or (h, w).
    num_tokens: feature rows it yields, which is the number of prompt tokens that take them.
    facts: further host values that expansion or positions need (timestamps, tile counts...).
    digest: content key, given by the caller; covers the media and the processing applied to it.
    """

    kind: MediaKind
    arrays: Mapping[str, np.ndarray]
    num_tokens: int
    grid: tuple[int, ...] = ()
    facts: Mapping[str, Any] = field(default_factory=dict)
    digest: str = ""


@dataclass(frozen=True)
class Features:
    """What `Model.encode` gives for one item.

    tokens: [num_tokens, dim], in the order in which the prompt takes them.
    levels: further arrays with the same first axis (deepstack levels...), by name.
    """

    tokens: mx.array
    levels: Mapping[str, mx.array] = field(default_factory=dict)

    @property
    def num_bytes(self) -> int:
        return self.tokens.nbytes + sum(level.nbytes for level in self.levels.values())

    def arrays(self) -> list[mx.array]:
        return [self.tokens, *self.levels.values()]


@dataclass(frozen=True)
class Span:
    """tokens[start : start + length] of a prompt take rows [offset : offset + length] of an item's features.

    An item may have several spans (tiles with separators between them); together they take each row once.
    """

    item: int
    start: int
    length: int
    offset: int = 0

    @property
    def stop(self) -> int:
        return self.start + self.length

    def clip(self, start: int, stop: int) -> Span | None:
        """The part of this span inside [start, stop), with `start` counted from the chunk's first token."""
        low, high = max(self.start, start), min(self.stop, stop)
        if low >= high:
            return None
        return Span(self.item, low - start, high - low, self.offset + low - self.start)


@dataclass(frozen=True)
class Prompt:
    """A tokenized prompt with its media in place.

    tokens: int32 [L], placeholders expanded.
    positions: int32 [axes, L]; one axis, or three for M-RoPE (time, height, width).
    position_delta: a generated token at sequence index i has position i + position_delta on every axis.
    blocks: [start, stop) runs that see themselves in both directions; never split by a chunk.
    limit, beyond: once prompt and answer are more than `limit` tokens, all run through the branch `beyond`, computed anew.
    apart: int [n], indices of tokens inside blocks that take no part: they see and are seen as text is.
    context: encoder-decoder families only: what the encoder reads; `tokens` then starts the decoder.
    adapter: name of the adapter branch every token of this prompt runs through, if the family has branches.
    """

    tokens: np.ndarray
    positions: np.ndarray
    items: tuple[MediaItem, ...] = ()
    spans: tuple[Span, ...] = ()
    position_delta: int = 0
    blocks: tuple[tuple[int, int], ...] = ()
    context: Prompt | None = None
    adapter: str | None = None
    limit: int | None = None
    beyond: str | None = None
    apart: np.ndarray | None = None

    def __len__(self) -> int:
        return int(self.tokens.shape[0])

    def adapter_at(self, length: int) -> str | None:
        """The branch for prompt and answer of so many tokens together."""
        return self.beyond if self.limit is not None and length > self.limit else self.adapter

    def extended(self, answer: Sequence[int]) -> Prompt:
        """Prompt and answer so far as one prompt."""
        start, stop = len(self), len(self) + len(answer)
        line = np.arange(start, stop, dtype=np.int32) + self.position_delta
        added = np.broadcast_to(line, (self.positions.shape[0], stop - start))
        return replace(
            self,
            tokens=np.concatenate([self.tokens, np.asarray(answer, np.int32)]),
            positions=np.concatenate([self.positions, added], axis=1),
            adapter=self.adapter_at(stop),
        )

    def legal_cut(self, at: int) -> int:
        """The first index >= `at` where the prompt may be cut; never inside a block."""
        for start, stop in self.blocks:
            if start < at < stop:
                return stop
        return min(at, len(self))

    def spans_in(self, start: int, stop: int) -> tuple[Span, ...]:
        """Spans clipped to the chunk [start, stop), counted from its first token."""
        return tuple(part for span in self.spans if (part := span.clip(start, stop)) is not None)

    def block_ids(self, start: int, stop: int) -> np.ndarray | None:
        """int32 [stop - start]: the block each token belongs to, -1 for none; None where no token is in a block."""
        inside = [(i, b) for i, b in enumerate(self.blocks) if b[0] < stop and b[1] > start]
        if not inside:
            return None
        ids = np.full(stop - start, -1, np.int32)
        for index, (low, high) in inside:
            ids[max(low, start) - start : min(high, stop) - start] = index
        if self.apart is not None:
            ids[self.apart[(self.apart >= start) & (self.apart < stop)] - start] = -1
        return ids

    def with_digests(self, digests: tuple[str, ...]) -> Prompt:
        items = tuple(replace(item, digest=digest) for item, digest in zip(self.items, digests, strict=True))
        return replace(self, items=items)


@dataclass(frozen=True)
class Inputs:
    """Embedded tokens. embeds: [B, L, D]. per_token: arrays whose axis 1 is L (per-layer embeddings, deepstack...)."""

    embeds: mx.array
    per_token: Mapping[str, mx.array] = field(default_factory=dict)


@dataclass(frozen=True)
class Output:
    """logits: [B, n, V] at the selected rows. hidden: [B, L, D], after the last norm."""

    logits: mx.array
    hidden: mx.array
