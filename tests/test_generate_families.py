"""`vlm generate` on a small checkpoint of every family, as published and as transformers 5 saves it: pictures, sounds, video,
and frames where a family reads no video."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile
from PIL import Image

from vlm_cli.main import main
from vlm_models.registry import TABLE, family
from vlm_models.testing import golden

GOLDENS = Path(__file__).parents[1] / "packages/vlm-models/tests/goldens"
# one golden of each model type and layout that has a tokenizer
FOUND = {
    (g.config(layout)["model_type"], layout): g
    for g in sorted(golden.find(GOLDENS), key=lambda g: (g.config("hub").get("audio_config") is not None, g.name))
    for layout in ("hub", "transformers")
    if (g.folder / layout / "config.json").exists()
    and g.config(layout).get("model_type") in TABLE
    and (g.folder / "shared/tokenizer.json").exists()
    and layout in g.manifest["layouts"]
}
EACH = pytest.mark.parametrize(("model_type", "layout"), sorted(FOUND))


@pytest.fixture(scope="module")
def media(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """A picture, a sound at an odd rate, and twelve frames of growing brightness."""
    av = pytest.importorskip("av")
    folder = tmp_path_factory.mktemp("media")
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 255, (50, 80, 3), dtype=np.uint8)).save(folder / "a.png")
    soundfile.write(folder / "a.wav", rng.normal(size=5000).astype(np.float32) * 0.1, 22050)
    with av.open(str(folder / "a.mp4"), "w") as container:
        stream = container.add_stream("mpeg4", rate=4)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for shade in range(12):
            frame = av.VideoFrame.from_ndarray(np.full((48, 64, 3), 20 * shade, np.uint8), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return {"image": str(folder / "a.png"), "audio": str(folder / "a.wav"), "video": str(folder / "a.mp4")}


def checkpoint(model_type: str, layout: str, folder: Path) -> Path:
    """The golden's checkpoint with a longer context, for pictures are long in tokens."""
    golden.materialise(FOUND[model_type, layout], folder, layout)
    config = json.loads((folder / "config.json").read_text())
    text = config.get("text_config") or config
    if model_type != "florence2":
        text["max_position_embeddings"] = 8192
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as ended:
        main(list(arguments))
    captured = capsys.readouterr()
    return int(ended.value.code or 0), captured.out, captured.err


def test_every_model_type_has_a_checkpoint_with_a_tokenizer() -> None:
    named_elsewhere = {"pixtral"}  # what conversions call LLaVA with Pixtral's tower
    assert {model_type for model_type, _ in FOUND} >= set(TABLE) - named_elsewhere


@EACH
def test_media_are_answered_about(
    model_type: str, layout: str, media: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = checkpoint(model_type, layout, tmp_path)
    for kind in family(model_type).modalities:
        if kind == "video" and model_type == "idefics3":
            continue  # reads frames, see below
        code, _, error = run(
            capsys, "generate", "--model", str(folder), "--prompt", "hi", "--max-tokens", "4", f"--{kind}", media[kind]
        )
        assert code == 0, f"{kind}: {error}"


@EACH
def test_families_without_video_are_shown_frames(
    model_type: str, layout: str, media: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if model_type in ("florence2", "phi4mm") or ("video" in family(model_type).modalities and model_type != "idefics3"):
        pytest.skip("reads video, or one picture alone")
    folder = checkpoint(model_type, layout, tmp_path)
    code, _, error = run(
        capsys, "video", "--model", str(folder), "--video", media["video"], "--prompt", "hi", "--max-tokens", "2"
    )
    assert code == 0, error
    assert "reads no video: 3 of its frames are shown in order, as pictures" in error


def test_notes_about_media_are_told_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = checkpoint("qwen2_vl", "hub", tmp_path)
    first, second = (Image.fromarray(np.full((40, 60, 3), shade, np.uint8)) for shade in (30, 200))
    first.save(tmp_path / "a.gif", save_all=True, append_images=[second])
    pictures = ["--image", str(tmp_path / "a.gif"), "--image", str(tmp_path / "a.gif")]
    code, _, error = run(capsys, "generate", "--model", str(folder), "--prompt", "hi", "--max-tokens", "2", *pictures)
    assert code == 0, error
    assert error.count("note: image: animated: first frame taken") == 1


def test_a_kind_that_a_family_does_not_take_is_told_by_its_name(
    media: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = checkpoint("qwen2_vl", "hub", tmp_path)
    code, _, error = run(capsys, "generate", "--model", str(folder), "--prompt", "hi", "--audio", media["audio"])
    assert code == 2 and "qwen2_vl takes no audio" in error
