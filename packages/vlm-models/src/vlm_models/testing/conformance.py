"""What every family must satisfy, as functions a test calls with a golden. Parity, chunks, batches, rules, round trips."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
from mlx.utils import tree_flatten

from vlm_kernels import attention

from ..core.attention import Attention, AttentionRules
from ..core.cache import Full, PlainCache, PlainState, Recurrent
from ..core.inputs import Prompt
from ..core.weights import apply_rules
from ..layers.linear import Quantization
from ..loading import Loaded, end_tokens, load, read_tensors, shapes_of
from ..quantization import pack_layers
from ..registry import resolve
from . import golden as goldens
from .forward import encode, prefill
from .logits import compute, prompts_of

OVERALL, WORST = 1e-4, 1e-3


@contextmanager
def checkpoint(golden: goldens.Golden, layout: str, **options: int) -> Iterator[Path]:
    """The golden as a checkpoint folder, gone afterwards."""
    with tempfile.TemporaryDirectory() as folder:
        yield goldens.materialise(golden, Path(folder), layout, **options)


def assert_close(ours: np.ndarray, reference: np.ndarray, valid: np.ndarray | None, what: str) -> None:
    errors = goldens.logit_errors(ours, reference, valid)
    assert np.isfinite(ours).all(), f"{what}: not finite"
    assert errors.overall <= OVERALL and errors.worst <= WORST, f"{what}: {errors}"


def assert_parity(golden: goldens.Golden, layout: str) -> int:
    """Logits of every case at every valid position, and greedy tokens. Returns the number of ties met."""
    ties = 0
    with checkpoint(golden, layout) as folder:
        loaded = load(folder)
        for name, case in golden.cases.items():
            tokens = case.outputs.get("tokens")
            steps = 0 if tokens is None else tokens.shape[1]
            ours = compute(loaded, case.inputs, num_greedy=steps, ends=end_tokens(loaded.hf))
            assert_close(ours["logits"], case.outputs["logits"], case.valid, f"{golden.name}/{name} {layout}")
            if tokens is not None:
                for row, theirs, margins in zip(ours["tokens"], tokens, case.outputs["margins"], strict=True):
                    wrong, met = goldens.disagreements(row, theirs, margins)
                    assert not wrong, f"{golden.name} {layout} {name}: greedy token {wrong} differs"
                    ties += met
    return ties


def assert_chunks_agree(golden: goldens.Golden, sizes: tuple[int, ...] = (1, 7, 64)) -> None:
    """Every case run in chunks of each size, at legal cuts, gives the reference's logits."""
    with checkpoint(golden, "hub") as folder:
        loaded = load(folder)
        for name, case in golden.cases.items():
            for size in sizes:
                ours = compute(loaded, case.inputs, chunk=size)["logits"]
                assert_close(ours, case.outputs["logits"], case.valid, f"{golden.name}/{name} in chunks of {size}")


def assert_batch_equals_singles(golden: goldens.Golden) -> None:
    """Decoding rows of different lengths side by side, over right-padded caches and stacked states, gives what each row gives
    alone."""
    with checkpoint(golden, "hub") as folder:
        loaded = load(folder)
        case = max(golden.cases.values(), key=lambda c: c.inputs["input_ids"].shape[0])
        prompts = [prompt for _, prompt in prompts_of(loaded.processing(), case.inputs)][:3]
        if len(prompts) < 2 or not all(isinstance(spec, (Full, Recurrent)) for spec in loaded.model.cache_spec()):
            return
        runs = [prefill(loaded.model, prompt) for prompt in prompts]
        joined = _joined_caches([run.caches for run in runs])
        token = mx.array([[int(run.logits[-1].argmax())] for run in runs])
        positions = mx.array([[run.length + run.delta] for run in runs], mx.int32)
        positions = mx.broadcast_to(positions[None], (prompts[0].positions.shape[0], *positions.shape))
        plan = Attention.ragged([run.length for run in runs], 1)
        inputs = loaded.model.embed(token, (), ())
        together = loaded.model(inputs, positions, plan, joined).logits
        for row, run in enumerate(runs):
            own = Attention.at(run.length, 1)
            inputs = loaded.model.embed(token[row : row + 1], (), ())
            alone = loaded.model(inputs, positions[:, row : row + 1], own, run.caches).logits
            assert_close(
                np.array(together[row : row + 1]), np.array(alone), None, f"{golden.name} row {row} of a batch"
            )


class _Padded:
    """A padded batch cache: rows of their own lengths, written in place."""

    def __init__(self, keys: mx.array, values: mx.array) -> None:
        self.keys, self.values = keys, values

    def attend(
        self,
        queries: mx.array,
        keys: mx.array,
        values: mx.array,
        plan: Attention,
        rules: AttentionRules,
        sinks: mx.array | None = None,
    ) -> mx.array:
        offsets: list[int] = plan.offsets.tolist()  # type: ignore[assignment]  # one axis: a list
        for row, offset in enumerate(offsets):
            self.keys[row, :, offset : offset + keys.shape[2]] = keys[row]
            self.values[row, :, offset : offset + keys.shape[2]] = values[row]
        mask = plan.mask(self.keys.shape[2], rules)
        return attention(
            queries, self.keys, self.values, scale=rules.scale, mask=mask, sinks=sinks, softcap=rules.softcap
        )


