"""What users get wrong: each a one-line named error and exit status 2, never a traceback."""

from __future__ import annotations

import json
import struct
import zlib
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
from PIL import Image

from vlm_cli.main import main
from vlm_models.testing import golden

GOLDENS = Path(__file__).parents[1] / "packages/vlm-models/tests/goldens"


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    source = next(g for g in golden.find(GOLDENS, "qwen2_vl") if g.folder.name == "base")
    return golden.materialise(source, tmp_path_factory.mktemp("checkpoint"), "hub")


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    path = tmp_path / "picture.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (60, 80, 3), dtype=np.uint8)).save(path)
    return path


def fails(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> str:
    with pytest.raises(SystemExit) as done:
        main(["generate", *map(str, arguments)])
    captured = capsys.readouterr()
    assert done.value.code == 2, captured
    assert "Traceback" not in captured.err
    lines = [line for line in captured.err.splitlines() if line.strip() and not line.startswith(("Usage:", "Try "))]
    assert len(lines) == 1 and lines[0].lower().startswith("error: "), captured.err
    return lines[0]


def png_header(width: int, height: int) -> bytes:
    """A PNG that declares a size and holds nothing."""
    data = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    header = struct.pack(">I", 13) + data + struct.pack(">I", zlib.crc32(data))
    return b"\x89PNG\r\n\x1a\n" + header + struct.pack(">I", 0) + b"IEND" + struct.pack(">I", zlib.crc32(b"IEND"))


def test_pictures(capsys: pytest.CaptureFixture[str], checkpoint: Path, picture: Path, tmp_path: Path) -> None:
    def with_picture(path: Path) -> str:
        return fails(capsys, "--model", checkpoint, "--prompt", "a", "--image", path)

    assert "absent.png" in with_picture(tmp_path / "absent.png")
    text = tmp_path / "text.png"
    text.write_text("not a picture")
    assert "expected an image" in with_picture(text)
    truncated = tmp_path / "truncated.png"
    truncated.write_bytes(picture.read_bytes()[:-2000])
    assert "truncated" in with_picture(truncated)
    dot = tmp_path / "dot.png"
    Image.new("RGB", (1, 1)).save(dot)
    assert "1x1" in with_picture(dot)
    bomb = tmp_path / "bomb.png"
    bomb.write_bytes(png_header(20000, 20000))
    assert "20000x20000" in with_picture(bomb) or "pixels" in with_picture(bomb)


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        ([], "nothing to answer"),
        (["--prompt", " "], "nothing to answer"),
        (["--prompt", "a", "--temperature", "nan"], "temperature"),
        (["--prompt", "a", "--temperature", "-1"], "temperature"),
        (["--prompt", "a", "--max-tokens", "-3"], "max_tokens"),
        (["--prompt", "a", "--top-p", "1.5"], "top_p"),
        (["--prompt", "a" * 30000], "context"),
        (["--prompt", "a", "--fly"], "--fly"),
    ],
    ids=lambda value: " ".join(value)[:30] if isinstance(value, list) else value,
)
def test_options(capsys: pytest.CaptureFixture[str], checkpoint: Path, arguments: list[str], word: str) -> None:
    assert word in fails(capsys, "--model", checkpoint, *arguments)


def broken(checkpoint: Path, folder: Path, change: str) -> Path:
    """A copy of the checkpoint with one thing wrong."""
    folder.mkdir()
    for path in checkpoint.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    config = json.loads((folder / "config.json").read_text())
    tensors = dict(mx.load(str(folder / "model.safetensors")))
    name = next(name for name in sorted(tensors) if name.endswith("mlp.down_proj.weight"))
    match change:
        case "unknown type":
            config["model_type"] = "qwen2_v1"
        case "no type":
            del config["model_type"]
        case "missing":
            del tensors[name]
        case "extra":
            tensors["model.layers.0.surprise.weight"] = mx.zeros((2, 2))
        case "shape":
            tensors[name] = mx.zeros((3, 5))
        case "activation":
            config["vision_config"]["hidden_act"] = "swoosh"
        case "rope":
            config["rope_scaling"] = {**config["rope_scaling"], "type": "spiral", "rope_type": "spiral"}
    (folder / "config.json").write_text("{" if change == "json" else json.dumps(config))
    mx.save_safetensors(str(folder / "model.safetensors"), tensors, metadata={"format": "pt"})
    return folder


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ("unknown type", "qwen2_vl"),
        ("no type", "model_type"),
        ("missing", "missing from the checkpoint"),
        ("extra", "surprise"),
        ("shape", "(3, 5)"),
        ("activation", "swoosh"),
        ("rope", "spiral"),
        ("json", "JSON"),
    ],
)
def test_checkpoints(
    capsys: pytest.CaptureFixture[str], checkpoint: Path, tmp_path: Path, change: str, word: str
) -> None:
    assert word in fails(capsys, "--model", broken(checkpoint, tmp_path / "broken", change), "--prompt", "a")


def test_places(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert "no such folder" in fails(capsys, "--model", tmp_path / "nowhere", "--prompt", "a")
    assert "config.json" in fails(capsys, "--model", tmp_path, "--prompt", "a")


def test_more_pictures_than_placeholders(checkpoint: Path, picture: Path) -> None:
    from vlm_models import PlaceholderError
    from vlm_runtime import errors, generate, load

    model, processor = load(checkpoint)
    prompt = "<|vision_start|><|image_pad|><|vision_end|> what?"
    with pytest.raises((PlaceholderError, errors.PlaceholderError)):
        generate(model, processor, prompt, [str(picture), str(picture)], max_tokens=2)
    with pytest.raises((PlaceholderError, errors.PlaceholderError)):
        generate(model, processor, prompt + prompt, [str(picture)], max_tokens=2)
