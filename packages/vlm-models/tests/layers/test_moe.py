"""Experts against a loop over tokens; the forms in which checkpoints keep them."""

from __future__ import annotations

import mlx.core as mx
import numpy as np
import pytest

from vlm_models.core.weights import apply_rules
from vlm_models.layers.linear import Quantization
from vlm_models.layers.moe import Experts, expert_rules, softmax_route


def experts(num: int = 5, dim: int = 32, hidden: int = 64) -> Experts:
    rng = np.random.default_rng(0)
    made = Experts(num, dim, hidden, "silu")
    for layer in (made.gate_proj, made.up_proj, made.down_proj):
        layer.weight = mx.array(rng.normal(size=layer.weight.shape).astype(np.float32) * 0.1)
    return made


def loop(made: Experts, x: np.ndarray, indices: np.ndarray) -> np.ndarray:
    gate, up, down = (np.array(layer.weight) for layer in (made.gate_proj, made.up_proj, made.down_proj))
    out = np.zeros((*indices.shape, x.shape[-1]))
    for place in np.ndindex(*indices.shape):
        row, expert = x[place[:2]], indices[place]
        g = gate[expert] @ row
        out[place] = down[expert] @ (g / (1 + np.exp(-g)) * (up[expert] @ row))
    return out


@pytest.mark.parametrize("length", [1, 9, 70])
def test_experts_equal_a_loop_over_tokens(length: int) -> None:
    made, rng = experts(), np.random.default_rng(length)
    x = rng.normal(size=(2, length, 32)).astype(np.float32)
    indices = rng.integers(0, 5, size=(2, length, 3)).astype(np.uint32)
    ours = np.array(made(mx.array(x), mx.array(indices)))
    np.testing.assert_allclose(ours, loop(made, x, indices), atol=1e-4)


@pytest.mark.parametrize("length", [1, 70])
def test_packed_experts_stay_close(length: int) -> None:
    made, rng = experts(), np.random.default_rng(length)
    x = mx.array(rng.normal(size=(1, length, 32)).astype(np.float32))
    indices = mx.array(rng.integers(0, 5, size=(1, length, 2)).astype(np.uint32))
    before = np.array(made(x, indices))
    for name in ("gate_proj", "up_proj", "down_proj"):
        made[name] = made[name].quantized(Quantization(8, 32))
    after = np.array(made(x, indices))
    assert np.linalg.norm(after - before) < 0.02 * np.linalg.norm(before)


def test_the_route_takes_the_largest_and_sums_to_one() -> None:
    logits = mx.array(np.random.default_rng(3).normal(size=(1, 4, 9)).astype(np.float32))
    indices, weights = softmax_route(logits, 3, renormalize=True)
    best = np.argsort(-np.array(logits), axis=-1)[..., :3]
    assert np.array_equal(np.sort(np.array(indices), axis=-1), np.sort(best, axis=-1))
    np.testing.assert_allclose(np.array(weights.sum(axis=-1)), 1, atol=1e-6)


@pytest.mark.parametrize(
    ("dim", "hidden"), [(32, 24), (32, 16), (32, 32)], ids=["oblong", "square gate", "square down"]
)
@pytest.mark.parametrize("form", ["turned", "joined", "single", "switch"])
def test_every_stored_form_gives_the_same_experts(form: str, dim: int, hidden: int) -> None:
    made = experts(3, dim, hidden)
    gate, up, down = made.gate_proj.weight, made.up_proj.weight, made.down_proj.weight
    joined = mx.concatenate([gate, up], axis=1)
    stored = {
        "turned": {"experts.gate_up_proj": joined.swapaxes(1, 2), "experts.down_proj": down.swapaxes(1, 2)},
        "joined": {"experts.gate_up_proj": joined, "experts.down_proj": down},
        "single": {
            f"experts.{i}.{name}.weight": value[i]
            for name, value in (("gate_proj", gate), ("up_proj", up), ("down_proj", down))
            for i in range(3)
        },
        "switch": {f"switch_mlp.{n}.weight": v for n, v in (("gate_proj", gate), ("up_proj", up), ("down_proj", down))},
    }[form]
    wanted = {f"m.experts.{name}.weight": made[name].weight.shape for name in ("gate_proj", "up_proj", "down_proj")}
    read = apply_rules(expert_rules(), {f"m.{name}": value for name, value in stored.items()}, wanted)
    assert read.keys() == wanted.keys()
    for name in ("gate_proj", "up_proj", "down_proj"):
        assert mx.array_equal(read[f"m.experts.{name}.weight"], made[name].weight)


@pytest.mark.parametrize("dtype", [mx.float16, mx.bfloat16])
@pytest.mark.parametrize("length", [2, 40])
def test_experts_of_16_bits_run_on_every_device(dtype: mx.Dtype, length: int) -> None:
    made, rng = experts(), np.random.default_rng(2)
    x = mx.array(rng.normal(size=(1, length, 32)).astype(np.float32))
    indices = mx.array(rng.integers(0, 5, size=(1, length, 2)))
    expected = made(x, indices)
    made.set_dtype(dtype)
    ours = made(x.astype(dtype), indices)
    assert ours.dtype == dtype
    assert mx.abs(ours.astype(mx.float32) - expected).max().item() < 0.03 * mx.abs(expected).max().item()
