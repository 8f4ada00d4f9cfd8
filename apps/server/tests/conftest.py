"""A server over a tiny checkpoint."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vlm_models.testing import golden
from vlm_server import Settings
from vlm_server.testing import Running, running

GOLDENS = Path(__file__).parents[3] / "packages/vlm-models/tests/goldens"


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    source = next(g for g in golden.find(GOLDENS, "qwen2_vl") if g.folder.name == "base")
    folder = golden.materialise(source, tmp_path_factory.mktemp("checkpoint"), "hub")
    config = json.loads((folder / "config.json").read_text())
    # its tokens are characters: tool descriptions need room
    (folder / "config.json").write_text(json.dumps({**config, "max_position_embeddings": 4096}))
    return folder


@pytest.fixture(scope="session")
def picture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("media") / "picture.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (60, 80, 3), dtype=np.uint8)).save(path)
    return path


@pytest.fixture(scope="session")
def server(checkpoint: Path) -> Iterator[Running]:
    with running(Settings(model=str(checkpoint))) as url:
        yield Running(url, str(checkpoint))
