"""The Python API as users call it, on a tiny checkpoint of a real family."""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import vlm_models
from vlm_runtime import (
    AsyncEngine,
    GrammarSpec,
    VisionFeatureCache,
    apply_chat_template,
    batch_generate,
    engine_of,
    generate,
    load,
    load_config,
    stream_generate,
)
from vlm_runtime.errors import (
    CheckpointError,
    ContextError,
    LoadError,
    MediaError,
    OptionError,
    PlaceholderError,
    PromptError,
)

Loaded = tuple[Any, Any]


def test_configuration_reads_both_ways(loaded: Loaded, checkpoint: Path) -> None:
    config = load_config(checkpoint)
    assert config["model_type"] == config.model_type == "qwen2_vl"
    assert type(loaded[0].config) is type(config) and loaded[0].config.model_type == "qwen2_vl"
    with pytest.raises(AttributeError):
        config.model_type = "other"


def test_a_result_prints_as_its_text_and_counts(loaded: Loaded) -> None:
    model, processor = loaded
    prompt = apply_chat_template(processor, model.config, "Say hello.")
    result = generate(model, processor, prompt, max_tokens=7, use_prefix_cache=False)
    assert str(result) == result.text
    assert result.generation_tokens == len(result.tokens) == 7 and result.finish_reason == "length"
    assert result.prompt_tokens == len(processor.tokenizer.encode(prompt))
    assert result.prompt_tps > 0 and result.generation_tps > 0 and result.peak_memory >= 0
    assert result.token == result.tokens[-1] and result.cached_tokens == 0


def test_n_tokens_give_n_results(loaded: Loaded, pictures: list[str]) -> None:
    model, processor = loaded
    results = list(stream_generate(model, processor, "Describe the image.", [pictures[0]], max_tokens=9))
    assert [r.generation_tokens for r in results] == list(range(1, 10))
    assert [r.finish_reason for r in results] == [None] * 8 + ["length"]
    whole = generate(model, processor, "Describe the image.", [pictures[0]], max_tokens=9)
    assert "".join(r.text for r in results) == whole.text and results[-1].tokens == whole.tokens


def test_the_ways_to_name_a_picture_are_one(loaded: Loaded, pictures: list[str]) -> None:
    model, processor = loaded
    path = pictures[1]
    array = np.asarray(Image.open(path))
    rendered = apply_chat_template(processor, model.config, "What is it?", num_images=1)
    part = {"type": "image", "image": path}
    message = [{"role": "user", "content": [part, {"type": "text", "text": "What is it?"}]}]
    in_message = apply_chat_template(processor, model.config, message, num_images=1)
    answers = [
        generate(model, processor, rendered, [path], max_tokens=8).tokens,
        generate(model, processor, "What is it?", path, max_tokens=8).tokens,
        generate(model, processor, rendered, image=array, max_tokens=8).tokens,
        generate(model, processor, rendered, image=Image.open(path), max_tokens=8).tokens,
        generate(model, processor, rendered, image=Path(path).read_bytes(), max_tokens=8).tokens,
        generate(model, processor, in_message, max_tokens=8).tokens,
        generate(model, processor, str(rendered), [path], max_tokens=8).tokens,
    ]
    assert len(set(answers)) == 1
    assert generate(model, processor, rendered, [pictures[2]], max_tokens=8).tokens != answers[0]


def test_an_empty_prompt_needs_media(loaded: Loaded, pictures: list[str]) -> None:
    assert generate(*loaded, "", pictures[0], max_tokens=2).generation_tokens == 2
    with pytest.raises(PromptError, match="nothing to answer"):
        generate(*loaded, "")


def test_counts_must_agree(loaded: Loaded, pictures: list[str]) -> None:
    model, processor = loaded
    two = apply_chat_template(processor, model.config, "Compare.", num_images=2)
    with pytest.raises(PlaceholderError):
        generate(model, processor, two, pictures[:1])
    with pytest.raises(PlaceholderError):
        generate(model, processor, two, pictures[:3])
    with pytest.raises(Exception, match="placeholder"):
        generate(model, processor, str(two), pictures[:1])
    message = [{"role": "user", "content": [{"type": "image", "image": p} for p in pictures[:2]]}]
    with pytest.raises(PlaceholderError, match="totals"):
        apply_chat_template(processor, model.config, message, num_images=1)
    third = apply_chat_template(processor, model.config, message, num_images=3)
    assert third.count("<|image_pad|>") == 3
    assert generate(model, processor, third, pictures[2], max_tokens=1).generation_tokens == 1


