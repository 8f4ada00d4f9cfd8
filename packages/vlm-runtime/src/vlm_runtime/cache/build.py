"""From a model's cache specification and a user's options to caches. The one place that decides which layer gets what."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import mlx.core as mx

from vlm_kernels import KernelError, turboquant
from vlm_models import CacheSpec, Cross, Full, Recurrent, Several, Shared, Window

from ..errors import OptionError
from .affine import AffineCodec
from .codec import Codec, PlainCodec
from .contiguous import ContiguousCache
from .ring import RingCache
from .rows import CacheSet, Entry, LayerCache
from .split import SplitCache
from .state import CrossCache, RecurrentCache
from .turbo import TurboQuantCodec

# A row's first tokens gather attention that belongs nowhere; without them a bounded cache derails.
KEPT_TOKENS = 4
DEFAULT_GROUP = 64


@dataclass(frozen=True)
class CacheOptions:
    """How caches are kept.

    kv_bits: bits per value, None for plain. scheme: `uniform` or `turboquant`; None: turboquant for a fraction, else uniform.
    group_size: of the uniform scheme; None: 64, or what divides the head size. quantized_start: tokens before this index
    stay plain, all later ones are quantized. key_bits, value_bits: of the turboquant scheme, in place of kv_bits. full_layers: so
    many of the first and of the last full-attention layers stay plain, which keys shared by many query heads may need.
    max_kv_size: full-attention layers keep the first 4 and the last so many tokens less 4."""

    kv_bits: float | None = None
    scheme: Literal["uniform", "turboquant"] | None = None
    group_size: int | None = None
    quantized_start: int = 0
    key_bits: float | None = None
    value_bits: float | None = None
    max_kv_size: int | None = None
    full_layers: int = 0

    def __post_init__(self) -> None:
        if self.quantized_start < 0:
            raise OptionError(f"quantized_kv_start: expected 0 or more, got {self.quantized_start}")
        if self.max_kv_size is not None and self.max_kv_size <= KEPT_TOKENS:
            raise OptionError(f"max_kv_size: expected more than {KEPT_TOKENS}, got {self.max_kv_size}")
        if self.is_quantized and self.max_kv_size is not None:
            raise OptionError("max_kv_size: a bounded cache keeps its plain form; leave out max_kv_size or kv_bits")
        if self.scheme not in (None, "uniform", "turboquant"):
            raise OptionError(f"kv_quant_scheme: expected uniform or turboquant, got {self.scheme!r}")
        if not self.is_quantized:
            idle = {
                "kv_quant_scheme": self.scheme == "turboquant",
                "kv_group_size": self.group_size not in (None, DEFAULT_GROUP),
                "quantized_kv_start": self.quantized_start != 0,
                "kv_full_layers": self.full_layers != 0,
            }
            for name in (name for name, is_set in idle.items() if is_set):
                raise OptionError(f"{name}: expected kv_bits beside it; without bits nothing is quantized")
        if self.full_layers < 0:
            raise OptionError(f"kv_full_layers: expected 0 or more, got {self.full_layers}")
        if self.resolved_scheme == "turboquant" and self.group_size not in (None, DEFAULT_GROUP):
            raise OptionError("kv_group_size: turboquant has no groups; leave it out or use the uniform scheme")
        if self.resolved_scheme == "uniform" and (self.key_bits is not None or self.value_bits is not None):
            raise OptionError("kv_key_bits, kv_value_bits: expected kv_quant_scheme=turboquant beside them")
        if self.kv_bits is not None and self.resolved_scheme == "uniform" and self.kv_bits != int(self.kv_bits):
            raise OptionError(f"kv_bits: the uniform scheme takes whole bits, got {self.kv_bits:g}; use turboquant")

    @property
    def is_quantized(self) -> bool:
        return self.kv_bits is not None or self.key_bits is not None or self.value_bits is not None

    @property
    def resolved_scheme(self) -> str:
        if self.scheme is not None:
            return self.scheme
        whole = self.kv_bits is None or self.kv_bits == int(self.kv_bits)
        return "uniform" if whole and self.key_bits is None and self.value_bits is None else "turboquant"


def build_caches(specs: Sequence[CacheSpec], options: CacheOptions, *, dtype: mx.Dtype, batch: int = 1) -> CacheSet:
    """One cache per layer.

    Full-attention layers are quantized or bounded as the options say; sliding-window, recurrent and cross layers keep their
    form. Raises OptionError where an option cannot be served by any layer, or not by the heads of one.
    """
    fulls = [kind for kind in _kinds(specs) if isinstance(kind, Full)]
    if (options.is_quantized or options.max_kv_size is not None) and not fulls:
        name = "kv_bits" if options.is_quantized else "max_kv_size"
        raise OptionError(f"{name}: this model has no full-attention layer that it could act on; leave it out")
    layers: list[Entry] = []
    forms = iter(_forms(options, len(fulls)))
    for spec in specs:
        layers.append(_build(spec, layers, forms, dtype, batch))
    return CacheSet(layers)


def _kinds(specs: Sequence[CacheSpec]) -> list[CacheSpec]:
    """The specification of each cache, those of layers with several taken apart."""
    return [part for spec in specs for part in (spec.parts.values() if isinstance(spec, Several) else (spec,))]


def _forms(options: CacheOptions, count: int) -> list[CacheOptions]:
    """The options of each of `count` full-attention layers."""
    ends = options.full_layers
    if not ends:
        return [options] * count
    if 2 * ends >= count:
        raise OptionError(
            f"kv_full_layers: {ends} first and {ends} last layers in full precision leave nothing to quantize of this "
            f"model's {count} full-attention layers; give fewer"
        )
    return [CacheOptions()] * ends + [options] * (count - 2 * ends) + [CacheOptions()] * ends


def _build(
    spec: CacheSpec, earlier: Sequence[Entry], forms: Iterator[CacheOptions], dtype: mx.Dtype, batch: int
) -> Entry:
    match spec:
        case Several():
            return {name: _leaf(part, earlier, forms, dtype, batch) for name, part in spec.parts.items()}
        case Shared():
            return earlier[spec.layer]
        case _:
            return _leaf(spec, earlier, forms, dtype, batch)


def _leaf(
    spec: CacheSpec, earlier: Sequence[Entry], forms: Iterator[CacheOptions], dtype: mx.Dtype, batch: int
) -> LayerCache:
    match spec:
        case Full():
            options = next(forms)
            if options.max_kv_size is not None:
                return RingCache(options.max_kv_size, KEPT_TOKENS, batch)
            codec = _codec(options, spec)
            codec.check(spec.key_size, spec.value_size)
            if options.is_quantized and options.quantized_start > 0:
                return SplitCache(codec, options.quantized_start, batch)
            return ContiguousCache(codec, batch)
        case Window():
            return RingCache(spec.window, 0, batch)
        case Recurrent():
            return RecurrentCache(spec, dtype, batch)
        case Cross():
            return CrossCache(batch)
        case Shared():
            shared = earlier[spec.layer]
            if not isinstance(shared, LayerCacheTypes):
                raise OptionError(f"layer {spec.layer} has several caches; a part cannot share it")
            return shared
    raise OptionError(f"no cache is known for {type(spec).__name__}")


LayerCacheTypes = (ContiguousCache, SplitCache, RingCache, RecurrentCache, CrossCache)


def _codec(options: CacheOptions, spec: Full) -> Codec:
    if not options.is_quantized:
        return PlainCodec()
    if options.resolved_scheme == "turboquant":
        return TurboQuantCodec(*_turbo_bits(options))
    if options.kv_bits is None:
        raise OptionError("kv_bits: expected a number of bits for the uniform scheme")
    return AffineCodec(int(options.kv_bits), options.group_size or _group_size(spec))


def bytes_per_token(specs: Sequence[CacheSpec], options: CacheOptions, *, dtype: mx.Dtype) -> float:
    """Bytes that one more token takes in all layers that keep every token."""
    if options.max_kv_size is not None:
        return 0.0
    total = 0.0
    fulls = [kind for kind in _kinds(specs) if isinstance(kind, Full)]
    for spec, form in zip(fulls, _forms(options, len(fulls)), strict=True):
        codec = _codec(form, spec)
        codec.check(spec.key_size, spec.value_size)
        shape = (1, spec.num_heads, 1, spec.key_size), (1, spec.num_heads, 1, spec.value_size)
        total += sum(a.nbytes for a in codec.encode(mx.zeros(shape[0], dtype), mx.zeros(shape[1], dtype)))
    return total


def _turbo_bits(options: CacheOptions) -> tuple[int, int]:
    """Bits of keys and of values; a fraction gives keys the lower."""
    bits: list[int] = []
    for place, own in enumerate((options.key_bits, options.value_bits)):
        given = own if own is not None else options.kv_bits
        if given is None:
            raise OptionError("kv_key_bits, kv_value_bits: expected both, or kv_bits beside one")
        try:
            bits.append(turboquant.split_bits(float(given))[place])
        except KernelError as error:
            raise OptionError(f"kv_bits: {error}") from None
    return bits[0], bits[1]


def _group_size(spec: Full) -> int:
    fitting = [size for size in (DEFAULT_GROUP, 32) if spec.key_size % size == 0 and spec.value_size % size == 0]
    return fitting[0] if fitting else DEFAULT_GROUP
