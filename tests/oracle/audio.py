"""Record what reference audio extractors, configured as published, make of sounds of several lengths.

`python tests/oracle/audio.py [FAMILY ...]` writes `<family>/audio/`; see `Sounds` of the golden reader.
"""

from __future__ import annotations

import sys
import warnings
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
import environment

environment.prepare()
warnings.filterwarnings("ignore")

import numpy as np  # noqa: E402  (environment comes first)
import transformers  # noqa: E402
from maker import write, write_manifest  # noqa: E402
from processing import build_files  # noqa: E402
from published_processors import TABLE  # noqa: E402
from shared import GOLDENS, hashed  # noqa: E402

AUDIO = {
    "gemma3n": "<audio_soft_token>",
    "gemma4": "<|audio|>",
    "gemma4_unified": "<|audio|>",
    "phi4_multimodal": "<|audio|>",
}
LENGTHS = (1600, 7777, 16000, 50001)


def measure(processor: Any, token: str, sound: np.ndarray) -> tuple[int, dict[str, np.ndarray]]:
    """Number of placeholders, and the feature arrays, of one sound."""
    made = processor(text=[token], audio=[sound], return_tensors="pt")
    wanted = processor.tokenizer.convert_tokens_to_ids(token)
    count = int((np.asarray(made["input_ids"]) == wanted).sum())
    return count, {name: np.asarray(made[name]) for name in made if "feature" in name or "audio" in name}


def make(family: str) -> Path:
    """Write the audio golden of `family`."""
    processor, token = TABLE[family][0](), AUDIO[family]
    folder = GOLDENS / family / "audio"
    folder.mkdir(parents=True, exist_ok=True)
    arrays, about = {}, []
    for index, samples in enumerate(LENGTHS):
        name = f"audio.{index}"
        count, features = measure(processor, token, hashed.sound(name, samples))
        shapes = {}
        for key, value in features.items():
            stride = max(1, value.size // 3000) | 1
            kept = value.reshape(-1)[::stride]
            arrays[f"{index}/{key}"] = kept.astype(np.float32) if kept.dtype.kind == "f" else kept
            shapes[key] = {"shape": list(value.shape), "stride": stride}
        about.append({"name": name, "samples": samples, "text": token, "tokens": count, "arrays": shapes})
    np.savez_compressed(folder / "golden.npz", **arrays)
    (folder / "hub").mkdir(exist_ok=True)
    for name, content in build_files(processor)["hub"].items():
        write(folder / "hub" / name, content)
    manifest = {
        "kind": "audio",
        "family": family,
        "reference": {"transformers": transformers.__version__},
        "audio_token": token,
        "sounds": about,
    }
    write_manifest(folder / "manifest.json", manifest)
    return folder


if __name__ == "__main__":
    for wanted in sys.argv[1:] or AUDIO:
        path = make(wanted)
        print(wanted, sum(file.stat().st_size for file in path.rglob("*") if file.is_file()) // 1000, "KB")
