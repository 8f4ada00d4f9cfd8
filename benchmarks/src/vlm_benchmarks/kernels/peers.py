"""The decoder beside llama.cpp, in turns, so that a busy machine disturbs both."""

from __future__ import annotations

import json
import subprocess
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

import vlm_kernels as kernels

from . import decoder, peer_llama

PROMPTS = (256, 1024)
_TOKENS = 24


def beside_llama(python: str, rounds: int = 2) -> list[dict[str, Any]]:
    """Prefill and decode at each prompt length: ours, theirs, and the ratios of the best.

    Args:
        python: an interpreter that has llama-cpp-python and gguf.
        rounds: turns of each.
    """
    geometry = decoder.Geometry()
    threads = kernels.backends().native.threads or 1
    ours: dict[int, list[decoder.Speed]] = {prompt: [] for prompt in PROMPTS}
    theirs: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        arguments = [folder, json.dumps(asdict(geometry)), str(threads), ",".join(map(str, PROMPTS)), str(_TOKENS)]
        for _ in range(rounds):
            for prompt in PROMPTS:
                ours[prompt].append(decoder.measure(prompt, _TOKENS, 2))
            command = [python, str(Path(peer_llama.__file__)), *arguments]
            run = subprocess.run(command, capture_output=True, text=True, check=True)
            theirs.append(json.loads(run.stdout.splitlines()[-1]))
    results = []
    for prompt in PROMPTS:
        peer = {kind: min(one[str(prompt)][kind] for one in theirs) for kind in ("prefill", "decode")}
        prefill, decode = (max(getattr(one, kind) for one in ours[prompt]) for kind in ("prefill", "decode"))
        results.append(
            {
                "prompt": prompt,
                "prefill": prefill,
                "decode": decode,
                "llama_prefill": prompt / peer["prefill"],
                "llama_decode": 1 / peer["decode"],
                "prefill_ratio": prefill * peer["prefill"] / prompt,
                "decode_ratio": decode * peer["decode"],
                "bits_per_weight": ours[prompt][0].bits_per_weight,
                "llama_bits_per_weight": 4.5,
            }
        )
    return results
