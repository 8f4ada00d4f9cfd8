"""What attention may take beside packed keys: plain tokens before them, capped scores, sinks."""

from __future__ import annotations

from dataclasses import dataclass

import mlx.core as mx

from vlm_kernels.errors import KernelError

from .masks import KeyMask


@dataclass(frozen=True, eq=False)
class Extras:
    """Options that few layers need.

    Args:
        softcap: scores s become softcap * tanh(s / softcap).
        sinks: [H], a score per head that takes weight and gives nothing.
        prefix: plain keys [B, Hkv, P, D] and values [B, Hkv, P, Dv] of the P tokens before the packed ones; lengths, offsets
            and masks then count from the first of them.
    """

    softcap: float | None = None
    sinks: mx.array | None = None
    prefix: tuple[mx.array, mx.array] | None = None

    def __post_init__(self) -> None:
        if self.softcap is not None and not self.softcap > 0:
            raise KernelError(f"turboquant: expected a positive softcap, got {self.softcap!r}")
        if self.prefix is not None and self.prefix[0].shape[:3] != self.prefix[1].shape[:3]:
            raise KernelError(
                f"turboquant: expected keys and values of one prefix [B, Hkv, P], got {self.prefix[0].shape} and "
                f"{self.prefix[1].shape}"
            )

    @property
    def num_before(self) -> int:
        """Tokens of the prefix."""
        return 0 if self.prefix is None else int(self.prefix[0].shape[2])

    @property
    def is_merged(self) -> bool:
        """Whether something is joined with the attention over the packed keys."""
        return self.sinks is not None or self.prefix is not None

    def cap(self, scores: mx.array) -> mx.array:
        """Capped scores."""
        return scores if self.softcap is None else self.softcap * mx.tanh(scores / self.softcap)


NONE = Extras()


def with_extras(
    out: mx.array, log_total: mx.array, q: mx.array, *, scale: float, mask: KeyMask, extras: Extras
) -> mx.array:
    """Attention over packed keys joined with the sinks and the plain tokens before them.

    Args:
        out: float32 [B, H, L, DV], over the packed keys alone.
        log_total: float32 [B, H, L], the logarithm of the sum of their weights, -inf for none.
        mask: of prefix and packed keys together.
    """
    parts = [(out, log_total)]
    if extras.sinks is not None:
        sinks = mx.broadcast_to(extras.sinks.astype(mx.float32)[None, :, None], log_total.shape)
        parts.append((mx.zeros_like(out), sinks))
    if extras.prefix is not None:
        parts.append(_plain(q, *extras.prefix, scale=scale, mask=mask, extras=extras))
    highest = parts[0][1]
    for _, other in parts[1:]:
        highest = mx.maximum(highest, other)
    highest = mx.where(mx.isinf(highest), 0.0, highest)
    weights = [mx.exp(part - highest)[..., None] for _, part in parts]
    total = mx.maximum(sum(weights[1:], weights[0]), 1e-30)
    return sum((w * o for w, (o, _) in zip(weights[1:], parts[1:], strict=True)), weights[0] * parts[0][0]) / total


def _plain(
    q: mx.array, keys: mx.array, values: mx.array, *, scale: float, mask: KeyMask, extras: Extras
) -> tuple[mx.array, mx.array]:
    """Attention of few queries over plain keys, and the logarithm of its total weight."""
    batch, heads, length, size = q.shape
    group = (batch, keys.shape[1], heads // keys.shape[1] * length)
    scores = (q.reshape(*group, size) @ keys.astype(q.dtype).swapaxes(-1, -2)).astype(mx.float32) * scale
    scores = mask.apply(extras.cap(scores).reshape(batch, heads, length, -1), 0)
    log_total = mx.logsumexp(scores, axis=-1)
    weights = mx.exp(scores - mx.where(mx.isinf(log_total), 0.0, log_total)[..., None])
    out = weights.reshape(*group, -1) @ values.astype(mx.float32)
    return out.reshape(batch, heads, length, -1), log_total
