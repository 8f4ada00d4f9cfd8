"""Every word of every family's configuration means something: nonsense in its place is an error at load, never a default."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from vlm_models.errors import ConfigError
from vlm_models.registry import TABLE, resolve
from vlm_models.testing import golden

GOLDENS = {
    g.name: g
    for g in golden.find(Path(__file__).parent / "goldens")
    if g.config("hub").get("model_type") in TABLE or g.config("transformers").get("model_type") in TABLE
}
# who wrote the file, in which type, and words that the reference does not read either
IRRELEVANT = {"dtype", "torch_dtype", "transformers_version", "_name_or_path"}
IRRELEVANT |= {"vision_config.projector_hidden_act"}  # PaliGemma's projector is one matrix
# named for code that published checkpoints bring and nobody here runs
IRRELEVANT |= {"embd_layer.audio_embd_layer.embedding_cls", "embd_layer.image_embd_layer.embedding_cls"}
IRRELEVANT |= {"audio_processor.name", "speech_lora.layer", "vision_lora.layer"}
# parts whose class the family decides, whatever the part calls itself
OWN_PARTS = {"gemma3n", "gemma4_unified", "molmo2", "phi4_multimodal", "phi4mm"}


def words(value: Any, path: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    """Paths of all strings."""
    if isinstance(value, str):
        yield path
    elif isinstance(value, dict | list):
        for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
            if key not in ("id2label", "label2id", "label_names"):
                yield from words(inner, (*path, key))


def with_word(config: dict[str, Any], path: tuple[str | int, ...], word: str) -> dict[str, Any]:
    """A copy with another string at a path."""
    copy = json.loads(json.dumps(config))
    place = copy
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = word
    return copy


@pytest.mark.parametrize("layout", ["hub", "transformers"])
@pytest.mark.parametrize("name", GOLDENS)
def test_nonsense_in_a_configuration_is_an_error(name: str, layout: str) -> None:
    config = GOLDENS[name].config(layout)
    if config.get("model_type") not in TABLE:
        pytest.skip("this layout is another family's")
    resolve(config).config(config)
    accepted = []
    for path in words(config):
        dotted = ".".join(str(key) for key in path)
        if dotted in IRRELEVANT or path[-1] in IRRELEVANT or "architectures" in path:
            continue
        if len(path) > 1 and path[-1] == "model_type" and config["model_type"] in OWN_PARTS:
            continue
        changed = with_word(config, path, "nonsense")
        try:
            resolve(changed).config(changed)
        except ConfigError:
            continue
        accepted.append(dotted)
    assert not accepted


@pytest.mark.parametrize("name", GOLDENS)
def test_values_of_a_wrong_type_are_named_errors(name: str) -> None:
    config = GOLDENS[name].config("transformers")
    if config.get("model_type") not in TABLE:
        pytest.skip("this layout is another family's")
    for path in words(config):
        if len(path) > 1 and path[-1] == "hidden_act":
            changed: Any = with_word(config, path, "x")
            place = changed
            for key in path[:-1]:
                place = place[key]
            place["hidden_act"] = {"a": 1}
            with pytest.raises(ConfigError, match="hidden_act"):
                resolve(changed).config(changed)
