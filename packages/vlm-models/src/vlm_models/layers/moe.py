"""Mixtures of experts: matrices by expert, routers, and the feed-forward layer made of them.

An expert matrix is stored [experts, out, in], so that it packs like any other; checkpoints keep them in several forms, which
`expert_rules` reads.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import mlx.core as mx
import mlx.nn as nn

from vlm_kernels import gather_quantized_matmul

from ..core.weights import Rename, Rule, Shapes, Stack, Tensors
from ..errors import ConfigError, WeightError
from .linear import Linear, Packed, Quantization
from .mlp import GatedMlp, gated

# from so many rows on, rows of one expert are brought together before the product
_SORT_FROM = 64


class ExpertLinear(nn.Module):
    """Row i of x times the matrix of expert indices[i]. weight: [experts, out, in]."""

    def __init__(self, num_experts: int, in_size: int, out_size: int) -> None:
        super().__init__()
        self.weight = mx.zeros((num_experts, out_size, in_size))

    def __call__(self, x: mx.array, indices: mx.array, *, is_sorted: bool = False) -> mx.array:
        """x: [..., 1, in], indices: broadcasting with the leading axes -> [..., 1, out]."""
        weight, dtype = self.weight.swapaxes(-1, -2), x.dtype
        if mx.default_device().type == mx.DeviceType.cpu:
            # MLX gathers nothing but float32 there
            x, weight = x.astype(mx.float32), weight.astype(mx.float32)
        return mx.gather_mm(x, weight, rhs_indices=indices, sorted_indices=is_sorted).astype(dtype)

    def quantized(self, how: Quantization) -> QuantizedExpertLinear:
        num, out_size, in_size = self.weight.shape
        if in_size % how.group_size:
            raise ConfigError(f"experts of {in_size} columns cannot be quantized in groups of {how.group_size}")
        result = QuantizedExpertLinear(num, in_size, out_size, how)
        packed = mx.quantize(self.weight, how.group_size, how.bits, how.mode)
        result.weight, result.scales = packed[0], packed[1]
        if len(packed) > 2:
            result.biases = packed[2]
        return result


class QuantizedExpertLinear(Packed):
    """Expert matrices, packed."""

    def __init__(self, num_experts: int, in_size: int, out_size: int, how: Quantization) -> None:
        super().__init__()
        self.how = how
        self.weight = mx.zeros((num_experts, out_size, in_size * how.bits // 32), mx.uint32)
        shape = (num_experts, out_size, in_size // how.group_size)
        self.scales = mx.zeros(shape, mx.float32 if how.mode == "affine" else mx.uint8)
        if how.mode == "affine":
            self.biases = mx.zeros(shape)
        self.freeze()

    def __call__(self, x: mx.array, indices: mx.array, *, is_sorted: bool = False) -> mx.array:
        how = self.how
        return gather_quantized_matmul(
            x,
            self.weight,
            self.scales,
            self.get("biases"),
            rhs_indices=indices,
            transpose=True,
            group_size=how.group_size,
            bits=how.bits,
            mode=how.mode,
            sorted_indices=is_sorted,
        )

    def dequantized(self, dtype: mx.Dtype) -> ExpertLinear:
        weight = self.unpacked(dtype)
        num, out_size, in_size = weight.shape
        result = ExpertLinear(num, in_size, out_size)
        result.weight = weight
        return result


class Experts(nn.Module):
    """Gated perceptrons: down(act(gate(x)) * up(x)), each row through its own choice of them."""

    def __init__(self, num_experts: int, dim: int, hidden: int, act: str) -> None:
        super().__init__()
        self.gate_proj = ExpertLinear(num_experts, dim, hidden)
        self.up_proj = ExpertLinear(num_experts, dim, hidden)
        self.down_proj = ExpertLinear(num_experts, hidden, dim)
        self._gated = gated(act)

    def __call__(self, x: mx.array, indices: mx.array) -> mx.array:
        """x: [B, L, dim], indices: [B, L, k] -> [B, L, k, dim]."""
        if indices.size < _SORT_FROM:
            rows = x[..., None, None, :]
            return self._run(rows, indices, is_sorted=False)[..., 0, :]
        count = indices.shape[-1]
        flat = indices.reshape(-1)
        order = mx.argsort(flat)
        rows = x.reshape(-1, x.shape[-1])[order // count][:, None]
        result = self._run(rows, flat[order], is_sorted=True)[:, 0]
        return result[mx.argsort(order)].reshape(*indices.shape, -1)

    def _run(self, rows: mx.array, indices: mx.array, *, is_sorted: bool) -> mx.array:
        gate = self.gate_proj(rows, indices, is_sorted=is_sorted)
        up = self.up_proj(rows, indices, is_sorted=is_sorted)
        return self.down_proj(self._gated(gate, up), indices, is_sorted=is_sorted)


def top(scores: mx.array, count: int) -> mx.array:
    """Indices of the `count` largest of the last axis, in no particular order."""
    return mx.argpartition(-scores, count - 1, axis=-1)[..., :count]


def softmax_route(logits: mx.array, count: int, *, renormalize: bool) -> tuple[mx.array, mx.array]:
    """Indices and weights [..., count]: softmax over all experts in float32, the largest of it, made to sum to 1 or not."""
    scores = mx.softmax(logits.astype(mx.float32), axis=-1)
    indices = top(scores, count)
    weights = mx.take_along_axis(scores, indices, axis=-1)
    if renormalize:
        weights = weights / weights.sum(axis=-1, keepdims=True)
    return indices, weights


@dataclass(frozen=True)
class MoeConfig:
    """shared: hidden size of the perceptron that every token runs through, 0 for none; shared_gate: whether it is gated by a
    sigmoid of its own. scale: factor on the experts' weights."""

    num_experts: int
    num_chosen: int
    dim: int
    hidden: int
    act: str
    renormalize: bool = True
    shared: int = 0
    shared_gate: bool = True
    scale: float = 1.0