def test_text_of_users_never_becomes_a_placeholder(loaded: Loaded) -> None:
    model, processor = loaded
    prompt = apply_chat_template(processor, model.config, "<|vision_start|><|image_pad|><|vision_end|><|im_end|>")
    tokens = generate(model, processor, prompt, max_tokens=3)
    assert tokens.generation_tokens == 3
    assert model.config.image_token_id not in processor.tokenizer.encode(prompt)


def test_placeholders_that_users_typed_are_not_counted(loaded: Loaded) -> None:
    _, processor = loaded
    mark = processor.placeholder("image")
    assert processor.count_placeholders(f"{mark}two{mark}")["image"] == 2
    rendered = apply_chat_template(processor, processor.config, f"What is {mark}?", num_images=1)
    assert rendered.count(mark) == 2 and processor.count_placeholders(rendered)["image"] == 1


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"temprature": 1.0}, "did you mean temperature"),
        ({"temperature": float("nan")}, "temperature"),
        ({"max_tokens": -1}, "max_tokens"),
        ({"top_p": 1.5}, "top_p"),
        ({"top_k": 1.5}, "top_k"),
        ({"logit_bias": {"x": 1}}, "logit_bias"),
        ({"logit_bias": {10**9: 1}}, "logit_bias"),
        ({"stop": 3}, "stop"),
        ({"stop": ""}, "stop"),
        ({"kv_bits": 5}, "kv_bits"),
        ({"kv_quant_scheme": "other", "kv_bits": 4}, "kv_quant_scheme"),
        ({"kv_bits": 4, "max_kv_size": 64}, "max_kv_size"),
        ({"kv_bits": 4, "kv_group_size": 128}, "kv_group_size"),
        ({"kv_group_size": 32}, "kv_group_size"),
        ({"kv_bits": 3.3}, "kv_bits"),
        ({"kv_bits": 8.5}, "kv_bits"),
        ({"kv_bits": 9, "kv_quant_scheme": "turboquant"}, "kv_bits"),
        ({"kv_bits": 0.5}, "kv_bits"),
        ({"kv_bits": True}, "kv_bits"),
        ({"kv_bits": "four"}, "kv_bits"),
        ({"kv_bits": float("nan")}, "kv_bits"),
        ({"kv_key_bits": 3}, "kv_value_bits"),
        ({"kv_bits": 3.5, "kv_key_bits": 12}, "kv_bits"),
        ({"kv_bits": 3.5, "kv_quant_scheme": "uniform"}, "kv_bits"),
        ({"kv_bits": 3.5, "quantized_kv_start": -1}, "quantized_kv_start"),
        ({"kv_bits": 3.5, "kv_full_layers": 99}, "kv_full_layers"),
        ({"kv_full_layers": 1}, "kv_full_layers"),
        ({"quantized_kv_start": 100}, "quantized_kv_start"),
        ({"kv_quant_scheme": "turboquant"}, "kv_quant_scheme"),
        ({"system": "You are kind."}, "system"),
        ({"chat_template": "{{ messages }}"}, "chat_template"),
        ({"max_pixels": "big"}, "max_pixels"),
        ({"resize_shape": [1, 2, 3]}, "resize_shape"),
        ({"prefill_step_size": 0}, "prefill_step_size"),
        ({"eos_tokens": "no such token"}, "eos_tokens"),
        ({"thinking_budget": -1}, "thinking_budget"),
        ({"thinking_budget": 1, "thinking_token_budget": 2}, "thinking_budget"),
        ({"thinking_budget": 3, "thinking_start_token": "x", "thinking_end_token": "x"}, "thinking_end_token"),
        ({"n": 2}, "n:"),
    ],
)
def test_bad_options_are_named(loaded: Loaded, options: dict[str, Any], match: str) -> None:
    with pytest.raises(OptionError, match=match) as caught:
        generate(*loaded, "Say hello.", **options)
    assert "\n" not in str(caught.value)


def test_bad_media_are_named(loaded: Loaded, tmp_path: Path) -> None:
    with pytest.raises(MediaError):
        generate(*loaded, "What?", str(tmp_path / "absent.png"))
    (tmp_path / "text.png").write_text("not a picture")
    with pytest.raises(MediaError):
        generate(*loaded, "What?", str(tmp_path / "text.png"))


