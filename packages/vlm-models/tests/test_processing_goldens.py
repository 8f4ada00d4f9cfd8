"""Sizes, tokens and pixels that published processors make of 50 pictures from 1 x 1 to 4000 x 3000."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer

from vlm_models import MediaItem, MediaOptions, ProcessingError
from vlm_models.loading import read_processor_files
from vlm_models.processing.base import Processing
from vlm_models.registry import TABLE, family
from vlm_models.testing import golden

ROOT = Path(__file__).parent / "goldens"
GOLDENS = {
    f"{made.folder.parent.name}/{made.folder.name}": made
    for made in golden.find_processing(ROOT)
    if made.manifest["family"] in TABLE
}
GREY = 2 / 255 / 0.22
# pixels; processing more of them, or of very long pictures, takes seconds
LARGE = 200_000
# the tower's sizes that a published processor belongs to, where the tiny checkpoints have others
CONFIGS: dict[str, dict[str, Any]] = {
    "aya_vision/processing": {"downsample_factor": 2, "vision_config": {"image_size": 364, "patch_size": 14}},
    "deepseek_ocr2/processing": {"vision_config": {"sam_config": {"image_size": 1024, "patch_size": 16}}},
    "gemma3/processing": {"mm_tokens_per_image": 256, "vision_config": {"image_size": 896, "patch_size": 14}},
    "gemma3n/processing": {
        "audio_soft_tokens_per_image": 188,
        "vision_soft_tokens_per_image": 256,
        "audio_config": {"input_feat_size": 128},
        "vision_config": {"model_args": {"msfa_output_resolution": 16}},
    },
    "gemma4/processing": {"vision_config": {"patch_size": 16, "pooling_kernel_size": 3}},
    "gemma4_unified/processing": {
        "vision_config": {"patch_size": 16, "pooling_kernel_size": 3},
        "audio_config": {"audio_embed_dim": 640},
    },
    "granite4_vision/processing": {"vision_config": {"image_size": 384, "patch_size": 16}},
    "idefics2/processing": {
        "perceiver_config": {"resampler_n_latents": 64},
        "vision_config": {"image_size": 980, "patch_size": 14},
    },
    "idefics3/processing": {"scale_factor": 2, "vision_config": {"image_size": 364, "patch_size": 14}},
    "internvl/processing": {"vision_config": {"image_size": 448, "patch_size": 14}},
    "llava/processing": {"vision_config": {"image_size": 336, "patch_size": 14}},
    "llava_next/processing": {"vision_config": {"image_size": 336, "patch_size": 14}},
    "llava_next/processing-granite": {"vision_config": {"image_size": 384, "patch_size": 14}},
    "llava_onevision/processing": {"vision_config": {"image_size": 384, "patch_size": 14}},
    "mistral3/processing": {"vision_config": {"image_size": 1540, "patch_size": 14}},
    "molmo2/processing": {
        "vit_config": {"image_default_input_size": [378, 378], "image_patch_size": 14, "image_num_pos": 729}
    },
    "paddleocr_vl/processing": {"vision_config": {"patch_size": 14, "spatial_merge_size": 2}},
    "paligemma/processing": {"vision_config": {"image_size": 224, "patch_size": 14}},
    "phi4_multimodal/processing": {
        "audio_config": {"input_size": 80},
        "vision_config": {"image_size": 448, "crop_size": 448, "patch_size": 14},
    },
    "pixtral/processing": {"vision_config": {"image_size": 1024, "patch_size": 16}},
    "smolvlm/processing": {"scale_factor": 3, "vision_config": {"image_size": 384, "patch_size": 14}},
}
# pixel values that the reference fills up to the most patches
PADDED = ("gemma4/processing", "gemma4_unified/processing")
# one tile or patch of our items counts so many of the reference's
GRIDS = ("image_grid_thw", "image_grids")
COUNTS = {"num_local_patches": "tiles", "num_patches": "pixels", "image_num_crops": "patches"}


class Characters:
    """The golden's own tokenizer."""

    def __init__(self, path: Path) -> None:
        self.tokenizer = Tokenizer.from_file(str(path))

    def text(self, token_id: int) -> str:
        return self.tokenizer.id_to_token(token_id)

    def id(self, text: str) -> int | None:
        return self.tokenizer.token_to_id(text)


def merged(config: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    both = {key: merged(config[key], value) if isinstance(value, dict) else value for key, value in changes.items()}
    return config | both


def processing_of(name: str) -> tuple[Processing, Characters]:
    made = GOLDENS[name]
    config = next(golden.find(ROOT, made.manifest["family"])).config("hub")
    kind = family(config["model_type"])
    table = Characters(made.folder / "shared/tokenizer.json")
    files = read_processor_files(made.folder / "hub")
    return kind.processing(kind.config(merged(config, CONFIGS.get(name, {}))), files, table), table


def measured(name: str, rgb: np.ndarray) -> tuple[MediaItem, list[int]]:
    """The item and the tokens of the golden's prompt."""
    processing, table = processing_of(name)
    item = processing.image(rgb, MediaOptions())
    (text,) = processing.expand([GOLDENS[name].manifest["prompt"]], [item])
    return item, table.tokenizer.encode(text, add_special_tokens=False).ids


@pytest.mark.parametrize("large", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["small", "large"])
@pytest.mark.parametrize("name", GOLDENS)
def test_sizes_and_tokens_are_those_of_the_reference(name: str, large: bool) -> None:
    made = GOLDENS[name]
    wanted = Characters(made.folder / "shared/tokenizer.json").id(made.manifest["image_token"])
    for index, (height, width) in enumerate(made.sizes.tolist()):
        if (height * width > LARGE or max(height, width) > 20 * min(height, width)) is not large:
            continue
        columns = {key: value[index].tolist() for key, value in made.columns.items()}
        rgb = np.broadcast_to(np.array([90, 120, 40], np.uint8), (height, width, 3))
        where = f"{name}: {height} x {width}"
        if columns["refused"]:
            with pytest.raises(ProcessingError):
                measured(name, rgb)
            continue
        item, tokens = measured(name, rgb)
        assert tokens.count(wanted) == columns["tokens"], where
        assert len(tokens) == columns["length"], where
        for key in GRIDS:
            if key in columns:
                assert list(item.grid) == columns[key], where
        for key, part in COUNTS.items():
            if key in columns and part in item.arrays:
                assert len(item.arrays[part]) == columns[key], where


@pytest.mark.parametrize("name", GOLDENS)
def test_pixels_are_those_of_the_reference(name: str) -> None:
    made = GOLDENS[name]
    for about, picture in zip(made.manifest["pictures"], made.pictures, strict=True):
        item, _ = measured(name, picture["raw"])
        parts = [array.reshape(-1) for array in item.arrays.values()]
        if name in PADDED:
            parts = [np.pad(flat, (0, np.prod(about["shape"]) - flat.size)) for flat in parts]
        ours = next(flat for flat in (*parts, np.concatenate(parts)) if flat.size == np.prod(about["shape"]))
        difference = np.abs(ours[:: about["stride"]].astype(np.float64) - picture["sample"])
        assert difference.max() <= GREY and difference.mean() <= 1e-3, f"{name}: {picture['raw'].shape}"
