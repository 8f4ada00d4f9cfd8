"""Rotary position tables: frequencies by kind, and cos/sin for one or several position axes.

Kinds as configurations name them (`rope_type`): default, linear, dynamic, yarn (arXiv:2309.00071), llama3, longrope
(arXiv:2402.13753). M-RoPE (arXiv:2409.12191) gives each frequency one of three position axes. Angles are taken in float32.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
import numpy as np

from ..core.attention import Attention
from ..core.config import check, take
from ..errors import ConfigError

KINDS = ("default", "linear", "dynamic", "yarn", "llama3", "longrope", "proportional")


@dataclass(frozen=True)
class RopeConfig:
    """kind and parameters of one rotary embedding. dim: rotated features of a head (2 x number of frequencies).

    sections: M-RoPE frequencies per axis, None for one axis. interleaved: axes alternate frequency by frequency (Qwen3-VL)
    instead of standing in blocks.
    """

    dim: int
    theta: float = 10000.0
    kind: str = "default"
    parameters: Mapping[str, Any] | None = None
    max_positions: int = 4096
    sections: tuple[int, ...] | None = None
    interleaved: bool = False

    @classmethod
    def from_hf(
        cls, hf: Mapping[str, Any], head_dim: int, *, layer_type: str | None = None, theta: float = 10000.0
    ) -> RopeConfig:
        """From a text configuration: `rope_parameters` (transformers 5; may be nested by layer type) or `rope_theta` with
        `rope_scaling`. Raises ConfigError for an unknown kind."""
        given = hf.get("rope_parameters") or hf.get("rope_scaling") or {}
        if layer_type is not None and isinstance(given.get(layer_type), Mapping):
            given = given[layer_type]
        kind = given.get("rope_type") or given.get("type") or "default"
        if kind == "mrope":
            kind = "default"
        for named in (kind, given.get("type", kind)):
            if named not in (*KINDS, "mrope"):
                raise ConfigError(f"config: rope type {named!r} is not supported (supported: {', '.join(KINDS)})")
        base = given.get("rope_theta", hf.get("rope_theta"))
        factor = given.get("partial_rotary_factor", hf.get("partial_rotary_factor"))
        sections = given.get("mrope_section")
        dim = head_dim if kind == "proportional" else int(head_dim * (1.0 if factor is None else factor))
        check(dim % 2 == 0, f"rotary size {dim} must be even")
        if sections is not None:
            check(sum(sections) == dim // 2, f"mrope_section {list(sections)} must sum to {dim // 2}")
        return cls(
            dim=dim,
            theta=theta if base is None else float(base),
            kind=kind,
            parameters=dict(given),
            max_positions=take(hf, "max_position_embeddings", int, 4096),
            sections=None if sections is None else tuple(sections),
            interleaved=bool(given.get("mrope_interleaved", False)),
        )

    @property
    def trained(self) -> int | None:
        """The length beyond which frequencies depend on the length of the sequence; None for kinds whose never do."""
        if self.kind == "dynamic":
            return self.max_positions
        if self.kind == "longrope":
            return (self.parameters or {}).get("original_max_position_embeddings") or self.max_positions
        return None

    def fixed(self) -> RopeConfig:
        """The same, for decoders that have no place for lengths. Raises ConfigError for kinds that depend on them."""
        check(self.trained is None, f"rope type {self.kind!r} is not supported by this decoder")
        return self


def frequencies(config: RopeConfig, length: int | None = None) -> tuple[np.ndarray, float]:
    """Angular frequencies float32 [dim / 2] and the factor on cos and sin. length: tokens so far, where the kind depends on it."""
    dim, theta, given = config.dim, config.theta, dict(config.parameters or {})
    base = 1.0 / theta ** (np.arange(0, dim, 2, dtype=np.float64) / dim)
    attention = 1.0
    match config.kind:
        case "linear":
            base = base / _number(given, "factor")
        case "dynamic":
            factor, trained = _number(given, "factor"), config.max_positions
            reach = max(length or 0, trained)
            grown = theta * (factor * reach / trained - (factor - 1)) ** (dim / (dim - 2))
            base = 1.0 / grown ** (np.arange(0, dim, 2, dtype=np.float64) / dim)
        case "yarn":
            base, attention = _yarn(base, config, given)
        case "llama3":
            base = _llama3(base, given)
        case "longrope":
            base, attention = _longrope(base, config, given, length)
        case "proportional":
            base, attention = _proportional(config, given)
    return base.astype(np.float32), attention


def _number(given: Mapping[str, Any], key: str) -> float:
    value = given.get(key)
    if not isinstance(value, (int, float)):
        raise ConfigError(f"config: rope {key!r} must be a number, found {value!r}")
    return float(value)


def _yarn(base: np.ndarray, config: RopeConfig, given: Mapping[str, Any]) -> tuple[np.ndarray, float]:
    trained = given.get("original_max_position_embeddings") or config.max_positions
    factor = float(given["factor"]) if given.get("factor") is not None else config.max_positions / trained
    fast, slow = float(given.get("beta_fast") or 32), float(given.get("beta_slow") or 1)

    def correction(turns: float) -> float:
        return config.dim * math.log(trained / (turns * 2 * math.pi)) / (2 * math.log(config.theta))

    low, high = correction(fast), correction(slow)
    if given.get("truncate", True):
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, config.dim - 1)
    if low == high:
        high += 0.001
    ramp = np.clip((np.arange(config.dim // 2, dtype=np.float64) - low) / (high - low), 0, 1)
    result = base / factor * ramp + base * (1 - ramp)

    def magnitude(weight: float) -> float:
        return 1.0 if factor <= 1 else 0.1 * weight * math.log(factor) + 1.0

    attention = given.get("attention_factor")
    if attention is None:
        scale, all_dim = given.get("mscale"), given.get("mscale_all_dim")
        attention = magnitude(scale) / magnitude(all_dim) if scale and all_dim else magnitude(1.0)
    return result, float(attention)


def _llama3(base: np.ndarray, given: Mapping[str, Any]) -> np.ndarray:
    factor, low, high = (_number(given, key) for key in ("factor", "low_freq_factor", "high_freq_factor"))
    trained = _number(given, "original_max_position_embeddings")
    wavelength = 2 * math.pi / base
    smooth = np.clip((trained / wavelength - low) / (high - low), 0, 1)
    return base / factor * (1 - smooth) + base * smooth


def _longrope(
    base: np.ndarray, config: RopeConfig, given: Mapping[str, Any], length: int | None
) -> tuple[np.ndarray, float]:
    trained = config.trained
    assert trained is not None
    is_long = length is not None and length > trained
    factors = np.asarray(given["long_factor" if is_long else "short_factor"], np.float64)
    check(factors.shape == base.shape, f"rope factors must have {base.shape[0]} entries, found {factors.shape[0]}")
    factor = given.get("factor")
    reach = float(factor) if factor is not None else config.max_positions / trained
    attention = given.get("attention_factor")
    if attention is None:
        attention = 1.0 if reach <= 1 else math.sqrt(1 + math.log(reach) / math.log(trained))
    return base / factors, float(attention)


def _proportional(config: RopeConfig, given: Mapping[str, Any]) -> tuple[np.ndarray, float]:
    """Gemma 4's global layers: the first part of the frequencies rotates, the rest stands still."""
    share = float(given.get("partial_rotary_factor") or 1.0)
    turning = int(share * config.dim // 2)
    exponents = np.arange(0, 2 * turning, 2, dtype=np.float64) / config.dim
    still = np.zeros(config.dim // 2 - turning)
    return np.concatenate([1.0 / config.theta**exponents, still]) / float(given.get("factor") or 1.0), 1.0


class Rope:
    """Tables for a configuration. Holds no parameters."""

    def __init__(self, config: RopeConfig) -> None:
        self.config = config
        base, self.factor = frequencies(config)
        self._base = mx.array(base)
        self._axis_of = None if config.sections is None else _axes(config.sections, config.interleaved)

    def __call__(
        self, positions: mx.array, *, length: int | None = None, plan: Attention | None = None
    ) -> tuple[mx.array, mx.array]:
        """cos, sin: float32 [B, L, dim / 2]. positions: int32 [axes, B, L].

        For kinds that depend on the length of the sequence: `length` tokens, or each row's by the plan: a prompt counts whole,
        a token behind it as many as stand before it and itself."""
        base, factor = self._base, self.factor
        if self.config.trained is not None:
            if plan is not None:
                base = self._stretched(positions, plan)
            else:
                values, factor = frequencies(self.config, length)
                base = mx.array(values)
        if self._axis_of is None:
            angles = positions[0].astype(mx.float32)[..., None] * base
        else:
            axes = positions if positions.shape[0] > 1 else mx.broadcast_to(positions, (3, *positions.shape[1:]))
            angles = mx.moveaxis(axes[self._axis_of].astype(mx.float32), 0, -1) * base
        return mx.cos(angles) * factor, mx.sin(angles) * factor

    def _stretched(self, positions: mx.array, plan: Attention) -> mx.array:
        """Frequencies [B, L, dim / 2] of each token."""
        config, trained = self.config, self.config.trained
        assert trained is not None
        reach = mx.max(positions, axis=0)
        reach = mx.where(plan.offsets[:, None] == 0, mx.max(reach, axis=1, keepdims=True), reach)[..., None] + 1
        if config.kind == "longrope":
            return mx.where(reach > trained, mx.array(frequencies(config, trained + 1)[0]), self._base)
        factor = _number(dict(config.parameters or {}), "factor")
        grown = config.theta * (factor * reach / trained - (factor - 1)) ** (config.dim / (config.dim - 2))
        exponents = mx.array(np.arange(0, config.dim, 2) / -config.dim, mx.float32)
        return mx.where(reach > trained, mx.power(grown, exponents), self._base)


def _axes(sections: tuple[int, ...], interleaved: bool) -> mx.array:
    """The position axis of each frequency.

    blocks:       t t t t h h h w w w
    interleaved:  t h w t h w t h w t   (axis a takes frequencies a, a + 3, ... up to 3 x its section; time the rest)
    """
    if not interleaved:
        return mx.array(np.repeat(np.arange(len(sections)), sections))
    axis_of = np.zeros(sum(sections), np.int32)
    for axis in (1, 2):
        axis_of[axis : 3 * sections[axis] : 3] = axis
    return mx.array(axis_of)
