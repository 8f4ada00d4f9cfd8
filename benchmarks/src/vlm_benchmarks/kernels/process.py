"""Whole processes: peak memory of loading a checkpoint and generating, and the embedded model's command from start to end."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
from PIL import Image

from vlm_models import Quantization, apply_rules, family, named_parameters, pack_layers

from ..geometry import GEOMETRIES
from ..random_model import fill

_RUN = """
import sys, json, time
from vlm_runtime import load, generate
model, processor = load(sys.argv[1])
start = time.perf_counter()
result = generate(model, processor, "Describe the image.", image=[sys.argv[2]], max_tokens=64, temperature=0.0)
peak = next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM"))
print(json.dumps({"peak": peak * 1024, "prompt": result.prompt_tokens, "generated": result.generation_tokens}))
"""


def _picture(path: Path, size: int) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (size, size, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)


def _checkpoint(folder: Path) -> int:
    """Qwen2-VL-2B's sizes in 4 bits with the embedded model's tokenizer; returns the bytes of its weights."""
    import vlm_demo  # data, found where it is installed

    source = Path(vlm_demo.__file__).parent / "model"
    for path in source.iterdir():
        if path.suffix != ".safetensors":
            (folder / path.name).write_bytes(path.read_bytes())
    own = json.loads((source / "config.json").read_text())
    large = GEOMETRIES["qwen2-vl-2b"]
    names = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads")
    hf = {**own, **{name: large[name] for name in (*names, "rope_scaling")}}
    hf["vision_config"] = {**own["vision_config"], **large["vision_config"]}
    kind = family("qwen2_vl")
    config = kind.config(hf)
    model = kind.model(config)
    pack_layers(model, lambda path, _: None if any(fnmatch(path, part) for part in kind.keep_full) else Quantization())
    fill(model, mx.bfloat16)
    tensors = apply_rules(kind.export_rules(config), dict(named_parameters(model)), {}, is_mlx=True)
    mx.save_safetensors(str(folder / "model.safetensors"), tensors, metadata={"format": "mlx"})
    quantization = {"group_size": 64, "bits": 4, "mode": "affine"}
    (folder / "config.json").write_text(json.dumps({**hf, "quantization": quantization}))
    return (folder / "model.safetensors").stat().st_size


def memory() -> dict[str, Any]:
    """Peak memory of a process that loads a checkpoint of more than 1 GB and generates 64 tokens about a picture."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        weights = _checkpoint(folder)
        mx.clear_cache()
        _picture(folder / "picture.png", 448)
        command = [sys.executable, "-c", _RUN, name, str(folder / "picture.png")]
        run = subprocess.run(command, capture_output=True, text=True, check=True)
    found = json.loads(run.stdout.splitlines()[-1])
    large = GEOMETRIES["qwen2-vl-2b"]
    size = large["hidden_size"] // large["num_attention_heads"]
    tokens = found["prompt"] + found["generated"]
    caches = 2 * 2 * large["num_hidden_layers"] * large["num_key_value_heads"] * size * tokens
    bound = 1.15 * (weights + caches) + 150e6
    return {"weights": weights, "caches": caches, **found, "bound": bound, "of_bound": found["peak"] / bound}


def demo(repeats: int = 3) -> float:
    """Seconds of `vlm generate` with one picture, the whole process; the best of `repeats`."""
    with tempfile.TemporaryDirectory() as name:
        picture = Path(name) / "picture.png"
        _picture(picture, 224)
        vlm = Path(sys.executable).with_name("vlm")
        command = [
            str(vlm),
            "generate",
            "--image",
            str(picture),
            "--prompt",
            "Describe the image.",
            "--max-tokens",
            "64",
        ]
        best = float("inf")
        for _ in range(repeats):
            start = time.perf_counter()
            subprocess.run(command, capture_output=True, check=True)
            best = min(best, time.perf_counter() - start)
    return best
