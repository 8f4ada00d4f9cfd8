"""A tiny Qwen2-VL checkpoint with random weights, in a folder as users have it."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from mlx.utils import tree_flatten

import vlm_demo
import vlm_models
from vlm_runtime import load, unload

sys.path.insert(0, str(Path(__file__).parent.parent))


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo model's tokenizer, template and processing around a smaller network."""
    folder = tmp_path_factory.mktemp("checkpoint")
    for path in Path(vlm_demo.path()).iterdir():
        if path.suffix in (".json", ".jinja"):
            shutil.copy(path, folder)
    config = json.loads((folder / "config.json").read_text())
    config |= {"hidden_size": 128, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    config |= {"num_key_value_heads": 1, "max_position_embeddings": 512}
    config["vision_config"] |= {"depth": 1, "embed_dim": 64, "hidden_size": 128, "num_heads": 2}
    (folder / "config.json").write_text(json.dumps(config))
    family = vlm_models.family("qwen2_vl")
    model = family.model(family.config(config))
    random = np.random.default_rng(0)
    weights = {
        name: mx.array(
            1.0 + 0.1 * random.standard_normal(value.shape)
            if value.ndim == 1
            else random.standard_normal(value.shape) * 2.0 * value.shape[-1] ** -0.5
        ).astype(mx.float32)
        for name, value in tree_flatten(model.parameters())
    }
    mx.save_safetensors(str(folder / "model.safetensors"), weights, metadata={"format": "mlx"})
    return folder


@pytest.fixture(scope="session")
def loaded(checkpoint: Path) -> Iterator[tuple[Any, Any]]:
    model, processor = load(checkpoint)
    yield model, processor
    unload(processor)


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Paths of four different pictures."""
    from PIL import Image

    folder = tmp_path_factory.mktemp("pictures")
    paths = []
    for index in range(4):
        pixels = np.random.default_rng(index).integers(0, 255, (60 + 30 * index, 90, 3), dtype=np.uint8)
        paths.append(str(folder / f"{index}.png"))
        Image.fromarray(pixels).save(paths[-1])
    return paths
