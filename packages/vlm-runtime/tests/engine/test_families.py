"""Every family's goldens through the engine: all rows of all cases in one batch give the reference's greedy tokens."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest

import vlm_runtime
from vlm_models import TABLE, end_tokens, load
from vlm_models.testing import conformance, golden, logits
from vlm_runtime.engine.core import EngineCore
from vlm_runtime.engine.settings import EngineOptions
from vlm_runtime.engine.speculation import PromptLookup
from vlm_runtime.errors import ContextError, OptionError
from vlm_runtime.request import Request, SamplingParams
from vlm_runtime.scheduler import Limits

ROOT = Path(__file__).parents[3] / "vlm-models" / "tests" / "goldens"
GOLDENS = {g.name: g for g in golden.find(ROOT) if g.config("hub").get("model_type") in TABLE}


def digest(item) -> str:
    """Content key of an item, so that prefixes and features are shared as in earnest."""
    parts = [f"{name}{array.shape}{array.tobytes().hex()}" for name, array in sorted(item.arrays.items())]
    return hashlib.sha256(
        "".join([item.kind, repr(item.grid), repr(sorted(item.facts.items())), *parts]).encode()
    ).hexdigest()


def rows(loaded, given: golden.Golden):
    """Each row's prompt with the reference's tokens and margins."""
    for case in given.cases.values():
        if case.outputs.get("tokens") is None:
            continue
        for index, (_, prompt) in enumerate(logits.prompts_of(loaded.processing(), case.inputs)):
            named = prompt.with_digests(tuple(digest(item) for item in prompt.items))
            yield f"{case.name}[{index}]", named, case.outputs["tokens"][index], case.outputs["margins"][index]


def compare(name: str, loaded, given: golden.Golden, options: EngineOptions) -> int:
    core = EngineCore(loaded.model, options)
    wanted = list(rows(loaded, given))
    banned = dict.fromkeys(end_tokens(loaded.hf), float("-inf"))
    for index, (_, prompt, tokens, _) in enumerate(wanted):
        core.add(index, Request(prompt, SamplingParams(max_tokens=len(tokens), logit_bias=banned)))
    got = defaultdict(list)
    while core.has_work:
        for event in core.step():
            assert event.error is None, (name, wanted[event.request_id][0], event.error)
            got[event.request_id].append(event.token)
    for index, (row, _, tokens, margins) in enumerate(wanted):
        wrong, _ = golden.disagreements(np.array(got[index]), tokens, margins)
        assert not wrong, f"{name} {row}: token {wrong} differs: {got[index]} for {tokens.tolist()}"
    return len(wanted)


@pytest.mark.parametrize("name", GOLDENS)
def test_a_batch_of_all_rows_gives_the_references_tokens(name: str) -> None:
    given = GOLDENS[name]
    with conformance.checkpoint(given, "hub") as folder:
        loaded = load(folder)
        assert compare(name, loaded, given, EngineOptions(Limits(chunk_tokens=16, step_tokens=32, max_running=6))) > 0
        try:
            compare(name, loaded, given, EngineOptions(drafter=lambda: PromptLookup(3, shortest=1)))
        except OptionError as error:
            assert "speculation" in str(error)


@pytest.mark.parametrize("name", GOLDENS)
def test_pictures_and_text_go_all_the_way(name: str) -> None:
    given = GOLDENS[name]
    picture = np.random.default_rng(0).integers(0, 255, (64, 80, 3), dtype=np.uint8)
    with conformance.checkpoint(given, "hub") as folder:
        model, processor = vlm_runtime.load(folder)
        try:
            for media in ({"image": picture}, {"audio": (np.zeros(8000, np.float32), 16000)}, {}):
                # some checkpoints of a family lack a tower that others have
                if not media or next(iter(media)) in processor.processing.kinds:
                    answer(model, processor, media)
        finally:
            vlm_runtime.unload(processor)


def answer(model, processor, media) -> None:
    try:
        result = vlm_runtime.generate(model, processor, "Describe this.", max_tokens=2, eos_tokens=[], **media)
    except ContextError:
        return  # the tiny configuration holds less than one picture
    assert 1 <= result.generation_tokens <= 2 and result.prompt_tokens > 2
    again = vlm_runtime.generate(model, processor, "Describe this.", max_tokens=2, **media)
    assert again.tokens == result.tokens
