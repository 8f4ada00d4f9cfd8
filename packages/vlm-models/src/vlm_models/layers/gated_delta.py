"""Linear attention by the gated delta rule (arXiv:2412.06464): a state of fixed size instead of keys and values.

    S_t = a_t S_(t-1) (I - b_t k_t k_t^T) + b_t k_t v_t^T        o_t = S_t^T q_t        a_t = exp(g_t)

One token follows that line as it stands; several go in chunks whose tokens are solved for together.
"""

from __future__ import annotations

from dataclasses import dataclass

import mlx.core as mx
import mlx.nn as nn

from vlm_kernels import rms_norm

from ..core.cache import Recurrent, StateCache
from .activation import activation, silu, softplus
from .linear import Linear

CHUNK = 64


@dataclass(frozen=True)
class GatedDeltaConfig:
    """Key heads are shared by groups of value heads. kernel: taps of the causal convolution before q, k and v."""

    dim: int
    num_key_heads: int
    num_value_heads: int
    key_size: int
    value_size: int
    kernel: int
    act: str
    norm_eps: float

    @property
    def mixed_size(self) -> int:
        """Channels of q, k and v together."""
        return 2 * self.num_key_heads * self.key_size + self.num_value_heads * self.value_size

    def cache(self) -> Recurrent:
        state = (self.num_value_heads, self.key_size, self.value_size)
        return Recurrent({"conv": (self.kernel - 1, self.mixed_size), "state": state}, {"state": mx.float32})


def delta_step(
    q: mx.array, k: mx.array, v: mx.array, log_decay: mx.array, beta: mx.array, state: mx.array
) -> tuple[mx.array, mx.array]:
    """One token. q, k: [B, H, 1, Dk], v: [B, H, 1, Dv], log_decay, beta: [B, H, 1], state: [B, H, Dk, Dv]; all float32.

    Returns the output [B, H, 1, Dv] and the new state."""
    state = state * mx.exp(log_decay)[..., None]
    delta = (v - k @ state) * beta[..., None]
    state = state + k.swapaxes(-1, -2) @ delta
    return q @ state, state


def delta_chunks(
    q: mx.array, k: mx.array, v: mx.array, log_decay: mx.array, beta: mx.array, state: mx.array
) -> tuple[mx.array, mx.array]:
    """Any number of tokens L, as `delta_step` taken L times. q, k: [B, H, L, Dk], v: [B, H, L, Dv], log_decay, beta: [B, H, L]."""
    length = q.shape[2]
    size = min(CHUNK, 1 << max(length - 1, 0).bit_length())
    missing = -length % size
    if missing:
        # tokens of zeros that neither decay nor write
        q, k, v = (mx.pad(x, [(0, 0), (0, 0), (0, missing), (0, 0)]) for x in (q, k, v))
        log_decay, beta = (mx.pad(x, [(0, 0), (0, 0), (0, missing)]) for x in (log_decay, beta))
    q, k, v = (x.reshape(*x.shape[:2], -1, size, x.shape[-1]) for x in (q, k, v))
    log_decay, beta = (x.reshape(*x.shape[:2], -1, size) for x in (log_decay, beta))
    since = mx.cumsum(log_decay, axis=-1)
    lower = mx.tril(mx.ones((size, size), mx.bool_))
    between = mx.where(lower, mx.exp(mx.where(lower, since[..., None] - since[..., None, :], 0)), 0)
    inner = (q @ k.swapaxes(-1, -2)) * between
    bk = k * beta[..., None]
    system = mx.tril((bk @ k.swapaxes(-1, -2)) * between, -1)
    inverse = unit_lower_inverse(system)
    values = inverse @ (v * beta[..., None])
    reads = inverse @ (bk * mx.exp(since)[..., None])
    q = q * mx.exp(since)[..., None]
    k = k * mx.exp(since[..., -1:] - since)[..., None]
    decay = mx.exp(since[..., -1])[..., None, None]
    out = []
    for i in range(q.shape[2]):
        fresh = values[:, :, i] - reads[:, :, i] @ state
        out.append(q[:, :, i] @ state + inner[:, :, i] @ fresh)
        state = state * decay[:, :, i] + k[:, :, i].swapaxes(-1, -2) @ fresh
    return mx.concatenate(out, axis=2)[:, :, :length], state


