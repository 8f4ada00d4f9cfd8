"""From pictures, sounds and text to what the reference's processor made of them: token ids, pixels, features."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer

from vlm_models import MediaItem, MediaOptions
from vlm_models.loading import read_processor_files
from vlm_models.processing.base import Processing
from vlm_models.registry import TABLE, resolve
from vlm_models.testing import golden

ROOT = Path(__file__).parent / "goldens"
CASES = [
    (g, name, layout)
    for g in golden.find(ROOT)
    if g.config("hub").get("model_type") in TABLE and (g.folder / "shared/tokenizer.json").is_file()
    for name, about in g.manifest["cases"].items()
    for layout in g.layouts
    if layout in golden.LAYOUTS and about["text"]
]
# sounds that the reference fills up to the length of a longer neighbour before it takes their frames
FILLED = {"gemma3n/base/audio_and_image"}
GREY = 2 / 255
# what single cases ask of the processor, beyond the checkpoint's files
PROCESSOR_CHANGES: dict[str, dict[str, Any]] = {
    "idefics2/base/split": {"do_image_splitting": True},
    "gemma3/base/pan_and_scan": {
        "do_pan_and_scan": True,
        "pan_and_scan_min_crop_size": 10,
        "pan_and_scan_max_num_crops": 3,
        "pan_and_scan_min_ratio_to_activate": 1.2,
    },
}
# seconds from frame to frame, and of the whole video, where a case's are not half a second and unknown
VIDEO_TIMES: dict[str, tuple[float, float]] = {
    "smolvlm/base/video": (2.0, 4.0),
    "gemma4/dense/video": (2.0, 4.0),
    "gemma4/e/video": (2.0, 4.0),
    "gemma4_unified/base/video": (2.0, 4.0),
    "glm4v/base/video": (2.0, 8.0),
    "glm4v/biased/video": (2.0, 8.0),
    "glm_ocr/base/video": (2.0, 8.0),
    "glm_ocr/tied/video": (2.0, 8.0),
    "qwen2_5_vl/base/image_and_video": (1 / 24, 3 / 24),
    "qwen2_5_vl/base/video": (1 / 24, 6 / 24),
    "qwen2_5_vl/base/video_slow": (1 / 1.3, 5 / 1.3),
    "qwen3_5/base/video": (1 / 1.3, 5 / 1.3),
    "qwen3_5_moe/base/video": (1 / 1.3, 5 / 1.3),
    "qwen3_vl/base/video": (1 / 1.3, 5 / 1.3),
    "qwen3_vl/untied/video": (1 / 1.3, 5 / 1.3),
    "qwen3_vl_moe/base/video": (1 / 1.3, 5 / 1.3),
}


class Table:
    """The golden's own tokenizer."""

    def __init__(self, path: Path) -> None:
        self.tokenizer = Tokenizer.from_file(str(path))

    def text(self, token_id: int) -> str:
        return self.tokenizer.id_to_token(token_id)

    def id(self, text: str) -> int | None:
        return self.tokenizer.token_to_id(text)


def processing_of(g: golden.Golden, case: str, layout: str, folder: Path) -> tuple[Processing, Tokenizer]:
    golden.materialise(g, folder, layout)
    family = resolve(g.config(layout))
    files = read_processor_files(folder)
    files = replace(files, image={**files.image, **PROCESSOR_CHANGES.get(f"{g.name}/{case}", {})})
    table = Table(folder / "tokenizer.json")
    return family.processing(family.config(g.config(layout)), files, table), table.tokenizer


def items_of(processing: Processing, raw: dict[str, np.ndarray], times: tuple[float, float | None]) -> list[MediaItem]:
    options, items = MediaOptions(duration=times[1]), []
    for name, array in raw.items():
        if name.startswith("image"):
            items.append(processing.image(array, options))
        elif name.startswith("video"):
            items.append(processing.video(array, [index * times[0] for index in range(len(array))], options))
        elif name.startswith("sound"):
            items.append(processing.audio(array, processing.sample_rate, options))
    return items


