"""Activations by the names configurations use. An unknown name is an error, never a default."""

from __future__ import annotations

import math
from collections.abc import Callable

import mlx.core as mx

from ..errors import ConfigError

Activation = Callable[[mx.array], mx.array]


def gelu(x: mx.array) -> mx.array:
    """Exact: x * Phi(x)."""
    return x * 0.5 * (1 + mx.erf(x / math.sqrt(2)))


def gelu_tanh(x: mx.array) -> mx.array:
    """The tanh approximation (Hendrycks and Gimpel, arXiv:1606.08415)."""
    return 0.5 * x * (1 + mx.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x * x * x)))


def quick_gelu(x: mx.array) -> mx.array:
    return x * mx.sigmoid(1.702 * x)


def silu(x: mx.array) -> mx.array:
    return x * mx.sigmoid(x)


def relu(x: mx.array) -> mx.array:
    return mx.maximum(x, 0)


def relu_squared(x: mx.array) -> mx.array:
    return mx.square(mx.maximum(x, 0))


def softplus(x: mx.array) -> mx.array:
    """log(1 + exp(x))."""
    # MLX's own is compiled: that needs a C++ compiler without a GPU, and aborts a program that ends with its thread
    return mx.logaddexp(x, 0.0)


_BY_NAME: dict[str, Activation] = {
    "gelu": gelu,
    "gelu_pytorch_tanh": gelu_tanh,
    "gelu_new": gelu_tanh,
    "gelu_fast": gelu_tanh,
    "gelu_accurate": gelu_tanh,
    "quick_gelu": quick_gelu,
    "silu": silu,
    "swish": silu,
    "relu": relu,
    "relu2": relu_squared,
    "tanh": mx.tanh,
    "sigmoid": mx.sigmoid,
    "linear": lambda x: x,
}


def activation(name: str) -> Activation:
    """The activation a configuration names. Raises ConfigError."""
    if name not in _BY_NAME:
        raise ConfigError(f"activation {name!r} is not supported (supported: {', '.join(sorted(_BY_NAME))})")
    return _BY_NAME[name]
