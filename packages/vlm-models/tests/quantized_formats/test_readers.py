"""Formats of other tools: layers built here from their public descriptions, with numpy, and what the readers make of them."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest

from vlm_models import (
    ConfigError,
    ModelConfig,
    Quantization,
    WeightError,
    family,
    load,
    named_parameters,
    packed_layers,
)
from vlm_models.quantized_formats import translated
from vlm_models.testing.forward import prefill

RNG = np.random.default_rng(5)
LAYER = "model.layers.0.mlp.up_proj"


# what the formats are made of --------------------------------------------------------------------------------------------


def stream(codes: np.ndarray, bits: int) -> np.ndarray:
    """Codes [..., n] as one stream of bits in int32 words [..., n * bits / 32], lowest first."""
    spread = ((codes[..., None].astype(np.uint64) >> np.arange(bits, dtype=np.uint64)) & 1).astype(np.uint8)
    return np.packbits(spread.reshape(*codes.shape[:-1], -1), axis=-1, bitorder="little").view("<i4")


def e4m3(value: int) -> float:
    sign, exponent, mantissa = -1.0 if value & 128 else 1.0, (value >> 3) & 15, value & 7
    return sign * (mantissa / 8 * 2**-6 if exponent == 0 else (1 + mantissa / 8) * 2.0 ** (exponent - 7))


E4M3 = np.array([e4m3(i) for i in range(256)])
E2M1 = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6, 0, -0.5, -1, -1.5, -2, -3, -4, -6])


def random_fp8(*shape: int) -> np.ndarray:
    """e4m3 bytes, no NaN."""
    return (RNG.integers(0, 0x7F, shape) | (RNG.integers(0, 2, shape) << 7)).astype(np.uint8)


def random_scales(*shape: int) -> np.ndarray:
    return RNG.uniform(0.01, 0.02, shape).astype(np.float16)


Made = tuple[dict[str, Any], dict[str, np.ndarray], np.ndarray]


def gptq(
    rows: int, columns: int, bits: int = 4, size: int = 64, *, act_order: bool = False, version: str = "gptq"
) -> Made:
    size = columns if size == -1 else size
    codes = RNG.integers(0, 2**bits, (columns, rows))
    zeros = RNG.integers(1, 2**bits, (columns // size, rows))
    scales = random_scales(columns // size, rows)
    group = np.arange(columns) // size
    group = RNG.permutation(group) if act_order else group
    dense = scales[group].astype(np.float64) * (codes - zeros[group])
    stored = {
        "qweight": np.ascontiguousarray(stream(np.ascontiguousarray(codes.T), bits).T),
        "qzeros": stream(zeros - (version == "gptq"), bits),
        "scales": scales,
        "g_idx": group.astype(np.int32),
    }
    config = {
        "quant_method": "gptq",
        "bits": bits,
        "group_size": size,
        "checkpoint_format": version,
        "desc_act": act_order,
    }
    return config, stored, dense.T


def awq(rows: int, columns: int, size: int = 128) -> Made:
    codes = RNG.integers(0, 16, (columns, rows))
    zeros, scales = RNG.integers(0, 16, (columns // size, rows)), random_scales(columns // size, rows)

    def shuffled(values: np.ndarray) -> np.ndarray:
        words = np.zeros((values.shape[0], values.shape[1] // 8), np.uint32)
        for place, output in enumerate((0, 2, 4, 6, 1, 3, 5, 7)):
            words |= values[:, output::8].astype(np.uint32) << np.uint32(4 * place)
        return words.view(np.int32)

    group = np.arange(columns) // size
    dense = scales[group].astype(np.float64) * (codes - zeros[group])
    config = {"quant_method": "awq", "bits": 4, "group_size": size, "version": "gemm", "zero_point": True}
    return config, {"qweight": shuffled(codes), "qzeros": shuffled(zeros), "scales": scales}, dense.T


def compressed(form: str, weights: dict[str, Any]) -> dict[str, Any]:
    groups = {"group_0": {"targets": ["Linear"], "weights": weights, "input_activations": None}}
    return {"quant_method": "compressed-tensors", "format": form, "config_groups": groups, "ignore": ["lm_head"]}


def pack_quantized(rows: int, columns: int, bits: int = 4, size: int = 32, *, symmetric: bool = True) -> Made:
    middle = 2 ** (bits - 1)
    values = RNG.integers(-middle, middle, (rows, columns))
    zeros = (
        np.zeros((rows, columns // size), int) if symmetric else RNG.integers(-middle, middle, (rows, columns // size))
    )
    scales = random_scales(rows, columns // size)
    group = np.arange(columns) // size
    dense = scales[:, group].astype(np.float64) * (values - zeros[:, group])
    stored = {
        "weight_packed": stream(values + middle, bits),
        "weight_scale": scales,
        "weight_shape": np.array([rows, columns]),
    }
    if not symmetric:
        stored["weight_zero_point"] = np.ascontiguousarray(stream(np.ascontiguousarray((zeros + middle).T), bits).T)
    scheme = {"num_bits": bits, "type": "int", "symmetric": symmetric, "strategy": "group", "group_size": size}
    return compressed("pack-quantized", scheme), stored, dense


def int_quantized(rows: int, columns: int) -> Made:
    values, scales = RNG.integers(-128, 128, (rows, columns)).astype(np.int8), random_scales(rows, 1)
    scheme = {"num_bits": 8, "type": "int", "symmetric": True, "strategy": "channel"}
    return (
        compressed("int-quantized", scheme),
        {"weight": values, "weight_scale": scales},
        values * scales.astype(np.float64),
    )


def float_quantized(rows: int, columns: int) -> Made:
    values, scales = random_fp8(rows, columns), random_scales(rows, 1)
    scheme = {"num_bits": 8, "type": "float", "symmetric": True, "strategy": "channel"}
    return (
        compressed("float-quantized", scheme),
        {"weight": values, "weight_scale": scales},
        E4M3[values] * scales.astype(float),
    )


def fp8_blocks(rows: int, columns: int, side: int = 48) -> Made:
    values = random_fp8(rows, columns)
    scales = RNG.uniform(0.01, 0.02, (-(-rows // side), -(-columns // side))).astype(np.float32)
    spread = scales.repeat(side, 0).repeat(side, 1)[:rows, :columns]
    config = {"quant_method": "fp8", "fmt": "e4m3", "weight_block_size": [side, side], "activation_scheme": "dynamic"}
    return config, {"weight": values, "weight_scale_inv": scales}, E4M3[values] * spread.astype(float)


def nvfp4(rows: int, columns: int, factor: float = 0.37) -> Made:
    codes, scales = RNG.integers(0, 16, (rows, columns)), random_fp8(rows, columns // 16) & 0x7F
    dense = E2M1[codes] * E4M3[scales].repeat(16, 1) * np.float32(factor)
    packed = (codes[:, ::2] | (codes[:, 1::2] << 4)).astype(np.uint8)
    stored = {"weight": packed, "weight_scale": scales, "weight_scale_2": np.float32(factor).reshape(())}
    return (
        {"quant_method": "modelopt", "quant_algo": "NVFP4"},
        stored | {"input_scale": np.float32(3).reshape(())},
        dense,
    )


def mxfp8(rows: int, columns: int) -> Made:
    values, scales = random_fp8(rows, columns), RNG.integers(115, 122, (rows, columns // 32)).astype(np.uint8)
    dense = E4M3[values] * (2.0 ** (scales.astype(float) - 127)).repeat(32, 1)
    return {"quant_method": "modelopt", "quant_algo": "MXFP8"}, {"weight": values, "weight_scale": scales}, dense


def mxfp4(rows: int, columns: int) -> Made:
    codes, scales = RNG.integers(0, 16, (rows, columns)), RNG.integers(115, 122, (rows, columns // 32)).astype(np.uint8)
    dense = E2M1[codes] * (2.0 ** (scales.astype(float) - 127)).repeat(32, 1)
    packed = (codes[:, ::2] | (codes[:, 1::2] << 4)).astype(np.uint8)
    config = compressed("mxfp4-pack-quantized", {"num_bits": 4, "type": "float", "group_size": 32})
    return config, {"weight_packed": packed, "weight_scale": scales}, dense


def nvfp4_compressed(rows: int, columns: int) -> Made:
    _, stored, dense = nvfp4(rows, columns, 1.0)
    config = compressed("nvfp4-pack-quantized", {"num_bits": 4, "type": "float", "group_size": 16})
    scale = np.array([16.0], np.float32)
    return (
        config,
        {"weight_packed": stored["weight"], "weight_scale": stored["weight_scale"], "weight_global_scale": scale},
        dense / 16,
    )


def modelopt_fp8(rows: int, columns: int) -> Made:
    values, scale = random_fp8(rows, columns), np.float32(0.013)
    stored = {"weight": values, "weight_scale": scale.reshape(()), "input_scale": np.float32(1).reshape(())}
    return {"quant_method": "modelopt", "quant_algo": "FP8"}, stored, E4M3[values] * float(scale)


HALF = 1.1 * 2.0**-11  # what rounding to float16 once may change, of the largest weight
# name: (maker, how the layer ends up, None for full precision; relative error that the 16-bit types leave)
FORMATS: dict[str, tuple[Callable[[int, int], Made], Quantization | None, float]] = {
    "gptq 4-bit g64": (gptq, Quantization(4, 64), HALF),
    "gptq 4-bit g128, v2": (lambda r, c: gptq(r, c, 4, 128, version="gptq_v2"), Quantization(4, 128), HALF),
    "gptq 8-bit": (lambda r, c: gptq(r, c, 8, 32), Quantization(8, 32), HALF),
    "gptq 3-bit": (lambda r, c: gptq(r, c, 3, 64), Quantization(3, 64), HALF),
    "gptq 2-bit, whole rows": (lambda r, c: gptq(r, c, 2, -1), Quantization(2, 128), HALF),
    "gptq act-order": (lambda r, c: gptq(r, c, act_order=True), None, HALF),
    "gptq g16": (lambda r, c: gptq(r, c, 4, 16), None, HALF),
    "awq g128": (awq, Quantization(4, 128), HALF),
    "compressed int4": (pack_quantized, Quantization(4, 32), 0),
    "compressed int4 asymmetric": (
        lambda r, c: pack_quantized(r, c, 4, 64, symmetric=False),
        Quantization(4, 64),
        HALF,
    ),
    "compressed int8 packed": (lambda r, c: pack_quantized(r, c, 8, 128), Quantization(8, 128), 0),
    "compressed int8": (int_quantized, Quantization(8, 128), 0),
    "compressed fp8": (float_quantized, None, HALF),
    "compressed mxfp4": (mxfp4, Quantization(4, 32, "mxfp4"), 0),
    "compressed nvfp4": (nvfp4_compressed, None, 0),
    "fp8 in blocks": (fp8_blocks, None, HALF),
    "modelopt nvfp4": (nvfp4, None, HALF),
    "modelopt nvfp4, factor 1": (lambda r, c: nvfp4(r, c, 1.0), Quantization(4, 16, "nvfp4"), 0),
    "modelopt mxfp8": (mxfp8, Quantization(8, 32, "mxfp8"), 0),
    "modelopt fp8": (modelopt_fp8, None, HALF),
}


def read(config: dict[str, Any], stored: dict[str, np.ndarray]) -> tuple[dict[str, mx.array], ModelConfig]:
    tensors = {f"{LAYER}.{name}": mx.array(value) for name, value in stored.items()}
    tensors["model.norm.weight"] = mx.ones((4,), mx.float16)
    return translated(tensors, ModelConfig({"model_type": "qwen2_vl", "quantization_config": config}), Path())


def restored(tensors: dict[str, mx.array], how: Quantization | None) -> np.ndarray:
    """The weight, computed in float32 as a product would."""
    weight = tensors[f"{LAYER}.weight"]
    if how is None:
        return np.array(weight.astype(mx.float32))
    scales, biases = tensors[f"{LAYER}.scales"], tensors.get(f"{LAYER}.biases")
    if how.mode == "affine":
        scales, biases = scales.astype(mx.float32), biases.astype(mx.float32)
    return np.array(mx.dequantize(weight, scales, biases, how.group_size, how.bits, how.mode, dtype=mx.float32))


@pytest.mark.parametrize("name", FORMATS)
def test_a_layer_means_what_its_format_says(name: str) -> None:
    maker, how, bound = FORMATS[name]
    config, stored, dense = maker(96, 256)
    tensors, hf = read(config, stored)
    found = hf.get("quantization")
    assert (None if found is None else Quantization(**found.to_dict())) == how
    assert "quantization_config" not in hf
    assert set(tensors) == {"model.norm.weight", f"{LAYER}.weight"} | (
        set() if how is None else {f"{LAYER}.scales"} | ({f"{LAYER}.biases"} if how.mode == "affine" else set())
    )
    got = restored(tensors, how)
    assert got.shape == dense.shape
    assert np.abs(got - dense).max() <= bound * np.abs(dense).max(), np.abs(got - dense).max() / np.abs(dense).max()


def test_symmetric_integers_are_exact_and_others_within_a_hundredth_of_a_step() -> None:
    config, stored, dense = gptq(96, 256)
    got = restored(read(config, stored)[0], Quantization(4, 64))
    step = stored["scales"].astype(float)[np.arange(256) // 64].T
    assert np.abs(got - dense).max() > 0 and (np.abs(got - dense) / step).max() < 0.01
    config, stored, dense = gptq(96, 256)
    stored["qzeros"] = stream(np.full((4, 96), 7), 4)  # stored less one
    codes = dense / stored["scales"].astype(float)[np.arange(256) // 64].T
    tensors, _ = read(config, stored)
    zeros = -tensors[f"{LAYER}.biases"].astype(mx.float32) / tensors[f"{LAYER}.scales"].astype(mx.float32)
    assert np.all(np.array(zeros) == 8) and np.isfinite(codes).all()


def test_scales_take_the_type_of_the_other_weights() -> None:
    config, stored, _ = awq(96, 256)
    tensors = {f"{LAYER}.{name}": mx.array(value) for name, value in stored.items()}
    tensors |= {"model.norm.weight": mx.ones((4,), mx.bfloat16), f"{LAYER}.bias": mx.ones((96,), mx.bfloat16)}
    done, _ = translated(tensors, ModelConfig({"quantization_config": config, "torch_dtype": "float16"}), Path())
    assert done[f"{LAYER}.scales"].dtype == done[f"{LAYER}.biases"].dtype == mx.bfloat16
    assert f"{LAYER}.bias" in done


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"quant_method": "bitsandbytes", "load_in_4bit": True}, "'bitsandbytes' are not supported"),
        ({"quant_method": "mxfp4"}, "'mxfp4' are not supported"),
        ({"quant_method": "awq", "bits": 4, "version": "gemv"}, "version"),
        ({"quant_method": "awq", "bits": 8}, "bits"),
        ({"quant_method": "gptq", "bits": 4, "checkpoint_format": "marlin"}, "checkpoint_format"),
        ({"quant_method": "gptq", "bits": 4, "dynamic": {"+:.*": {"bits": 8}}}, "dynamic"),
        ({"quant_method": "gptq", "bits": 5}, "bits"),
        ({"quant_method": "fp8", "fmt": "e5m2"}, "fmt"),
        ({"quant_method": "modelopt", "quant_algo": "W4A8_AWQ"}, "quant_algo"),
        ({"quant_method": "modelopt", "quant_algo": None}, "quant_algo"),
        (compressed("marlin-24", {}), "format"),
        (compressed("pack-quantized", {"num_bits": 3}), "num_bits"),
        (compressed("pack-quantized", {}) | {"config_groups": {}}, "one group of layers"),
        (compressed("pack-quantized", {}) | {"sparsity_config": {"format": "sparse-24-bitmask"}}, "sparse-24"),
        (compressed("int-quantized", {"num_bits": 8, "symmetric": False}), "symmetric"),
    ],
    ids=str,
)
def test_what_cannot_be_read_is_named(config: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        read(config, {})


def test_missing_parts_are_named() -> None:
    for maker, name in ((gptq, "scales"), (awq, "qzeros"), (pack_quantized, "weight_scale"), (nvfp4, "weight_scale_2")):
        config, stored, _ = maker(96, 256)
        stored.pop(name)
        with pytest.raises(WeightError, match=name):
            read(config, stored)
    config, stored, _ = fp8_blocks(96, 256)
    with pytest.raises(WeightError, match="without a scale"):
        read(config, {"weight": stored["weight"]})
    with pytest.raises(WeightError, match="scales of blocks"):
        read(config, stored | {"weight_scale_inv": np.ones((1, 2), np.float32)})


# whole checkpoints ---------------------------------------------------------------------------------------------------------

CONFIG = {
    "model_type": "qwen2_vl",
    "vision_config": {
        "depth": 1,
        "embed_dim": 32,
        "num_heads": 2,
        "mlp_ratio": 2,
        "patch_size": 14,
        "hidden_size": 128,
    },
    "hidden_size": 128,
    "intermediate_size": 256,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 64,
    "rope_scaling": {"type": "mrope", "mrope_section": [4, 6, 6]},
    "image_token_id": 60,
    "video_token_id": 61,
}
TYPES = {"float16": "F16", "float32": "F32", "int32": "I32", "int64": "I64", "uint8": "F8_E4M3", "int8": "I8"}


def write(folder: Path, config: dict[str, Any], tensors: dict[str, np.ndarray]) -> Path:
    """A checkpoint, with bytes stored as e4m3 (which numpy has no type for)."""
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config))
    header, data = {}, b""
    for name, value in tensors.items():
        raw = np.ascontiguousarray(value).tobytes()
        kind = "U8" if name.endswith("packed") and value.dtype == np.uint8 else TYPES[str(value.dtype)]
        header[name] = {"dtype": kind, "shape": list(value.shape), "data_offsets": [len(data), len(data) + len(raw)]}
        data += raw
    text = json.dumps(header).encode()
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + data)
    return folder


@pytest.mark.parametrize("name", [name for name in FORMATS if "whole" not in name and "factor 1" not in name])
def test_a_checkpoint_loads_and_gives_the_logits_of_its_dense_twin(name: str, tmp_path: Path) -> None:
    maker, how, _ = FORMATS[name]
    kind = family("qwen2_vl")
    model = kind.model(kind.config(CONFIG))
    plain: dict[str, np.ndarray] = {}
    packed: dict[str, np.ndarray] = {}
    method: dict[str, Any] = {}
    for own, value in named_parameters(model):
        published = own.replace("language_model.lm_head", "lm_head").replace("language_model.", "model.")
        path = published.removesuffix(".weight")
        if published.startswith("model.layers") and published.endswith("proj.weight"):
            method, stored, dense = maker(*value.shape)
            factor = 0.02 / dense.std()  # of trained weights' size, in scales that are powers of two
            for key in ("scales", "weight_scale_inv", "weight_scale_2", "weight_scale"):
                if key in stored and stored[key].dtype.kind == "f":
                    dense = dense * 2.0 ** np.round(np.log2(factor))
                    stored[key] = (stored[key] * 2.0 ** np.round(np.log2(factor))).astype(stored[key].dtype)
                    break
            plain[published] = dense.astype(np.float32)
            packed |= {f"{path}.{key}": array for key, array in stored.items()}
        else:
            noise = RNG.normal(size=value.shape) * 0.05 + ("norm" in own and own.endswith("weight"))
            plain[published] = noise.astype(np.float16)
            packed[published] = noise.astype(np.float16)
    dense_model = load(write(tmp_path / "dense", CONFIG, plain), dtype=mx.float32)
    loaded = load(write(tmp_path / "packed", {**CONFIG, "quantization_config": method}, packed), dtype=mx.float32)
    layers = packed_layers(loaded.model)
    assert len(layers) == (0 if how is None else 14) and set(layers.values()) <= {how}
    prompt = dense_model.processing().prompt(np.arange(20, dtype=np.int32), [])
    ours, reference = prefill(loaded.model, prompt).logits, prefill(dense_model.model, prompt).logits
    assert np.linalg.norm(ours - reference) <= 4e-3 * np.linalg.norm(reference)


def test_an_export_with_its_configuration_apart_is_read(tmp_path: Path) -> None:
    config, stored, dense = mxfp8(96, 256)
    (tmp_path / "hf_quant_config.json").write_text(json.dumps({"quantization": {"quant_algo": config["quant_algo"]}}))
    tensors = {f"{LAYER}.{name}": mx.array(value) for name, value in stored.items()}
    done, hf = translated(tensors, ModelConfig({"model_type": "qwen2_vl"}), tmp_path)
    assert hf["quantization"]["mode"] == "mxfp8" and np.array_equal(restored(done, Quantization(8, 32, "mxfp8")), dense)