class _Stacked:
    """States of several rows."""

    def __init__(self, rows: list[PlainState]) -> None:
        self.arrays = {name: mx.concatenate([row.arrays[name] for row in rows]) for name in rows[0].arrays}

    def read(self, name: str) -> mx.array:
        return self.arrays[name]

    def write(self, name: str, value: mx.array) -> None:
        self.arrays[name] = value


def _joined_caches(rows: list[list[Any]]) -> list[_Padded | _Stacked]:
    held = [cache.keys for row in rows for cache in row if isinstance(cache, PlainCache)]
    longest = max(keys.shape[2] for keys in held if keys is not None) + 4

    def pad(array: mx.array) -> mx.array:
        # the filling must not matter: large numbers, not zeros
        filling = mx.full((*array.shape[:2], longest - array.shape[2], array.shape[3]), 1e4, array.dtype)
        return mx.concatenate([array, filling], axis=2)

    def joined(caches: list[Any]) -> _Padded | _Stacked:
        if isinstance(caches[0], PlainState):
            return _Stacked(caches)
        return _Padded(
            mx.concatenate([pad(cache.keys) for cache in caches]),
            mx.concatenate([pad(cache.values) for cache in caches]),
        )

    return [joined([row[layer] for row in rows]) for layer in range(len(rows[0]))]


def assert_rules_idempotent(golden: goldens.Golden, layout: str) -> None:
    """Applying a family's rules to their own result changes nothing; a missing or an extra tensor is refused."""
    with checkpoint(golden, layout) as folder:
        loaded = load(folder, lazy=True)
        family = resolve(golden.config(layout))
        tensors, is_mlx = read_tensors(folder)
        wanted = shapes_of(loaded.model)
        once = apply_rules(family.rules(loaded.config), tensors, wanted, is_mlx=is_mlx)
        twice = apply_rules(family.rules(loaded.config), once, wanted, is_mlx=True)
        assert once.keys() == twice.keys() == wanted.keys()
        assert all(mx.array_equal(once[name], twice[name]) for name in once)


def assert_encode_depends_on_content_alone(golden: goldens.Golden) -> None:
    """Features of equal media are equal, whatever else is encoded beside them."""
    with checkpoint(golden, "hub") as folder:
        loaded = load(folder)
        for case in golden.cases.values():
            for _, prompt in prompts_of(loaded.processing(), case.inputs):
                together = encode(loaded.model, prompt)
                items = prompt.items if prompt.context is None else prompt.context.items
                for item, feature in zip(items, together, strict=True):
                    alone = loaded.model.encode([item])[0]
                    assert alone.tokens.shape[0] == item.num_tokens
                    for ours, again in zip(feature.arrays(), alone.arrays(), strict=True):
                        assert mx.allclose(ours, again, rtol=1e-4, atol=1e-5).item()


def assert_saves_and_loads(golden: goldens.Golden, quantization: Quantization | None = None) -> None:
    """A model saved under its own names loads with bit-equal logits, also quantized."""
    with checkpoint(golden, "hub") as folder:
        loaded = load(folder)
        hf = loaded.hf.to_dict()
        if quantization is not None:
            quantize(loaded, quantization)
            hf["quantization"] = {
                "bits": quantization.bits,
                "group_size": quantization.group_size,
                "mode": quantization.mode,
            }
        before = _some_logits(loaded, golden)
        _write(folder, hf, dict(tree_flatten(loaded.model.parameters())))
        after = _some_logits(load(folder), golden)
        assert np.array_equal(before, after), f"{golden.name}: logits changed by saving"
        assert np.isfinite(after).all()


def quantize(loaded: Loaded, how: Quantization) -> int:
    """Quantize every layer whose size divides, in place. Returns how many."""
    return len(pack_layers(loaded.model, lambda _, layer: None if layer.weight.shape[-1] % how.group_size else how))


def _some_logits(loaded: Loaded, golden: goldens.Golden) -> np.ndarray:
    case = next(iter(golden.cases.values()))
    return compute(loaded, case.inputs)["logits"]


def _write(folder: Path, hf: Mapping[str, object], tensors: dict[str, mx.array]) -> None:
    for path in folder.glob("*.safetensors"):
        path.unlink()
    (folder / "config.json").write_text(json.dumps(hf))
    mx.save_safetensors(str(folder / "model.safetensors"), tensors, metadata={"format": "mlx"})


def prompt_of(golden: goldens.Golden, case: str, loaded: Loaded) -> Prompt:
    """The first row of a case."""
    return prompts_of(loaded.processing(), golden.cases[case].inputs)[0][1]
