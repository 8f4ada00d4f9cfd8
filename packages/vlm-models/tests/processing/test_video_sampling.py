"""Frames chosen of a video against those the reference chooses (made by tests/oracle/sampling.py)."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from vlm_models import MediaOptions, ProcessingError, ProcessorFiles
from vlm_models.processing.video.sampling import TickSampling, VideoSampling
from vlm_models.registry import resolve
from vlm_models.testing import golden

DATA = json.loads((Path(__file__).parent / "video_sampling.json").read_text())
GOLDENS = Path(__file__).parents[1] / "goldens"
# the reference's last index lies behind the last frame
WRONG_THERE = {("qwen2_vl", "own", 1336, 24)}


@pytest.mark.parametrize("asked", ["own", "1.0", "4.0"])
@pytest.mark.parametrize("family", DATA["found"])
def test_frames_are_those_of_the_reference(family: str, asked: str) -> None:
    hf = next(golden.find(GOLDENS, family)).config("hub")
    chosen = resolve(hf)
    processing = chosen.processing(chosen.config(hf), ProcessorFiles(), None)
    options = MediaOptions(fps=None if asked == "own" else float(asked))
    compared = 0
    for (frames, rate), wanted in zip(DATA["clips"], DATA["found"][family][asked], strict=True):
        found = processing.sample(frames, rate, options).tolist()
        assert found and min(found) >= 0 and max(found) < frames
        if wanted is not None and (family, asked, frames, rate) not in WRONG_THERE:
            assert [len(found), *found[:3], *found[-3:], sum(found)] == wanted, (frames, rate)
            compared += 1
    assert compared >= 30


@pytest.mark.parametrize("sampling", [VideoSampling(), VideoSampling(spread="starts"), TickSampling()])
def test_max_frames_is_kept(sampling: VideoSampling | TickSampling) -> None:
    found = sampling(900, 30.0, MediaOptions(max_frames=10)).tolist()
    assert len(found) == 10 and found == sorted(found) and found[0] == 0


@pytest.mark.parametrize("sampling", [VideoSampling(), TickSampling()])
@pytest.mark.parametrize(
    ("frames", "rate", "options"),
    [(0, 25.0, {}), (10, 0.0, {}), (10, 25.0, {"fps": 0.0}), (10, 25.0, {"fps": -1.0}), (10, 25.0, {"max_frames": 0})],
)
def test_impossible_videos_are_refused(
    sampling: VideoSampling | TickSampling, frames: int, rate: float, options: dict[str, float]
) -> None:
    with pytest.raises(ProcessingError):
        sampling(frames, rate, MediaOptions(**options))