def unit_lower_inverse(strict: mx.array) -> mx.array:
    """(I + strict)^-1 for strictly lower triangular [..., n, n], n a power of two.

    Blocks of the diagonal are inverted in pairs, twice as large each time, which stays accurate where powers of the matrix
    would cancel:   [A 0; C B]^-1 = [A' 0; -B' C A'  B']."""
    size = strict.shape[-1]
    lead = strict.shape[:-2]
    inverse = mx.ones((*lead, size, 1, 1), strict.dtype)
    width = 1
    while width < size:
        pairs = size // (2 * width)
        blocks = strict.reshape(*lead, pairs, 2, width, pairs, 2, width)
        below = mx.moveaxis(mx.diagonal(blocks[..., 1, :, :, 0, :], axis1=-4, axis2=-2), -1, -3)
        split = inverse.reshape(*lead, pairs, 2, width, width)
        first, second = split[..., 0, :, :], split[..., 1, :, :]
        corner = -(second @ below @ first)
        top = mx.concatenate([first, mx.zeros_like(first)], axis=-1)
        inverse = mx.concatenate([top, mx.concatenate([corner, second], axis=-1)], axis=-2)
        width *= 2
    return inverse.reshape(*lead, size, size)


class CausalConv(nn.Module):
    """A filter of its own for each channel, over the last taps. weight: [channels, taps]."""

    def __init__(self, channels: int, taps: int) -> None:
        super().__init__()
        self.weight = mx.zeros((channels, taps))

    def __call__(self, x: mx.array, before: mx.array) -> tuple[mx.array, mx.array]:
        """x: [B, L, C], before: [B, taps - 1, C] -> [B, L, C] and what stands before the next call."""
        taps, length = self.weight.shape[1], x.shape[1]
        joined = mx.concatenate([before.astype(x.dtype), x], axis=1)
        weight = self.weight.astype(mx.float32)
        y = sum(joined[:, i : i + length].astype(mx.float32) * weight[:, i] for i in range(taps))
        return mx.array(y).astype(x.dtype), joined[:, length:]


class GatedNorm(nn.Module):
    """RMS norm times silu of a gate."""

    def __init__(self, dim: int, eps: float) -> None:
        super().__init__()
        self.weight = mx.ones((dim,))
        self.eps = eps

    def __call__(self, x: mx.array, gate: mx.array) -> mx.array:
        return (rms_norm(x, self.weight, self.eps) * silu(gate.astype(mx.float32))).astype(x.dtype)


class GatedDelta(nn.Module):
    """Names are those of Qwen3.5's `linear_attn`."""

    def __init__(self, config: GatedDeltaConfig) -> None:
        super().__init__()
        self.config = config
        heads, width = config.num_value_heads, config.num_value_heads * config.value_size
        self.in_proj_qkv = Linear(config.dim, config.mixed_size, bias=False)
        self.in_proj_z = Linear(config.dim, width, bias=False)
        self.in_proj_b = Linear(config.dim, heads, bias=False)
        self.in_proj_a = Linear(config.dim, heads, bias=False)
        self.conv1d = CausalConv(config.mixed_size, config.kernel)
        self.dt_bias = mx.ones((heads,))
        self.A_log = mx.zeros((heads,))
        self.norm = GatedNorm(config.value_size, config.norm_eps)
        self.out_proj = Linear(width, config.dim, bias=False)
        self._act = activation(config.act)

    def __call__(self, x: mx.array, cache: StateCache) -> mx.array:
        """x: [B, L, dim]."""
        config, (batch, length, _) = self.config, x.shape
        mixed, before = self.conv1d(self.in_proj_qkv(x), cache.read("conv"))
        cache.write("conv", before)
        keys = config.num_key_heads * config.key_size
        q, k, v = mx.split(self._act(mixed), [keys, 2 * keys], axis=-1)
        rate = -mx.exp(self.A_log.astype(mx.float32))
        log_decay = rate * softplus(self.in_proj_a(x).astype(mx.float32) + self.dt_bias.astype(mx.float32))
        beta = mx.sigmoid(self.in_proj_b(x)).astype(mx.float32)
        run = delta_step if length == 1 else delta_chunks
        out, state = run(
            self._heads(unit(self._split(q, config.num_key_heads))) * config.key_size**-0.5,
            self._heads(unit(self._split(k, config.num_key_heads))),
            self._split(v, config.num_value_heads),
            log_decay.swapaxes(1, 2),
            beta.swapaxes(1, 2),
            cache.read("state"),
        )
        cache.write("state", state)
        out = out.swapaxes(1, 2).astype(x.dtype)
        gated = self.norm(out, self.in_proj_z(x).reshape(out.shape))
        return self.out_proj(gated.reshape(batch, length, -1))

    def _split(self, x: mx.array, num_heads: int) -> mx.array:
        """[B, L, H * D] -> float32 [B, H, L, D]."""
        return x.reshape(*x.shape[:2], num_heads, -1).swapaxes(1, 2).astype(mx.float32)

    def _heads(self, x: mx.array) -> mx.array:
        """Key heads repeated for the value heads they serve."""
        return mx.repeat(x, self.config.num_value_heads // self.config.num_key_heads, axis=1)


def unit(x: mx.array, eps: float = 1e-6) -> mx.array:
    """x / |x|, with eps under the root."""
    return x * mx.rsqrt((x * x).sum(axis=-1, keepdims=True) + eps)