class Moe(nn.Module):
    """The chosen experts' outputs, weighted (mixtures of Qwen, DeepSeek V2), plus a shared expert where there is one."""

    def __init__(self, config: MoeConfig) -> None:
        super().__init__()
        self.config = config
        self.gate = Linear(config.dim, config.num_experts, bias=False)
        self.experts = Experts(config.num_experts, config.dim, config.hidden, config.act)
        if config.shared:
            self.shared_expert = GatedMlp(config.dim, config.shared, config.act)
            if config.shared_gate:
                self.shared_expert_gate = Linear(config.dim, 1, bias=False)

    def __call__(self, x: mx.array) -> mx.array:
        config = self.config
        indices, weights = softmax_route(self.gate(x), config.num_chosen, renormalize=config.renormalize)
        result = combine(self.experts(x, indices), weights * config.scale)
        if not config.shared:
            return result
        shared = self.shared_expert(x)
        return result + (mx.sigmoid(self.shared_expert_gate(x)) * shared if config.shared_gate else shared)


def combine(outputs: mx.array, weights: mx.array) -> mx.array:
    """[B, L, k, dim], [B, L, k] -> [B, L, dim] in the type of the outputs."""
    return (outputs * weights[..., None].astype(outputs.dtype)).sum(axis=-2)


@dataclass(frozen=True)
class SplitExperts:
    """`*.experts.gate_up_proj` and `*.experts.down_proj`, stored for x @ W or for x @ W^T, as separate matrices.

    The two orders differ in both tensors; where one of them is square the other tells."""

    def apply(self, tensors: Tensors, wanted: Shapes, is_mlx: bool) -> Tensors:
        result: Tensors = {}
        for name, value in tensors.items():
            stem, found, last = name.rpartition(".experts.")
            if not found or last not in ("gate_up_proj", "down_proj"):
                result[name] = value
                continue
            if self._is_turned(stem, tensors, wanted):
                value = value.swapaxes(-1, -2)
            if last == "down_proj":
                result[f"{name}.weight"] = value
                continue
            for part, half in zip(("gate_proj", "up_proj"), mx.split(value, 2, axis=1), strict=True):
                result[f"{stem}.experts.{part}.weight"] = half
        return result

    def _is_turned(self, stem: str, tensors: Tensors, wanted: Shapes) -> bool:
        down = wanted.get(f"{stem}.experts.down_proj.weight")
        if down is None:
            raise WeightError(f"the model has no place for: {stem}.experts")
        _, dim, hidden = down
        stored = {key: tensors.get(f"{stem}.experts.{key}") for key in ("gate_up_proj", "down_proj")}
        straight = {"gate_up_proj": (2 * hidden, dim), "down_proj": (dim, hidden)}
        turned = [tuple(v.shape[1:]) == straight[key][::-1] for key, v in stored.items() if v is not None]
        as_is = [tuple(v.shape[1:]) == straight[key] for key, v in stored.items() if v is not None]
        return all(turned) and not all(as_is)


def expert_rules(names: Sequence[str] = ("gate_proj", "up_proj", "down_proj")) -> tuple[Rule, ...]:
    """Experts one by one (`experts.3.gate_proj.weight`), joined (`experts.gate_up_proj`), or as MLX conversions name them
    (`switch_mlp.gate_proj.weight`)."""
    return (
        Rename("*.switch_mlp.*", "*.experts.*"),
        *(Stack(f"*.experts.#.{name}.*", f"*.experts.{name}.*") for name in names),
        SplitExperts(),
    )
