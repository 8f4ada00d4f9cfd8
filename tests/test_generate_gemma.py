"""Gemma 3n and Gemma 3 with crops from files on disk to answers: those that the model gives to the prompt of the goldens' rules."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile
from PIL import Image
from tokenizers import Tokenizer

from vlm_cli.main import main
from vlm_models import MediaOptions
from vlm_models import load as load_models
from vlm_models.testing import golden, hashed
from vlm_models.testing.forward import greedy
from vlm_runtime import batch_generate, generate, load

GOLDENS = Path(__file__).parents[1] / "packages/vlm-models/tests/goldens"
OPTIONS = {"max_tokens": 12, "temperature": 0}


@pytest.fixture(scope="module")
def media(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("media")
    Image.fromarray(hashed.image("picture", 37, 91)).save(folder / "a.png")
    soundfile.write(folder / "a.wav", hashed.sound("sound", 7000), 16_000, subtype="FLOAT")
    return {"image": str(folder / "a.png"), "audio": str(folder / "a.wav")}


class Table:
    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer

    def text(self, token_id: int) -> str:
        return self.tokenizer.id_to_token(token_id)

    def id(self, text: str) -> int | None:
        return self.tokenizer.token_to_id(text)


def expected(folder: Path, text: str) -> list[int]:
    """Up to and with the first end token: the greedy answer of the model alone."""
    tokenizer, loaded = Tokenizer.from_file(str(folder / "tokenizer.json")), load_models(folder)
    processing = loaded.processing(Table(tokenizer))
    items = [processing.image(hashed.image("picture", 37, 91), MediaOptions())] * text.count(
        processing.placeholder("image")
    )
    if "audio" in processing.kinds:
        sound = processing.audio(hashed.sound("sound", 7000), 16_000, MediaOptions())
        items += [sound] * text.count(processing.placeholder("audio"))
    items = processing.in_order([text], items)
    tokens = tokenizer.encode("".join(processing.expand([text], items)), add_special_tokens=False).ids
    answer = greedy(loaded.model, processing.prompt(tokens, items), 12).tolist()
    ends = [index for index, token in enumerate(answer) if token in (97, 100)]
    return answer[: ends[0] + 1] if ends else answer


@pytest.mark.parametrize("layout", ["hub", "transformers"])
def test_gemma3n_sees_and_hears(layout: str, media: dict[str, str], tmp_path: Path) -> None:
    folder = golden.materialise(golden.Golden(GOLDENS / "gemma3n/base"), tmp_path, layout)
    image, audio = "<image_soft_token>", "<audio_soft_token>"
    held = ["", image, audio, f"{audio}{image}{audio}"]
    texts = [f"<bos><start_of_turn>user\n{marks}Hello<end_of_turn>\n<start_of_turn>model\n" for marks in held]
    images = [[media["image"]] * text.count(image) for text in texts]
    audios = [[media["audio"]] * text.count(audio) for text in texts]
    wanted = [expected(folder, text) for text in texts]
    model, processor = load(str(folder))
    alone = [
        generate(model, processor, t, image=i, audio=a, **OPTIONS)
        for t, i, a in zip(texts, images, audios, strict=True)
    ]
    together = batch_generate(model, processor, texts, images=images, audios=audios, **OPTIONS)
    assert [list(result.tokens) for result in alone] == wanted
    assert [list(result.tokens) for result in together] == wanted
    assert len({tuple(answer) for answer in wanted}) == 4


def test_gemma3n_answers_on_the_command_line(
    media: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = golden.materialise(golden.Golden(GOLDENS / "gemma3n/base"), tmp_path, "hub")
    files = ["--image", media["image"], "--audio", media["audio"]]
    with pytest.raises(SystemExit) as ended:
        main(
            ["generate", "--model", str(folder), "--prompt", "Hello", *files, "--max-tokens", "6", "--temperature", "0"]
        )
    captured = capsys.readouterr()
    assert not ended.value.code, captured.err
    assert captured.out.strip()


def test_gemma3_shows_crops(media: dict[str, str], tmp_path: Path) -> None:
    folder = golden.materialise(golden.Golden(GOLDENS / "gemma3/base"), tmp_path, "hub")
    file = folder / "preprocessor_config.json"
    file.write_text(
        json.dumps(json.loads(file.read_text()) | {"do_pan_and_scan": True, "pan_and_scan_min_crop_size": 20})
    )
    text = "<bos><start_of_turn>user\n<start_of_image>Hello<end_of_turn>\n<start_of_turn>model\n"
    model, processor = load(str(folder))
    answer = generate(model, processor, text, image=[media["image"]], **OPTIONS)
    assert list(answer.tokens) == expected(folder, text)
    # the whole picture and two crops of 9 tokens, each between blank lines and brackets, and the sentence
    assert answer.prompt_tokens > 3 * (9 + 6) + len("Here is the original image")
    assert np.array_equal(answer.tokens, generate(model, processor, text, image=[media["image"]], **OPTIONS).tokens)
