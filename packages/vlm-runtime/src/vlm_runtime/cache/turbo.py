"""Keys and values as TurboQuant packs them: a random rotation and a Lloyd-Max codebook (arXiv:2504.19874)."""

from __future__ import annotations

import mlx.core as mx

from vlm_kernels import KernelError, turboquant
from vlm_models import Attention, AttentionRules

from ..errors import OptionError
from .codec import Stored


class TurboQuantCodec:
    """Codes and norms of keys and of values, each with its own bits. The attention op reads them packed.

    Args:
        key_bits: 1 to 8.
        value_bits: 1 to 8.
    """

    def __init__(self, key_bits: int, value_bits: int) -> None:
        self.key_bits, self.value_bits = key_bits, value_bits
        self._sizes = (0, 0)

    def check(self, key_size: int, value_size: int) -> None:
        try:
            turboquant.Spec(self.key_bits, key_size)
            turboquant.Spec(self.value_bits, value_size)
        except KernelError as error:
            raise OptionError(f"kv_bits: {error}") from None
        self._sizes = (key_size, value_size)

    def encode(self, keys: mx.array, values: mx.array) -> Stored:
        packed = turboquant.encode(keys, self.key_bits), turboquant.encode(values, self.value_bits)
        return packed[0].codes, packed[0].norms, packed[1].codes, packed[1].norms

    def attend(
        self,
        queries: mx.array,
        stored: Stored,
        seen: int,
        plan: Attention,
        rules: AttentionRules,
        sinks: mx.array | None = None,
        prefix: Stored = (),
    ) -> mx.array:
        keys = turboquant.Packed(stored[0], stored[1], turboquant.Spec(self.key_bits, self._sizes[0]))
        values = turboquant.Packed(stored[2], stored[3], turboquant.Spec(self.value_bits, self._sizes[1]))
        plain = (prefix[0], prefix[1]) if prefix else None
        extras = turboquant.Extras(rules.softcap, sinks, plain)
        offsets: int | mx.array = plan.offsets if plan.start is None else plan.start
        blocks = plan.blocks is not None and rules.sees_blocks
        mask = plan.mask(extras.num_before + stored[1].shape[2], rules) if blocks else None
        return turboquant.attention(
            queries,
            keys,
            values,
            scale=rules.scale,
            lengths=offsets + plan.length,
            offsets=None if blocks else offsets,
            window=None if blocks else rules.window,
            mask=None if isinstance(mask, str) else mask,
            extras=extras,
        )
