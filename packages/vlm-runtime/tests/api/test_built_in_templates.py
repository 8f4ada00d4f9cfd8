"""Templates that a family brings where its published checkpoints bring none, or none that names video."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from vlm_models.testing import golden
from vlm_runtime import apply_chat_template, load

ROOT = Path(__file__).parents[3] / "vlm-models" / "tests" / "goldens"


def rendered(folder: Path, family: str, messages: list[dict[str, Any]], *, keep_template: bool) -> str:
    made = next(golden.find(ROOT, family))
    golden.materialise(made, folder, "hub")
    if not keep_template:
        for path in folder.glob("chat_template*"):
            path.unlink()
        settings = json.loads((folder / "tokenizer_config.json").read_text())
        settings.pop("chat_template", None)
        (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    model, processor = load(str(folder))
    return str(apply_chat_template(processor, model.config, messages))


def turn(*parts: str, text: str = "What?") -> dict[str, Any]:
    return {"role": "user", "content": [*({"type": part} for part in parts), {"type": "text", "text": text}]}


def test_llava_without_a_template_is_vicunas_format(tmp_path: Path) -> None:
    messages = [turn("image"), {"role": "assistant", "content": "A cat."}, {"role": "user", "content": "Why?"}]
    text = rendered(tmp_path, "llava", messages, keep_template=False)
    assert text == "USER: <image>\nWhat? ASSISTANT: A cat. </s>USER: Why? ASSISTANT:"


def test_florence_without_a_template_is_its_question(tmp_path: Path) -> None:
    assert rendered(tmp_path, "florence2", [turn("image", text="<OD>")], keep_template=False) == "<image><OD>"


@pytest.mark.parametrize("part", ["video", "image"])
def test_smolvlm_reads_video_though_its_template_names_none(tmp_path: Path, part: str) -> None:
    text = rendered(tmp_path, "smolvlm", [turn(part)], keep_template=True)
    assert f"<{part}>" in text and text.startswith("<|im_start|>") == (part == "video")
