"""Which keys a query sees: lengths, causality, a window, and an explicit mask."""

from __future__ import annotations

from dataclasses import dataclass

import mlx.core as mx

from vlm_kernels.errors import KernelError


@dataclass(frozen=True)
class KeyMask:
    """The keys that query i of row b may attend to; all conditions hold together.

    Args:
        lengths: keys [0, lengths) of the row are filled: one int, int32 [B], or None for all.
        offsets: position of the row's first query, so that query i sees keys up to offsets + i: int, int32 [B], or None
            for no causal limit.
        window: with offsets, a query sees its own position and the window - 1 before it.
        array: bool (True attends) or additive float, broadcastable to [B, H, L, S].
    """

    lengths: int | mx.array | None = None
    offsets: int | mx.array | None = None
    window: int | None = None
    array: mx.array | None = None

    def __post_init__(self) -> None:
        if self.window is not None and (self.offsets is None or self.window < 1):
            raise KernelError(
                f"turboquant: expected offsets beside a window of at least 1, got window {self.window!r} and "
                f"offsets {self.offsets!r}"
            )

    @property
    def is_on_host(self) -> bool:
        """Whether the host knows lengths and offsets, as it does outside a traced step."""
        return isinstance(self.lengths, int) and not isinstance(self.offsets, mx.array)

    def max_length(self, num_keys: int) -> int:
        """Keys beyond this index are hidden from every query, as far as the host knows."""
        return self.lengths if isinstance(self.lengths, int) else num_keys

    def after(self, count: int) -> KeyMask:
        """The same mask for the keys from index `count` on, counted from there."""
        if count == 0:
            return self
        array = self.array
        if array is not None and array.shape[-1] != 1:
            array = array[..., count:]
        lengths = None if self.lengths is None else self.lengths - count
        offsets = None if self.offsets is None else self.offsets - count
        return KeyMask(max(lengths, 0) if isinstance(lengths, int) else lengths, offsets, self.window, array)

    def apply(self, scores: mx.array, first_key: int) -> mx.array:
        """Masked scores; scores: [B, H, L, block] of the keys from `first_key` on."""
        length, block = scores.shape[2:]
        visible = self._visible(length, first_key, block)
        if visible is not None:
            scores = mx.where(visible, scores, -mx.inf)
        if self.array is None:
            return scores
        array = self.array
        if array.shape[-1] != 1:
            array = array[..., first_key : first_key + block]
        return mx.where(array, scores, -mx.inf) if array.dtype == mx.bool_ else scores + array.astype(mx.float32)

    def _visible(self, length: int, first_key: int, block: int) -> mx.array | None:
        """bool, broadcastable to [B, 1, L, block]."""
        key = mx.arange(first_key, first_key + block, dtype=mx.int32)
        visible = None
        if self.lengths is not None:
            visible = key < _per_row(self.lengths)
        if self.offsets is not None:
            query = _per_row(self.offsets) + mx.arange(length, dtype=mx.int32)[:, None]
            causal = key <= query
            visible = causal if visible is None else visible & causal
            if self.window is not None:
                visible = visible & (key > query - self.window)
        return visible


def _per_row(value: int | mx.array) -> mx.array:
    return mx.array(value, mx.int32).reshape(-1, 1, 1, 1)