@pytest.mark.parametrize(("g", "name", "layout"), CASES, ids=[f"{g.name}/{name}-{layout}" for g, name, layout in CASES])
def test_text_and_media_become_the_references_inputs(g: golden.Golden, name: str, layout: str, tmp_path: Path) -> None:
    case = g.cases[name]
    processing, tokenizer = processing_of(g, name, layout, tmp_path)
    given = {key: value for key, value in case.inputs.items() if key in processing.unpack_names}
    expected = [unfilled(item) for item in processing.unpack(given)]
    waiting = items_of(processing, dict(case.raw), VIDEO_TIMES.get(f"{g.name}/{name}", (0.5, None)))
    if len(waiting) == len(expected):
        for ours, theirs in zip(waiting, expected, strict=True):
            assert ours.kind == theirs.kind and ours.num_tokens == theirs.num_tokens
            if ours.kind == "audio" and ours.grid < theirs.grid and f"{g.name}/{name}" in FILLED:
                continue
            assert ours.grid == theirs.grid
            assert_arrays(ours.arrays, theirs.arrays)
    else:  # unpacked arrays do not say which tiles make a picture
        assert_arrays(joined(processing.in_order(case.text, waiting)), joined(expected))
    mask = case.inputs.get("attention_mask", np.ones_like(case.inputs["input_ids"])).astype(bool)
    queues = {kind: [item for item in waiting if item.kind == kind] for kind in processing.kinds}
    for row, (text, ids, valid) in enumerate(zip(case.text, case.inputs["input_ids"], mask, strict=True)):
        mine: list[MediaItem] = []
        for kind in processing.kinds:
            count = text.count(processing.placeholder(kind))
            if kind == "image" and g.name.startswith("florence2"):
                count = 1  # its prompts need not name the picture
            mine += [queues[kind].pop(0) for _ in range(count)]
        mine = processing.in_order([text], mine)
        (expanded,) = processing.expand([text], mine)
        tokens = tokenizer.encode(expanded, add_special_tokens=False).ids
        assert tokens == ids[valid].tolist()
        prompt = processing.prompt(tokens, mine)
        prompt = prompt.context or prompt
        assert sum(span.length for span in prompt.spans) == sum(item.num_tokens for item in mine)
        if "position_ids" in case.outputs and case.outputs["position_ids"].ndim == 3:
            assert np.array_equal(prompt.positions, case.outputs["position_ids"][:, row, valid])
            assert prompt.position_delta == case.outputs["position_delta"][row].item()


def unfilled(item: MediaItem) -> MediaItem:
    """The item without frames that fill it up to the length of a longer one."""
    if "num_frames" not in item.facts:
        return item
    return replace(item, arrays={"frames": item.arrays["frames"][: item.facts["num_frames"]]})


def joined(items: list[MediaItem]) -> dict[str, np.ndarray]:
    """The arrays of all items along their first axes, and how many tokens they make."""
    arrays = {key: np.concatenate([item.arrays[key] for item in items]) for key in items[0].arrays}
    return arrays | {"num_tokens": np.array([sum(item.num_tokens for item in items)])}


def assert_arrays(ours: Any, theirs: Any) -> None:
    """Equal up to what resizing may differ by: two grey levels (in normalised units) at a pixel, 1e-3 on average."""
    assert ours.keys() == theirs.keys()
    for key in ours:
        assert ours[key].shape == theirs[key].shape, key
        if ours[key].size:
            difference = np.abs(ours[key].astype(np.float64) - theirs[key])
            # pixels that the reference leaves as they are count in grey levels
            unit = 255 * 0.22 if theirs[key].dtype == np.uint8 else 1
            assert difference.max() <= unit * GREY / 0.22 and difference.mean() <= unit * 1e-3, key
