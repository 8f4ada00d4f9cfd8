"""What the engine remembers: caches by layout and codec, prefixes across requests, vision features."""

from .affine import AffineCodec
from .build import CacheOptions, build_caches, bytes_per_token
from .codec import Codec, PlainCodec
from .features import CacheStats, VisionFeatureCache
from .prefix import Match, PrefixIndex, prefix_keys
from .rows import CacheSet
from .saved import load_caches, save_caches
from .turbo import TurboQuantCodec

__all__ = [
    "AffineCodec",
    "CacheOptions",
    "CacheSet",
    "CacheStats",
    "Codec",
    "Match",
    "PlainCodec",
    "PrefixIndex",
    "TurboQuantCodec",
    "VisionFeatureCache",
    "build_caches",
    "bytes_per_token",
    "load_caches",
    "prefix_keys",
    "save_caches",
]
