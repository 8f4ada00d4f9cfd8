"""`vlm generate` on small checkpoints whose prompts hold pictures, sounds and video at once or by turns."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
from PIL import Image

from vlm_cli.main import main
from vlm_models import load as load_models
from vlm_models.testing import golden
from vlm_models.testing.forward import greedy
from vlm_runtime import batch_generate, generate, load

GOLDENS = Path(__file__).parents[1] / "packages/vlm-models/tests/goldens"
# golden, layout, and what the prompts hold by turns
CHECKPOINTS = (
    ("phi4_multimodal/branches", "hub", ("", "image", "audio", "image audio")),
    ("phi4_multimodal/base", "transformers", ("", "image", "audio audio", "image audio")),
    ("molmo2/qwen3", "hub", ("", "image", "image image")),
    ("molmo2/olmo", "transformers", ("", "video")),
)


@pytest.fixture(scope="module")
def media(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    av = pytest.importorskip("av")
    folder = tmp_path_factory.mktemp("media")
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 255, (50, 80, 3), dtype=np.uint8)).save(folder / "a.png")
    soundfile.write(folder / "a.wav", rng.normal(size=22050).astype(np.float32) * 0.1, 22050)
    with av.open(str(folder / "a.mp4"), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for shade in range(12):
            frame = av.VideoFrame.from_ndarray(np.full((48, 64, 3), 20 * shade, np.uint8), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return {"image": str(folder / "a.png"), "audio": str(folder / "a.wav"), "video": str(folder / "a.mp4")}


def checkpoint(name: str, layout: str, folder: Path) -> Path:
    """The golden's checkpoint with a longer context: a picture is hundreds of tokens."""
    golden.materialise(golden.Golden(GOLDENS / name), folder, layout)
    config = json.loads((folder / "config.json").read_text())
    (config.get("text_config") or config)["max_position_embeddings"] = 4096
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.mark.parametrize(("name", "layout", "prompts"), CHECKPOINTS)
def test_media_reach_the_answer(
    name: str,
    layout: str,
    prompts: tuple[str, ...],
    media: dict[str, str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = checkpoint(name, layout, tmp_path)
    plain = ["generate", "--model", str(folder), "--prompt", "What is it?", "--max-tokens", "12", "--temperature", "0"]
    answers = set()
    for held in prompts:
        options = [word for kind in held.split() for word in (f"--{kind}", media[kind])]
        with pytest.raises(SystemExit) as ended:
            main(plain + options)
        captured = capsys.readouterr()
        assert not ended.value.code, captured.err
        answers.add(captured.out)
    assert len(answers) == len(prompts)


def until_end(tokens: list[int]) -> tuple[int, ...]:
    """Up to and with the first of the checkpoint's end tokens."""
    ends = [index for index, token in enumerate(tokens) if token in (96, 97)]
    return tuple(tokens[: ends[0] + 1] if ends else tokens)


def test_answers_beyond_the_length_trained_first_are_computed_anew(tmp_path: Path) -> None:
    folder = checkpoint("phi4_multimodal/base", "hub", tmp_path)
    model, processor = load(str(folder))
    texts = ["item 1, item 2, item 3, item", "What is in the picture, and where was it taken?"]
    prompts = [processor.tokenizer.encode(f"<|user|>{text}<|end|><|assistant|>") for text in texts]
    wanted = []
    for tokens in prompts:
        prompt = load_models(folder).processing().prompt(tokens, [])
        assert prompt.limit == 64 > len(prompt)
        wanted.append(until_end(greedy(model, prompt, 50).tolist()))
        assert len(prompt) + len(wanted[-1]) > 64
    options = {"max_tokens": 50, "temperature": 0}
    raw = [f"<|user|>{text}<|end|><|assistant|>" for text in texts]
    assert generate(model, processor, raw[0], **options).tokens == wanted[0]
    assert [result.tokens for result in batch_generate(model, processor, raw, **options)] == wanted
    kept = replace(prompt, limit=None)
    assert until_end(greedy(model, kept, 50).tolist()) != wanted[1]


def test_rows_of_several_branches_answer_as_alone(media: dict[str, str], tmp_path: Path) -> None:
    model, processor = load(str(checkpoint("phi4_multimodal/branches", "hub", tmp_path)))
    images, audios = [[], [], [media["image"]]], [[], [media["audio"]], []]
    options = {"max_tokens": 10, "temperature": 0}
    alone = [
        generate(model, processor, "Hello there", image=image, audio=audio, **options).tokens
        for image, audio in zip(images, audios, strict=True)
    ]
    together = batch_generate(model, processor, ["Hello there"] * 3, images=images, audios=audios, **options)
    assert [result.tokens for result in together] == alone
    assert len(set(alone)) == 3
