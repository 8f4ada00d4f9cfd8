"""Features and tokens that published extractors make of sounds of several lengths."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer

from vlm_models import MediaOptions, ProcessingError
from vlm_models.loading import read_processor_files
from vlm_models.processing.base import Processing
from vlm_models.registry import TABLE, family
from vlm_models.testing import golden

ROOT = Path(__file__).parent / "goldens"
GOLDENS = {made.manifest["family"]: made for made in golden.find_sounds(ROOT) if made.manifest["family"] in TABLE}
# the golden whose checkpoint hears, where not every one does; its tokenizer is the one of the sounds' prompts
HEARS = {"gemma4": "gemma4/e"}
# sizes that published processors belong to, where the tiny checkpoints have others
AUDIO_CONFIGS = {
    "gemma3n": {"input_feat_size": 128},
    "gemma4_unified": {"audio_embed_dim": 640},
    "phi4_multimodal": {"input_size": 80},
}
OTHER_CONFIGS = {"gemma3n": {"audio_soft_tokens_per_image": 188}}
# families that hear sounds of any length
ANY_LENGTH = ("gemma4_unified", "phi4_multimodal")
# how the reference names what an item holds, and its mask, which there may be for several sounds alone
FEATURES, MASK = ("input_features", "audio_input_features"), "input_features_mask"
TOLERANCES = {"phi4_multimodal": 1e-4}


class Table:
    def __init__(self, path: Path) -> None:
        self.tokenizer = Tokenizer.from_file(str(path))

    def text(self, token_id: int) -> str:
        return self.tokenizer.id_to_token(token_id)

    def id(self, text: str) -> int | None:
        return self.tokenizer.token_to_id(text)


def processing_of(name: str) -> tuple[Processing, Table]:
    folder = ROOT / HEARS.get(name, f"{name}/base")
    config = golden.Golden(folder).config("hub")
    config["audio_config"] |= AUDIO_CONFIGS.get(name, {})
    config |= OTHER_CONFIGS.get(name, {})
    # sounds are as published, pictures as the tiny checkpoint has them
    heard, seen = read_processor_files(GOLDENS[name].folder / "hub"), read_processor_files(folder / "hub")
    files = replace(seen, audio=heard.audio or heard.image, processor={})
    table = Table(folder / "shared/tokenizer.json")
    kind = family(config["model_type"])
    return kind.processing(kind.config(config), files, table), table


@pytest.mark.parametrize("name", GOLDENS)
def test_sounds_become_the_references_features_and_tokens(name: str) -> None:
    processing, table = processing_of(name)
    wanted = processing.token_ids["audio"]
    for about, clip in zip(GOLDENS[name].manifest["sounds"], GOLDENS[name].clips, strict=True):
        item = processing.audio(clip["raw"], processing.sample_rate, MediaOptions())
        (text,) = processing.expand([processing.placeholder("audio")], [item])
        assert table.tokenizer.encode(text, add_special_tokens=False).ids.count(wanted) == about["tokens"]
        features = next(key for key in FEATURES if key in about["arrays"])
        shape, stride = (about["arrays"][features][key] for key in ("shape", "stride"))
        ours = np.zeros(shape[1:], np.float32)
        ours[: len(item.arrays["frames"])] = item.arrays["frames"]
        assert np.abs(ours.reshape(-1)[::stride] - clip[features]).max() <= TOLERANCES.get(name, 1e-3)
        assert (clip[MASK].sum() if MASK in clip else shape[1]) == len(item.arrays["frames"])


@pytest.mark.parametrize("name", GOLDENS)
def test_sounds_too_long_or_of_another_rate_are_refused(name: str) -> None:
    processing, _ = processing_of(name)
    rate = processing.sample_rate
    if name not in ANY_LENGTH:
        with pytest.raises(ProcessingError, match="longer"):
            processing.audio(np.zeros(31 * rate, np.float32), rate, MediaOptions())
    with pytest.raises(ProcessingError, match="samples a second"):
        processing.audio(np.zeros(rate, np.float32), rate + 1, MediaOptions())
