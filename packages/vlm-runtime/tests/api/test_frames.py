"""Videos in messages become pictures in order where a family reads none."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest

from vlm_models.testing import golden
from vlm_runtime import GenerateOptions, Processor, load, with_frames

GOLDENS = Path(__file__).parents[3] / "vlm-models/tests/goldens"


def processor_of(name: str, folder: Path) -> Processor:
    return load(str(golden.materialise(golden.Golden(GOLDENS / name), folder, "hub")))[1]


def messages(**part: object) -> list[dict[str, object]]:
    frames = np.stack([np.full((8, 12, 3), 10 * shade, np.uint8) for shade in range(5)])
    video = {"type": "video", "video": frames, **part}
    return [
        {"role": "system", "content": "be kind"},
        {"role": "user", "content": [video, {"type": "text", "text": "what moves?"}]},
    ]


def test_frames_take_the_place_of_a_video(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    processor = processor_of("llava/base", tmp_path)
    with caplog.at_level(logging.INFO, "vlm_runtime.media"):
        system, user = with_frames(processor, messages(), GenerateOptions())
    assert system == messages()[0]
    pictures, text = user["content"][:-1], user["content"][-1]
    assert [part["type"] for part in pictures] == ["image"] * 5 and text["text"] == "what moves?"
    assert [int(part["image"][0, 0, 0]) for part in pictures] == [0, 10, 20, 30, 40]
    assert "llava reads no video: 5 of its frames are shown in order, as pictures" in caplog.text
    assert processor.apply_chat_template([system, user]).count("<image>") == 5


def test_what_a_message_says_about_its_video_stays_with_the_pictures(tmp_path: Path) -> None:
    processor = processor_of("llava/base", tmp_path)
    (_, user) = with_frames(processor, messages(resize_shape=[24, 24], fps=1.0), GenerateOptions())
    assert all(part["resize_shape"] == [24, 24] and "fps" not in part for part in user["content"][:-1])


def test_families_that_read_video_keep_it(tmp_path: Path) -> None:
    given = messages()
    assert with_frames(processor_of("qwen2_vl/base", tmp_path), given, GenerateOptions()) == given
