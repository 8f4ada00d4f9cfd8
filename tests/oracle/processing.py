"""Record what reference processors, configured as published, make of 50 picture sizes from 1 x 1 to 4000 x 3000.

`python tests/oracle/processing.py [FAMILY[/VARIANT] ...]` writes `<family>/processing[-variant]/`: the processor's files
(hub/), manifest.json and golden.npz with
    sizes                 [50, 2] height, width
    columns/refused       [50] one where the reference raises (the message's first words are in the manifest)
    columns/tokens        [50] image placeholders in the expanded prompt
    columns/length        [50] tokens of the whole expanded prompt
    columns/pixels        [50, n] shape of the pixel values
    columns/NAME          grids, sizes, counts under the processor's own names
    pictures/I/sample     every stride-th pixel value of picture I, in the order of the flattened array
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
import environment

environment.prepare()
warnings.filterwarnings("ignore")

import numpy as np  # noqa: E402  (environment comes first)
import transformers  # noqa: E402
from hub import split_processor  # noqa: E402
from maker import processor_files, small, write, write_manifest  # noqa: E402
from PIL import Image  # noqa: E402
from published_processors import TABLE  # noqa: E402
from shared import GOLDENS, hashed  # noqa: E402

PIXELS = ("pixel_values", "image_pixel_values")
KEPT = (
    "image_grid_thw",
    "image_sizes",
    "image_grids",
    "image_num_crops",
    "num_local_patches",
    "num_crops",
    "num_patches",
)
KEPT += ("batch_num_images",)
FIXED = [
    (1, 1),
    (3000, 4000),
    (4000, 3000),
    (1, 50),
    (50, 1),
    (28, 28),
    (224, 224),
    (336, 672),
    (1000, 1000),
    (15, 2999),
]
PICTURES = [(37, 91), (211, 300)]


def sizes(count: int = 50) -> list[tuple[int, int]]:
    """Fixed corner cases, then sizes spread evenly over the logarithm."""
    draws = hashed.bits("processing.sizes", 2 * count).astype(np.float64) / 2.0**64
    heights, widths = (np.exp(draws[i::2] * np.log(3000)).astype(int) for i in range(2))
    drawn = [(int(height), int(width * 4 / 3)) for height, width in zip(heights, widths)]
    return (FIXED + [(max(h, 1), max(w, 1)) for h, w in drawn])[:count]


def measure(processor: Any, prompt: str, token: str, picture: Image.Image) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Columns of one picture, and its pixel values."""
    made = processor(text=[prompt], images=[picture], return_tensors="pt")
    ids = np.asarray(made["input_ids"])[0]
    pixels = np.asarray(made[next(name for name in PIXELS if name in made)])
    wanted = processor.tokenizer.convert_tokens_to_ids(token)
    columns = {"tokens": int((ids == wanted).sum()), "length": len(ids), "pixels": pixels.shape}
    columns |= {name: small(made[name])[0] for name in KEPT if name in made}
    if "image_position_ids" in made:
        columns["patches"] = int((np.asarray(made["image_position_ids"])[0] != -1).all(-1).sum())
    for name in ("pixel_attention_mask", "image_attention_mask"):
        if name in made:
            columns[name] = int(np.asarray(made[name]).sum())
    if "pixel_values_local" in made:
        columns["pixels_local"] = np.asarray(made["pixel_values_local"]).shape[0]
    return {name: np.asarray(value, np.int64).reshape(-1) for name, value in columns.items()}, pixels


def make(family: str, build: Callable[[], Any], prompt: str, token: str) -> Path:
    """Write the processing golden of `family`."""
    processor = build()
    family, _, variant = family.partition("/")
    folder = GOLDENS / family / ("processing" + (f"-{variant}" if variant else ""))
    folder.mkdir(parents=True, exist_ok=True)
    rows: list[dict[str, np.ndarray] | None] = []
    messages = {}
    for index, (height, width) in enumerate(sizes()):
        try:
            rows.append(measure(processor, prompt, token, Image.new("RGB", (width, height), (90, 120, 40)))[0])
        except (ValueError, RuntimeError, ZeroDivisionError, IndexError) as error:
            rows.append(None)
            messages[index] = f"{type(error).__name__}: {str(error)[:80]}"
    names = sorted({name for row in rows if row for name in row})
    arrays = {"sizes": np.array(sizes(), np.int32), "columns/refused": np.array([row is None for row in rows], np.int8)}
    for name in names:
        width = max(len(row[name]) for row in rows if row and name in row)
        table = np.zeros((len(rows), width), np.int32)
        for index, row in enumerate(rows):
            if row and name in row:
                table[index, : len(row[name])] = row[name]
        arrays[f"columns/{name}"] = table[:, 0] if width == 1 else table
    pictures = []
    for index, (height, width) in enumerate(PICTURES):
        name = f"processing.{index}"
        pixels = measure(processor, prompt, token, Image.fromarray(hashed.image(name, height, width)))[1]
        stride = max(1, pixels.size // 3000) | 1
        arrays[f"pictures/{index}/sample"] = pixels.reshape(-1)[::stride].astype(np.float32)
        pictures.append({"name": name, "height": height, "width": width, "shape": list(pixels.shape), "stride": stride})
    np.savez_compressed(folder / "golden.npz", **arrays)
    for part, files in build_files(processor).items():
        (folder / part).mkdir(exist_ok=True)
        for name, content in files.items():
            write(folder / part / name, content)
    manifest = {
        "kind": "processing",
        "family": family,
        "reference": {
            "transformers": transformers.__version__,
            "image_processor": type(processor.image_processor).__name__,
        },
        "prompt": prompt,
        "image_token": token,
        "refused": messages,
        "pictures": pictures,
    }
    write_manifest(folder / "manifest.json", manifest)
    return folder


def build_files(processor: Any) -> dict[str, dict[str, Any]]:
    """The processor's own files in the hub's form, and the tokenizer's."""
    made = split_processor(processor_files(processor, vocabulary=160))
    return {"hub": made["hub"], "shared": {k: v for k, v in made["shared"].items() if k.startswith("tokenizer")}}


if __name__ == "__main__":
    for wanted in sys.argv[1:] or TABLE:
        path = make(wanted, *TABLE[wanted])
        print(wanted, sum(file.stat().st_size for file in path.rglob("*") if file.is_file()) // 1000, "KB")
