"""The contract every model fulfils, and what most of them share: nothing but arithmetic.

A model never samples, builds caches, opens files, prints or loops over requests.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from ..errors import ModalityError, ModelError
from .attention import Attention
from .cache import CacheSpec
from .inputs import Features, Inputs, MediaItem, Output, Prompt, Span

Select = slice | mx.array | None


class Model(nn.Module):
    """Base of the families' models. Subclasses set `token_embedding` or override `embed`."""

    def encode(self, items: Sequence[MediaItem]) -> list[Features]:
        """Features of each item; depends on the item alone, so that it can be cached by content.

        Raises ModalityError for a kind the family does not take."""
        kind = items[0].kind if items else "media"
        raise ModalityError(f"{type(self).__module__.rpartition('.')[2]} takes no {kind}")

    def embed(self, tokens: mx.array, features: Sequence[Features], spans: Sequence[Span]) -> Inputs:
        """Embed tokens [B, L] and put feature rows in the places that `spans` name (rows of a batch of one).

        Works on any chunk of a prompt: `spans` are clipped to the chunk, `features[span.item]` is the whole item's."""
        raise NotImplementedError

    def encode_context(self, prompt: Prompt, features: Sequence[Features], cache: Sequence[Any]) -> None:
        """Fill the Cross caches from `prompt.context` and its features. Only families with cross attention."""
        raise ModelError(f"{type(self).__module__.rpartition('.')[2]} has no cross attention")

    def __call__(
        self,
        inputs: Inputs,
        positions: mx.array,
        attention: Attention,
        cache: Sequence[Any],
        *,
        select: Select = None,
        adapters: Sequence[str | None] | None = None,
    ) -> Output:
        """Run a chunk of every row through all layers.

        positions: int32 [axes, B, L]. cache: one entry per layer, updated in place. select: which of the L rows need
        logits: a slice, an int32 array of indices, or None for all. adapters: a branch name per row, families with
        branches only."""
        raise NotImplementedError

    def cache_spec(self) -> tuple[CacheSpec, ...]:
        """What each layer remembers; the caller builds the caches."""
        raise NotImplementedError

    def feedback(self, hidden: mx.array, tokens: mx.array) -> Inputs:
        """Embedding of the tokens [B, 1] just chosen, where that is not a table look-up. hidden: [B, 1, D]."""
        return self.embed(tokens, (), ())

    @property
    def whole_beyond(self) -> int | None:
        """Prompts of more tokens than this are computed in one piece; None: all may be cut."""
        return None

    @property
    def dtype(self) -> mx.Dtype:
        """Type of the activations: that of the text embedding's output."""
        return self.embed(mx.zeros((1, 1), mx.int32), (), ()).embeds.dtype


def selected(hidden: mx.array, select: Select) -> mx.array:
    """Rows of hidden [B, L, D] that need logits."""
    if select is None:
        return hidden
    if isinstance(select, slice):
        return hidden[:, select]
    return mx.take(hidden, select, axis=1)