def test_a_prompt_longer_than_the_context_is_named(loaded: Loaded) -> None:
    with pytest.raises(ContextError, match="512"):
        generate(*loaded, "word " * 600)


def test_models_that_are_not_there_are_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no such folder"):
        load(tmp_path / "absent")
    with pytest.raises(CheckpointError, match=r"config\.json"):
        load(tmp_path)
    with pytest.raises(LoadError, match="offline"):
        load("nobody/nothing-here", offline=True)


def test_a_system_text_is_part_of_a_wrapped_turn(loaded: Loaded, pictures: list[str]) -> None:
    plain = generate(*loaded, "What is it?", pictures[0], max_tokens=1)
    asked = generate(*loaded, "What is it?", pictures[0], max_tokens=1, system="You are kind.")
    assert asked.prompt_tokens > plain.prompt_tokens
    defaults = {"kv_group_size": 64, "quantized_kv_start": 0, "kv_quant_scheme": "uniform"}
    assert generate(*loaded, "What is it?", pictures[0], max_tokens=1, **defaults).tokens == plain.tokens


def test_the_demo_model_goes_by_its_name(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert load_config("demo").model_type == "qwen2_vl"
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(LoadError, match="offline"):
        load_config("nobody/nothing-here")
    with pytest.raises(CheckpointError, match="a file"):
        load_config(__file__)


def test_stop_strings_end_the_text_before_them(loaded: Loaded) -> None:
    free = generate(*loaded, "Say hello.", max_tokens=40, temperature=1.5, seed=3)
    stop = free.text[len(free.text) // 2 :][:3]
    cut = generate(*loaded, "Say hello.", max_tokens=40, temperature=1.5, seed=3, stop=stop)
    assert cut.text == free.text[: free.text.index(stop)] and cut.finish_reason == "stop"
    assert cut.generation_tokens < 40


def test_end_tokens_end_an_answer_and_do_not_show(loaded: Loaded) -> None:
    model, processor = loaded
    free = generate(model, processor, "Say hello.", max_tokens=5)
    ended = generate(model, processor, "Say hello.", max_tokens=5, eos_tokens=[free.tokens[2]])
    index = free.tokens.index(free.tokens[2])
    assert ended.finish_reason == "stop" and ended.tokens == free.tokens[: index + 1]
    assert free.text.startswith(ended.text) and len(ended.text) < len(free.text)


def test_a_batch_gives_what_singles_give(loaded: Loaded, pictures: list[str]) -> None:
    prompts = ["What color is it?", "How many?", "Say hello.", "Compare them."]
    images: list[Any] = [pictures[0], [pictures[1]], None, pictures[2:4]]
    together = batch_generate(*loaded, prompts, images, max_tokens=10)
    for result, prompt, image in zip(together, prompts, images, strict=True):
        assert generate(*loaded, prompt, image, max_tokens=10).tokens == result.tokens
    drawn = batch_generate(*loaded, prompts[:2], n=3, temperature=1.5, seed=1, max_tokens=10)
    assert len(drawn) == 6 and len({r.tokens for r in drawn}) == 6
    with pytest.raises(OptionError, match="images"):
        batch_generate(*loaded, prompts, images[:2])


def test_prefixes_and_features_serve_the_next_turn(checkpoint: Path, pictures: list[str]) -> None:
    model, processor = load(checkpoint)
    cache = VisionFeatureCache()
    for turn, index in enumerate([0, 1, 0, 1]):
        result = generate(model, processor, "What is it?", pictures[index], max_tokens=6, vision_cache=cache)
        fresh = load(checkpoint)
        assert result.tokens == generate(*fresh, "What is it?", pictures[index], max_tokens=6).tokens
        assert (result.cached_tokens > 0.9 * result.prompt_tokens - 1) == (turn >= 2)
    assert cache.stats.entries == 2 and cache.stats.bytes > 0
    generate(model, processor, "What is it?", pictures[0], max_tokens=1, vision_cache=cache, use_prefix_cache=False)
    assert cache.stats.hits == 1
    assert engine_of(model, processor).stats.prefix.hits >= 2


@pytest.mark.parametrize(
    "options",
    [
        {"kv_bits": 8},
        {"kv_bits": 4, "quantized_kv_start": 16},
        {"kv_bits": 3.5, "kv_quant_scheme": "turboquant"},
        {"kv_bits": 3.5, "quantized_kv_start": 16},
        {"kv_key_bits": 6, "kv_value_bits": 4},
        {"max_kv_size": 64},
    ],
)
def test_cache_forms_answer(loaded: Loaded, pictures: list[str], options: dict[str, Any]) -> None:
    plain = generate(*loaded, "Describe it.", pictures[0], max_tokens=8)
    other = generate(*loaded, "Describe it.", pictures[0], max_tokens=8, **options)
    assert other.generation_tokens == 8 and other.prompt_tokens == plain.prompt_tokens
    if options == {"kv_bits": 8}:
        assert other.tokens[:2] == plain.tokens[:2]


def test_prefill_steps_do_not_change_the_answer(loaded: Loaded, pictures: list[str]) -> None:
    whole = generate(*loaded, "Describe it.", pictures[:2], max_tokens=8)
    for step in (1, 7, 64):
        steps = generate(*loaded, "Describe it.", pictures[:2], max_tokens=8, prefill_step_size=step)
        assert steps.tokens == whole.tokens


def test_thinking_budget(loaded: Loaded) -> None:
    model, processor = loaded
    prompt = apply_chat_template(processor, model.config, "2+2?", enable_thinking=True)
    end = processor.tokenizer.token_to_id("</think>")
    result = generate(
        model,
        processor,
        prompt,
        max_tokens=20,
        thinking_token_budget=4,
        temperature=1.0,
        seed=1,
        logit_bias={end: -1e9},
    )
    newline = processor.tokenizer.encode("\n", add_special_tokens=False)
    assert list(result.tokens[4 : 4 + len(newline) + 1]) == [*newline, end]
    assert "\n</think>" in result.text


def test_video_frames(loaded: Loaded, pictures: list[str], tmp_path: Path) -> None:
    frames = [Image.open(pictures[i]).resize((56, 56)) for i in range(4)]
    frames[0].save(tmp_path / "v.gif", save_all=True, append_images=frames[1:], duration=500)
    first = generate(*loaded, "What happens?", video=str(tmp_path / "v.gif"), max_tokens=4, fps=2.0)
    assert first.generation_tokens == 4
    array = np.stack([np.asarray(frame.convert("RGB")) for frame in frames])
    again = generate(*loaded, "What happens?", video=array, max_tokens=4)
    assert again.prompt_tokens == first.prompt_tokens


@pytest.mark.parametrize("given", [8, "4", "mxfp8", "nvfp4"])
def test_quantizing_while_loading(checkpoint: Path, pictures: list[str], given: int | str) -> None:
    model, processor = load(checkpoint, quantize=given)
    assert vlm_models.packed_layers(model) and "scales" not in model.visual.blocks[0].attn.qkv
    assert generate(model, processor, "What is it?", pictures[0], max_tokens=4).generation_tokens == 4
    if given in ("mxfp8", "nvfp4"):
        both, processor = load(checkpoint, quantize=given, quantize_activations=True)
        assert any(type(layer).__name__ == "QQLinear" for _, layer in both.named_modules())
        assert generate(both, processor, "What is it?", pictures[0], max_tokens=4).generation_tokens == 4


def test_quantizing_what_cannot_be_is_named(checkpoint: Path) -> None:
    with pytest.raises(OptionError, match="quantize"):
        load(checkpoint, quantize=7)
    with pytest.raises(OptionError, match="quantize_activations"):
        load(checkpoint, quantize_activations=True)


def test_logprobs(loaded: Loaded) -> None:
    result = generate(*loaded, "Say hello.", max_tokens=4, logprobs=True, top_logprobs=2)
    assert len(result.logprobs) == 4 and all(len(entry.top) == 2 for entry in result.logprobs)
    assert [entry.token for entry in result.logprobs] == list(result.tokens)
    assert generate(*loaded, "Say hello.", max_tokens=4).logprobs == ()


def test_speculation_changes_nothing(loaded: Loaded, checkpoint: Path, pictures: list[str]) -> None:
    plain = generate(*loaded, "Describe it.", pictures[0], max_tokens=20)
    draft, _ = load(checkpoint)
    for options in ({"prompt_lookup": 4}, {"draft_model": draft, "num_draft_tokens": 3}):
        assert generate(*loaded, "Describe it.", pictures[0], max_tokens=20, **options).tokens == plain.tokens
        assert engine_of(*loaded, **options).stats.drafted >= 0
    with pytest.raises(OptionError, match="draft_model"):
        generate(*loaded, "Describe it.", pictures[0], num_draft_tokens=3)


def test_structured_output(loaded: Loaded, pictures: list[str]) -> None:
    model, processor = loaded
    schema = {
        "type": "object",
        "properties": {"color": {"enum": ["red", "blue"]}, "count": {"type": "integer", "minimum": 0, "maximum": 99}},
        "required": ["color", "count"],
        "additionalProperties": False,
    }
    spec = GrammarSpec.json_schema(schema)
    free = generate(model, processor, "What is it?", pictures[0], max_tokens=60)
    prompts = ["What is it?"] * 3
    drawn = batch_generate(
        model, processor, prompts, [pictures[0]] * 3, grammar=spec, n=2, temperature=1.5, seed=3, max_tokens=120
    )
    for result in drawn:
        value = json.loads(result.text)
        assert value["color"] in ("red", "blue") and 0 <= value["count"] <= 99 and result.finish_reason == "stop"
    assert generate(model, processor, "What is it?", pictures[0], max_tokens=60).tokens == free.tokens
    assert generate(model, processor, "Say.", grammar=GrammarSpec.choice(["yes", "no"])).text in ("yes", "no")
    assert re.fullmatch("[a-c]{3,5}", generate(model, processor, "Say.", grammar=GrammarSpec.regex("[a-c]{3,5}")).text)
    with pytest.raises(OptionError):
        generate(model, processor, "Say.", grammar=GrammarSpec.json_schema("{nonsense"))


def test_structure_waits_for_the_end_of_thinking(loaded: Loaded) -> None:
    model, processor = loaded
    prompt = apply_chat_template(processor, model.config, "2+2?", enable_thinking=True)
    spec = GrammarSpec.choice(["four"])
    end = processor.tokenizer.token_to_id("</think>")
    options = {"grammar": spec, "max_tokens": 60, "logit_bias": {end: -1e9}, "temperature": 1.0, "seed": 2}
    result = generate(model, processor, prompt, thinking_budget=7, **options)
    thought, _, answer = result.text.partition("</think>")
    assert answer == "four" and thought.rstrip() and thought.strip() != "four"


def test_leaving_a_stream_cancels_it(loaded: Loaded) -> None:
    stream = stream_generate(*loaded, "Say hello.", max_tokens=400)
    next(stream)
    stream.close()  # type: ignore[attr-defined]
    engine = engine_of(*loaded)
    for _ in range(1000):
        if engine.num_open == 0:
            break
        threading.Event().wait(0.01)
    assert engine.num_open == 0


def test_threads_and_coroutines_share_one_model(loaded: Loaded, pictures: list[str]) -> None:
    expected = {i: generate(*loaded, "What is it?", pictures[i], max_tokens=12).tokens for i in range(4)}
    got: dict[int, Any] = {}
    threads = [
        threading.Thread(
            target=lambda i=i: got.setdefault(i, generate(*loaded, "What is it?", pictures[i], max_tokens=12).tokens)
        )
        for i in range(4)
    ]
    for thread in threads:
        thread.start()
    engine = AsyncEngine(*loaded, max_tokens=12)

    async def ask() -> list[Any]:
        return await asyncio.gather(*(engine.generate("What is it?", pictures[i], n=2) for i in range(4)))

    answers = asyncio.run(ask())
    for thread in threads:
        thread.join()
    assert got == expected
    assert [[r.tokens for r in pair] for pair in answers] == [[expected[i]] * 2 for i in range(4)]


def test_verbose_shows_text_then_counts(loaded: Loaded, capsys: pytest.CaptureFixture[str]) -> None:
    result = generate(*loaded, "Say hello.", max_tokens=4, verbose=True)
    shown = capsys.readouterr().out
    assert shown.startswith(result.text) and "Prompt:" in shown and "Peak memory:" in shown


def test_import_is_light() -> None:
    heavy = "{'mlx', 'numpy', 'PIL', 'transformers', 'tokenizers'}"
    code = f"import sys, vlm_runtime; bad = {heavy} & set(sys.modules); assert not bad, bad"
    subprocess.run([sys.executable, "-c", code], check=True)
