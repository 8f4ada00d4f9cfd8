"""Quantized activations (`-qa`) on a real geometry: how far from the definition, how far from full activations, how fast.

    python -m vlm_benchmarks.activations check --geometry qwen2.5-vl-7b --out errors.json
    python -m vlm_benchmarks.activations measure --geometry qwen2.5-vl-7b --variant mxfp8-qa --out mxfp8-qa.json
    python -m vlm_benchmarks.activations table mxfp8-qa.json ...

The definition: activations rounded to the format, dequantized, multiplied with the dequantized weights in float32. Run
`check` with MLX_ENABLE_TF32=0 on CUDA, so that float32 means it.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from vlm_kernels import QQLinear, quantized_matmul, quantized_qqmm, use
from vlm_models import (
    Features,
    Model,
    ProcessorFiles,
    Prompt,
    Quantization,
    packed_layers,
    put_module,
    unpack_layers,
)
from vlm_models.testing.forward import encode, prefill
from vlm_runtime import quantize_inputs

from .geometry import GEOMETRIES
from .latency import Workload, measure, prompt_for
from .machine import machine
from .random_model import build

# name: bits, mode, -qa
VARIANTS: dict[str, tuple[int | None, str, bool]] = {
    "bf16": (None, "affine", False),
    "4-bit": (4, "affine", False),
    "mxfp8": (8, "mxfp8", False),
    "nvfp4": (4, "nvfp4", False),
    "mxfp8-qa": (8, "mxfp8", True),
    "nvfp4-qa": (4, "nvfp4", True),
}
FORMATS = {"mxfp8": Quantization(8, 32, "mxfp8"), "nvfp4": Quantization(4, 16, "nvfp4")}
# largest relative errors that are the format's own: of a layer against the definition (rounding of the 16-bit result), of a
# layer against full activations, and of the logits, in errors that random signs give
BOUNDS = {"mxfp8": (0.01, 0.05, 1.25), "nvfp4": (0.01, 0.15, 1.25)}


def relative(value: mx.array, reference: mx.array) -> float:
    """Frobenius norm of the difference over that of the reference, in float32."""
    value, reference = value.astype(mx.float32), reference.astype(mx.float32)
    return float(mx.linalg.norm((value - reference).reshape(-1)) / mx.linalg.norm(reference.reshape(-1)))


def layer_shapes(geometry: str) -> dict[str, tuple[int, int, bool]]:
    """Kinds of linear layers of the text side: name -> (out, in, has a bias)."""
    hf = GEOMETRIES[geometry]
    dim, hidden, heads = hf["hidden_size"], hf["intermediate_size"], hf["num_attention_heads"]
    kv = hf["num_key_value_heads"] * (dim // heads)
    return {
        "q_proj": (dim, dim, True),
        "k_proj, v_proj": (kv, dim, True),
        "o_proj": (dim, dim, False),
        "gate_proj, up_proj": (hidden, dim, False),
        "down_proj": (dim, hidden, False),
    }


def layer_errors(geometry: str, mode: str, rows: tuple[int, ...] = (1, 33, 512)) -> Iterator[dict[str, Any]]:
    """Errors of one layer of each kind, in bfloat16, with some input channels 8 times as large as the others."""
    how = FORMATS[mode]
    key = mx.random.key(1)
    for name, (out_size, in_size, has_bias) in layer_shapes(geometry).items():
        dense = (mx.random.normal((out_size, in_size), key=key) * 0.02).astype(mx.bfloat16)
        packed, scales, *_ = mx.quantize(dense, how.group_size, how.bits, how.mode)
        bias = (mx.random.normal((out_size,), key=key) * 0.1).astype(mx.bfloat16) if has_bias else None
        restored = mx.dequantize(packed, scales, None, how.group_size, how.bits, how.mode).astype(mx.float32)
        loud = mx.where(mx.arange(in_size) % 97 == 0, 8.0, 1.0)
        for count in rows:
            x = (mx.random.normal((count, in_size), key=key) * loud).astype(mx.bfloat16)
            options: dict[str, Any] = {"group_size": how.group_size, "bits": how.bits, "mode": how.mode}
            got = quantized_qqmm(x, packed, scales, bias, **options)
            with use("reference"):
                definition = quantized_qqmm(x.astype(mx.float32), packed, scales, bias, **options)
            added = mx.zeros((out_size,)) if bias is None else bias.astype(mx.float32)
            weights_only = x.astype(mx.float32) @ restored.T + added
            exact = x.astype(mx.float32) @ dense.astype(mx.float32).T + added
            yield {
                "mode": mode,
                "layer": name,
                "rows": count,
                "against_definition": relative(got, definition),
                "against_full_activations": relative(got, weights_only),
                "against_full_precision": relative(got, exact),
            }


class Definition(nn.Module):
    """A layer by the definition, whatever the backend has."""

    def __init__(self, layer: QQLinear) -> None:
        super().__init__()
        self.layer = layer

    def __call__(self, x: mx.array) -> mx.array:
        with use("reference"):
            return self.layer(x)


class Dithered(nn.Module):
    """A layer whose inputs err as much as the format does, value by value, but with random signs: what an error of that size
    does to the model, without the format."""

    def __init__(self, layer: QQLinear) -> None:
        super().__init__()
        self.layer = layer

    def __call__(self, x: mx.array) -> mx.array:
        layer = self.layer
        options: dict[str, Any] = {"group_size": layer.group_size, "bits": layer.bits, "mode": layer.mode}
        flat = x.reshape(-1, x.shape[-1])
        packed, scales, *_ = mx.quantize(flat, **options)
        rounded = mx.dequantize(packed, scales, None, **options).reshape(x.shape)
        sign = mx.where(mx.random.bernoulli(shape=x.shape), 1.0, -1.0)
        moved = x + (mx.abs(rounded.astype(mx.float32) - x.astype(mx.float32)) * sign).astype(x.dtype)
        y = quantized_matmul(moved, layer.weight, layer.scales, None, transpose=True, **options)
        return y + layer.bias if "bias" in layer else y


def logit_errors(geometry: str, mode: str, layers: int, prompt_tokens: int, image: tuple[int, int]) -> dict[str, Any]:
    """Errors of the logits at every position, of a model cut to its first `layers`. All see the same features of the picture."""
    how = FORMATS[mode]
    model, kind, config = build(geometry, bits=how.bits, mode=mode, layers=layers)
    work = Workload(geometry, prompt_tokens=prompt_tokens, image=image)
    prompt = prompt_for(work, config, kind.processing(config, ProcessorFiles(), None))
    features = encode(model, prompt)
    num_packed = len(packed_layers(model))
    weights_only = logits(model, prompt, features)
    num_turned = quantize_inputs(model)
    turned = {path: layer for path, layer in model.named_modules() if isinstance(layer, QQLinear)}
    if len(turned) != num_turned:
        raise RuntimeError(f"{num_turned} layers should have quantized inputs, {len(turned)} do")
    got = logits(model, prompt, features)
    others = {}
    for form in (Definition, Dithered):
        for path, layer in turned.items():
            put_module(model, path, form(layer))
        others[form] = logits(model, prompt, features)
    model, _, _ = build(geometry, bits=how.bits, mode=mode, layers=layers)
    unpack_layers(model, mx.bfloat16)
    restored = logits(model, prompt, features)
    return {
        "mode": mode,
        "layers": layers,
        "positions": len(prompt),
        "turned": num_turned,
        "packed": num_packed,
        "finite": bool(mx.isfinite(got).all()),
        "against_definition": relative(got, others[Definition]),
        "against_full_activations": relative(got, weights_only),
        "against_dequantized": relative(got, restored),
        "dithered_against_dequantized": relative(others[Dithered], restored),
        "definition_against_dequantized": relative(others[Definition], restored),
        "best_token_agrees": float((got.argmax(-1) == restored.argmax(-1)).mean()),
    }


def logits(model: Model, prompt: Prompt, features: Sequence[Features]) -> mx.array:
    """float32 [L, V]."""
    return mx.array(prefill(model, prompt, features=features).logits)


def check(arguments: argparse.Namespace) -> int:
    """Print and write the errors; 1 where one is beyond the format's bound."""
    size = (arguments.image, arguments.image)
    failed, rows, logits = [], [], []
    for mode in arguments.modes:
        definition, layer, whole = BOUNDS[mode]
        for row in layer_errors(arguments.geometry, mode):
            rows.append(row)
            print(
                "{mode:6s} {layer:20s} M={rows:<4d} definition {against_definition:.2e}  full activations "
                "{against_full_activations:.2e}  full precision {against_full_precision:.2e}".format(**row)
            )
            if row["against_definition"] > definition or row["against_full_activations"] > layer:
                failed.append(f"{mode} {row['layer']} M={row['rows']}")
        row = logit_errors(arguments.geometry, mode, arguments.layers, arguments.prompt_tokens, size)
        logits.append(row)
        print(f"{mode:6s} logits of {row['layers']} layers, {row['positions']} positions: {json.dumps(row)}")
        if not row["finite"] or row["against_dequantized"] > whole * row["dithered_against_dequantized"]:
            failed.append(f"{mode} logits")
    result = {"machine": machine(), "bounds": BOUNDS, "layers": rows, "logits": logits, "beyond_the_bound": failed}
    arguments.out.write_text(json.dumps(result, indent=1) + "\n")
    print("beyond the bound: " + (", ".join(failed) or "none"))
    return 1 if failed else 0


