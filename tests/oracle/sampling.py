"""Record which frames the reference's video processors choose: `python tests/oracle/sampling.py` in the oracle's environment.

Writes packages/vlm-models/tests/processing/video_sampling.json: clips [frames, rate], and per family and rate asked for (or
"own", the processor's) the count, the first and the last three indices and the sum of all; null where the reference raises.
"""

from __future__ import annotations

import json
import random
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
import environment

environment.prepare()

from shared import GOLDENS  # noqa: E402  (environment comes first)
from transformers.models.glm4v import Glm4vVideoProcessor  # noqa: E402
from transformers.models.internvl import InternVLVideoProcessor  # noqa: E402
from transformers.models.qwen2_vl import Qwen2VLVideoProcessor  # noqa: E402
from transformers.models.qwen3_vl import Qwen3VLVideoProcessor  # noqa: E402
from transformers.video_utils import VideoMetadata  # noqa: E402


def sampled(processor: Any, frames: int, rate: float, asked: dict[str, Any]) -> list[int] | None:
    """[count, first three, last three, sum] of the indices."""
    about = VideoMetadata(total_num_frames=frames, fps=rate, duration=frames / rate)
    try:
        found = [int(index) for index in processor.sample_frames(about, **asked)]
    except ValueError:
        return None
    return [len(found), *found[:3], *found[-3:], sum(found)]


def main() -> None:
    rng = random.Random(0)
    clips = [(rng.randint(1, 3000), rng.choice([1, 5, 12.5, 23.976, 24, 25, 29.97, 30, 60])) for _ in range(40)]
    # the first alone lacks a rate of its own
    processors = {
        "qwen2_vl": (Qwen2VLVideoProcessor(), {"fps": 2.0}),
        "qwen3_vl": (Qwen3VLVideoProcessor(), {}),
        "glm4v": (Glm4vVideoProcessor(), {}),
        "internvl": (InternVLVideoProcessor(), {"num_frames": 8}),
    }
    found = {
        family: {
            str(rate): [sampled(processor, *clip, own if rate == "own" else {"fps": rate}) for clip in clips]
            for rate in ("own", 1.0, 4.0)
        }
        for family, (processor, own) in processors.items()
    }
    path = GOLDENS.parent / "processing" / "video_sampling.json"
    path.write_text(json.dumps({"clips": clips, "found": found}) + "\n")


if __name__ == "__main__":
    main()
