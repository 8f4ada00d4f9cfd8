"""Vision-language model architectures and torch-free processing on MLX."""

from __future__ import annotations

import vlm_kernels  # names a missing MLX backend before MLX does

from .core.attention import Attention, AttentionRules
from .core.cache import (
    AttentionCache,
    CacheSpec,
    Cross,
    Full,
    Recurrent,
    Several,
    Shared,
    StateCache,
    Window,
    plain_caches,
)
from .core.config import ModelConfig, read_config
from .core.family import Family, ProcessorFiles, TokenTable
from .core.inputs import Features, Inputs, MediaItem, MediaKind, Output, Prompt, Span
from .core.model import Model
from .core.weights import apply_rules, written_as_convolution, written_paths
from .errors import (
    ConfigError,
    ModalityError,
    ModelError,
    PlaceholderError,
    ProcessingError,
    UnsupportedModel,
    WeightError,
)
from .layers.linear import Quantization
from .loading import Loaded, end_tokens, generation_config, load, named_parameters
from .processing.base import MediaOptions, Processing
from .quantization import (
    module_at,
    pack_layers,
    packed_layers,
    put_module,
    quantizable,
    quantization_scheme,
    unpack_layers,
)
from .registry import TABLE, family, resolve

__version__ = "0.1.0"

__all__ = [
    "TABLE",
    "Attention",
    "AttentionCache",
    "AttentionRules",
    "CacheSpec",
    "ConfigError",
    "Cross",
    "Family",
    "Features",
    "Full",
    "Inputs",
    "Loaded",
    "MediaItem",
    "MediaKind",
    "MediaOptions",
    "ModalityError",
    "Model",
    "ModelConfig",
    "ModelError",
    "Output",
    "PlaceholderError",
    "Processing",
    "ProcessingError",
    "ProcessorFiles",
    "Prompt",
    "Quantization",
    "Recurrent",
    "Several",
    "Shared",
    "Span",
    "StateCache",
    "TokenTable",
    "UnsupportedModel",
    "WeightError",
    "Window",
    "apply_rules",
    "end_tokens",
    "family",
    "generation_config",
    "load",
    "module_at",
    "named_parameters",
    "pack_layers",
    "packed_layers",
    "plain_caches",
    "put_module",
    "quantizable",
    "quantization_scheme",
    "read_config",
    "resolve",
    "unpack_layers",
    "written_as_convolution",
    "written_paths",
]

del vlm_kernels