def run(arguments: argparse.Namespace) -> int:
    """Measure one variant."""
    bits, mode, inputs = VARIANTS[arguments.variant]
    work = Workload(
        arguments.geometry,
        bits=bits,
        mode=mode,
        prompt_tokens=arguments.prompt_tokens,
        image=(arguments.image, arguments.image),
        generate=arguments.generate,
        repeat=arguments.repeat,
        quantize_activations=inputs,
        layers=arguments.layers,
    )
    result = {"variant": arguments.variant, **measure(work)}
    arguments.out.write_text(json.dumps(result, indent=1) + "\n")
    print(row_of(result))
    return 0


def row_of(result: dict[str, Any]) -> str:
    generation = result["generation_tps"] or 0.0
    return (
        f"| {result['variant']:9s} | {result['prompt_tokens']} | {result['prompt_tps']:10,.0f} | {generation:8.1f} "
        f"| {result['weight_bytes'] / 1e9:.2f} | {result['peak_memory_bytes'] / 1e9:.2f} |"
    )


def table(arguments: argparse.Namespace) -> int:
    print("| weights | prompt tokens | prompt TPS | generation TPS | weights GB | peak GB |\n|---|---|---|---|---|---|")
    for path in arguments.results:
        print(row_of(json.loads(path.read_text())))
    return 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    commands = parser.add_subparsers(required=True)
    for name, function in (("check", check), ("measure", run)):
        command = commands.add_parser(name)
        command.set_defaults(function=function)
        command.add_argument("--geometry", choices=sorted(GEOMETRIES), default="qwen2.5-vl-7b")
        command.add_argument("--layers", type=int, default=2 if name == "check" else None)
        command.add_argument("--prompt-tokens", type=int, default=1024)
        command.add_argument("--image", type=int, default=448)
        command.add_argument("--out", type=Path, required=True)
        if name == "check":
            command.add_argument("--modes", nargs="+", choices=sorted(FORMATS), default=sorted(FORMATS))
        else:
            command.add_argument("--variant", choices=sorted(VARIANTS), required=True)
            command.add_argument("--generate", type=int, default=128)
            command.add_argument("--repeat", type=int, default=3)
    command = commands.add_parser("table")
    command.set_defaults(function=table)
    command.add_argument("results", nargs="+", type=Path)
    arguments = parser.parse_args()
    return arguments.function(arguments)


if __name__ == "__main__":
    raise SystemExit(main())
