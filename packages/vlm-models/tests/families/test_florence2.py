"""Florence-2 beside the goldens: the original repository's layout, tasks, answers with places."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from vlm_models import MediaItem, PlaceholderError, ProcessingError, WeightError
from vlm_models.loading import load
from vlm_models.processing.florence import FlorencePictures, sentence
from vlm_models.processing.image.fixed import FixedStrategy
from vlm_models.testing import golden
from vlm_models.testing.logits import compute

ROOT = Path(__file__).parents[1] / "goldens"
(GOLDEN,) = golden.find(ROOT, "florence2")
READING = {"ocr": {"AREA_THRESHOLD": 0.01}, "phrase_grounding": {"banned_grounding_tokens": ["it", "them"]}}


def places(*bins: int) -> str:
    return "".join(f"<loc_{value}>" for value in bins)


CAR, FIRST, WALL = (52, 332, 932, 774), (1, 2, 3, 4), (0, 0, 998, 998)
CAR_BOX, FIRST_BOX = [33, 145, 597, 338], [0, 1, 2, 1]
# what the reference's post-processor makes of these answers for a picture of 641 x 437
ANSWERS = [
    ("<CAPTION>", "</s><s>A green car.</s>", "A green car."),
    (
        "<OD>",
        f"<s>car{places(*CAR)}door{places(*FIRST, 10, 20, 999, 999)}café{places(5, 6, 7, 8, 9)}</s>",
        {
            "bboxes": [CAR_BOX, FIRST_BOX, [6, 8, 640, 436], [3, 2, 4, 3]],
            "labels": ["car", "door", "door", "caf"],
        },
    ),
    ("<REGION_PROPOSAL>", places(*CAR, *FIRST), {"bboxes": [CAR_BOX, FIRST_BOX], "labels": ["", ""]}),
    (
        "<CAPTION_TO_PHRASE_GROUNDING>",
        f"A green car{places(*CAR)}it{places(1, 1, 5, 5)}a wall{places(*WALL, 3, 3, 4, 4)}",
        {
            "bboxes": [CAR_BOX, [0, 0, 640, 436], [2, 1, 2, 1]],
            "labels": ["A green car", "a wall", "a wall"],
        },
    ),
    (
        "<OCR_WITH_REGION>",
        f"HELLO{places(10, 10, 500, 10, 500, 300, 10, 300)}tiny{places(1, 1, 2, 1, 2, 2, 1, 2)}",
        {"quad_boxes": [[6, 4, 320, 4, 320, 131, 6, 131]], "labels": ["HELLO"]},
    ),
    (
        "<REGION_TO_SEGMENTATION>",
        f"{places(10, 10, 500, 10)}<sep>{places(500, 300, 10, 300, 7)}",
        {"polygons": [[[6, 4, 320, 4], [320, 131, 6, 131]]], "labels": [""]},
    ),
    (
        "<OPEN_VOCABULARY_DETECTION>",
        f"a car{places(*CAR)}",
        {"bboxes": [CAR_BOX], "bboxes_labels": ["a car"], "polygons": [], "polygons_labels": []},
    ),
    (
        "<OPEN_VOCABULARY_DETECTION>",
        f"a car<poly>{places(10, 10, 500, 10)}<sep>{places(1, 2, 3, 4, 5, 6)}</poly><poly>{places(9, 8, 7, 6)}</poly>",
        {
            "bboxes": [],
            "bboxes_labels": [],
            "polygons": [[[6, 4, 320, 4], [0, 1, 2, 1, 3, 2]], [[6, 3, 4, 2]]],
            "polygons_labels": ["a car", "a car"],
        },
    ),
]


def processing() -> FlorencePictures:
    return FlorencePictures(111, FixedStrategy(size=(64, 64)), lambda h, w: 5, 98, {"post_processor_config": READING})


@pytest.mark.parametrize(("task", "answer", "expected"), ANSWERS, ids=[f"{i}{a[0]}" for i, a in enumerate(ANSWERS)])
def test_answers_are_parsed_as_the_reference_does(task: str, answer: str, expected: object) -> None:
    assert processing().parse(answer, task, 641, 437) == expected


def test_tasks_become_sentences() -> None:
    assert sentence("<OD>") == "Locate the objects with category name in the image."
    assert sentence("<REGION_TO_OCR><loc_1><loc_2><loc_3><loc_4>") == (
        "What text is in the region <loc_1><loc_2><loc_3><loc_4>?"
    )
    assert sentence("What is it?") == "What is it?"
    with pytest.raises(ProcessingError, match="takes no words"):
        sentence("<OD> cars")


def test_places_a_user_typed_stay_tokens_and_other_borders_stay() -> None:
    pieces = ["<image><REGION_TO_CATEGORY><", "loc_1><l", "oc_23> of <", "/od>"]
    expanded = processing().expand(pieces, [MediaItem("image", {}, 5)])
    assert expanded == ["<s>What is the region <loc_1><loc_23> of <", "/od>?</s>"]


def test_more_than_one_picture_is_refused() -> None:
    item = MediaItem("image", {}, 5)
    with pytest.raises(PlaceholderError, match="takes one image"):
        processing().expand(["<CAPTION>"], [item, item])
    with pytest.raises(PlaceholderError, match="takes one image"):
        processing().expand(["<image><CAPTION>"], [])


def test_features_stand_in_front_where_the_tokenizer_has_no_token_for_them() -> None:
    prompt = processing().prompt([96, 5, 98], [MediaItem("image", {}, 5)])
    assert prompt.tokens.tolist() == [98] and prompt.context is not None
    assert prompt.context.tokens.tolist() == [111] * 5 + [96, 5, 98]


def test_the_original_layout_gives_the_same_logits(tmp_path: Path) -> None:
    """Its vocabulary has no token for features, so one column less."""
    loaded = load(golden.materialise(GOLDEN, tmp_path, "microsoft"))
    for name, case in GOLDEN.cases.items():
        ours = compute(loaded, case.inputs)["logits"]
        reference = case.outputs["logits"][..., : ours.shape[-1]]
        errors = golden.logit_errors(ours, reference)
        assert ours.shape[-1] == case.outputs["logits"].shape[-1] - 1
        assert errors.overall <= 1e-4 and errors.worst <= 1e-3, f"{name}: {errors}"


def test_a_bias_on_the_logits_is_refused(tmp_path: Path) -> None:
    from safetensors.numpy import load_file, save_file

    folder = golden.materialise(GOLDEN, tmp_path, "microsoft")
    tensors = load_file(folder / "model.safetensors")
    zero = np.zeros((1, 111), np.float32)
    save_file(tensors | {"language_model.final_logits_bias": zero}, folder / "model.safetensors", {"format": "pt"})
    load(folder)
    save_file(tensors | {"language_model.final_logits_bias": zero + 1}, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(WeightError, match="final_logits_bias"):
        load(folder)
