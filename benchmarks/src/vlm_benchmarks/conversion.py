"""Peak memory and time of converting a checkpoint of a real geometry, written here with random weights in shards.

    python -m vlm_benchmarks.conversion FOLDER --geometry qwen2.5-vl-7b [--q-bits 4] [--shard-gb 5] [--keep]

FOLDER needs room for the checkpoint and its conversion. The conversion runs in a process of its own; peak is that of its resident
memory and of MLX's allocator. Both folders are deleted at the end.
"""

from __future__ import annotations

import argparse
import json
import resource
import shutil
import struct
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np

from vlm_convert import convert
from vlm_models import family, named_parameters

from .geometry import GEOMETRIES

_TILE = 1 << 24  # random values that are written again and again


def write_checkpoint(folder: Path, geometry: str, shard_bytes: int) -> int:
    """A checkpoint in bfloat16; bytes written."""
    folder.mkdir(parents=True)
    hf = GEOMETRIES[geometry]
    (folder / "config.json").write_text(json.dumps({**hf, "torch_dtype": "bfloat16"}))
    kind = family(hf["model_type"])
    shapes = {name: tuple(value.shape) for name, value in named_parameters(kind.model(kind.config(hf)))}
    shards: list[dict[str, tuple[int, ...]]] = [{}]
    size = 0
    for name, shape in shapes.items():
        count = 2 * int(np.prod(shape))
        if shards[-1] and size + count > shard_bytes:
            shards.append({})
            size = 0
        shards[-1][name] = shape
        size += count
    values = mx.array(np.random.default_rng(0).normal(0, 0.02, _TILE).astype(np.float32)).astype(mx.bfloat16)
    tile = np.array(values.view(mx.uint16)).tobytes()
    weight_map: dict[str, str] = {}
    for index, part in enumerate(shards, start=1):
        file = f"model-{index:05}-of-{len(shards):05}.safetensors"
        _write_shard(folder / file, part, tile)
        weight_map |= dict.fromkeys(part, file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    return sum(path.stat().st_size for path in folder.glob("*.safetensors"))


def _write_shard(path: Path, part: dict[str, tuple[int, ...]], tile: bytes) -> None:
    header: dict[str, Any] = {}
    offset = 0
    for name, shape in part.items():
        stop = offset + 2 * int(np.prod(shape))
        header[name] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [offset, stop]}
        offset = stop
    text = json.dumps(header).encode()
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        while offset > 0:
            file.write(tile[: min(offset, len(tile))])
            offset -= len(tile)


def convert_and_tell(source: Path, out: Path, bits: int, shard_bytes: int) -> dict[str, Any]:
    """Convert in this process; seconds and peaks in bytes."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.perf_counter()
    done = convert(str(source), out, quantize=True, q_bits=bits, shard_bytes=shard_bytes)
    unit = 1 if sys.platform == "darwin" else 1024
    return {
        "seconds": time.perf_counter() - start,
        "resident": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit,
        "resident_before": before * unit,
        "mlx": mx.get_peak_memory(),
        "bytes_out": done.plan.after,
        "largest_shard_out": max(path.stat().st_size for path in out.glob("*.safetensors")),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--geometry", choices=sorted(GEOMETRIES), default="qwen2.5-vl-7b")
    parser.add_argument("--q-bits", type=int, default=4)
    parser.add_argument("--shard-gb", type=float, default=5.0)
    parser.add_argument("--keep", action="store_true", help="leave the folders")
    parser.add_argument("--only-convert", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    source, out, shard_bytes = given.folder / "original", given.folder / "converted", int(given.shard_gb * 1e9)
    if given.only_convert:
        sys.stdout.write(json.dumps(convert_and_tell(source, out, given.q_bits, shard_bytes)) + "\n")
        return 0
    try:
        size = write_checkpoint(source, given.geometry, shard_bytes)
        command = [sys.executable, "-m", "vlm_benchmarks.conversion", *sys.argv[1:], "--only-convert"]
        told = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
        largest = max(path.stat().st_size for path in source.glob("*.safetensors"))
        result = {**json.loads(told), "geometry": given.geometry, "bytes_in": size, "largest_shard_in": largest}
        result["peak_in_shards"] = (result["resident"] - result["resident_before"]) / shard_bytes
        sys.stdout.write(json.dumps(result, indent=1) + "\n")
        return 0 if result["peak_in_shards"] <= 1.5 else 1
    finally:
        if not given.keep and not given.only_convert:
            for path in (source, out):
                shutil.rmtree(path, ignore_errors=True)


if __name__ == "__main__":
    raise SystemExit(main())
