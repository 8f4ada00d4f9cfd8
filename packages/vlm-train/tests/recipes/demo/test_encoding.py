from __future__ import annotations

import random

import numpy as np
import pytest
from PIL import Image

from vlm_models.processing.image.dynamic import PatchStrategy, fit_area
from vlm_train.recipes.demo import encoding, evaluation, layout, packing, preprocessing, questions, samples, workers
from vlm_train.recipes.demo.encoding import IMAGE_ID, TURN_END_ID
from vlm_train.recipes.demo.packing import Capacity

SMALL = Capacity(patches=4096, tokens=2048, images=64, sequences=96, targets=512)


def test_sizes_are_those_of_the_product() -> None:
    rng = random.Random(1)
    for _ in range(500):
        height, width = rng.randint(20, 1500), rng.randint(20, 1500)
        expected = fit_area(height, width, 28, layout.MIN_PIXELS, layout.MAX_PIXELS)
        assert preprocessing.resized(height, width) == expected


def test_patches_are_those_of_the_product() -> None:
    rng = np.random.default_rng(2)
    image = Image.fromarray(rng.integers(0, 255, (150, 120, 3), dtype=np.uint8))
    flat = preprocessing.patches(preprocessing.resize(image)).astype(np.float32) / 255
    area = layout.PATCH_SIZE**2
    flat = (flat - np.repeat(np.float32(layout.IMAGE_MEAN), area)) / np.repeat(np.float32(layout.IMAGE_STD), area)
    ours = np.repeat(flat.reshape(len(flat), 3, 1, area), 2, axis=2).reshape(len(flat), -1)
    strategy = PatchStrategy.from_files(layout.preprocessor_config(), PatchStrategy(14, 2, 2))
    theirs, grid = strategy(np.asarray(image)[None], *preprocessing.resized(image.height, image.width))
    assert grid == (1, 10, 8)
    np.testing.assert_allclose(ours, theirs, atol=0.03)


def test_only_answers_are_weighted(faces: tuple[str, ...]) -> None:
    rng = random.Random(3)
    for task in ("count", "read", "more", "sum", "follow-up"):
        sample = evaluation.draw(task, faces, rng)
        item = encoding.encode(sample, rng)
        asked = item.tokens[item.weights > 0]
        expected: list[int] = []
        for exchange in sample.exchanges:
            expected += [*encoding.answer_ids(exchange), TURN_END_ID]
        assert asked.tolist() == expected
        assert (item.tokens == IMAGE_ID).sum() == sum(len(p) // 4 for p in item.patches)


def test_a_bare_question_has_no_template(faces: tuple[str, ...]) -> None:
    rng = random.Random(7)
    sample = evaluation.draw("bare", faces, rng)
    item = encoding.encode(sample, rng)
    assert not sample.exchanges[0].question[-1].isdigit()
    text = encoding.tokenizer().decode(item.tokens.tolist(), skip_special_tokens=False)
    assert text == f"{sample.exchanges[0].question}{sample.exchanges[0].answer}<|im_end|>"


def test_pictures_come_with_their_turn(faces: tuple[str, ...]) -> None:
    rng = random.Random(8)
    while (sample := samples.draw(0.5, faces, rng)).media_turn == 0:
        pass
    item = encoding.encode(sample, rng)
    turns = np.flatnonzero(item.tokens == encoding.text_ids("<|im_start|>")[0])
    first_image = np.flatnonzero(item.tokens == IMAGE_ID)[0]
    first_answer = np.flatnonzero(item.weights)[0]
    assert len(turns) >= 4 and first_answer < first_image


def test_names_on_a_receipt_are_spelled() -> None:
    answer = '{"items": [{"name": "Red Table", "price": 1.50}], "total": 1.50}'
    ids = encoding.answer_ids(questions.Exchange("receipt", "Receipt as JSON.", "", answer))
    assert encoding.tokenizer().decode(list(ids)) == answer
    start = ids.index(ord("R"))
    assert list(ids[start : start + 9]) == list(b"Red Table")


def test_a_cut_thought_ends_without_being_asked_for(faces: tuple[str, ...]) -> None:
    close = encoding.text_ids("</think>")[0]
    asked = []
    for seed in range(60):
        rng = random.Random(seed)
        item = encoding.encode(evaluation.draw("count, thinking", faces, rng), rng)
        (place,) = np.flatnonzero(item.tokens == close)
        asked.append(item.weights[place] > 0)
    assert 0 < asked.count(False) < 20


def test_positions_of_an_image_span_rows_and_columns() -> None:
    tokens = np.array([1, IMAGE_ID, IMAGE_ID, IMAGE_ID, IMAGE_ID, IMAGE_ID, IMAGE_ID, 2, 3], np.int32)
    positions = encoding.mrope_positions(tokens, ((4, 6),))
    assert positions.tolist() == [
        [0, 1, 1, 1, 1, 1, 1, 4, 5],
        [0, 1, 1, 1, 2, 2, 2, 4, 5],
        [0, 1, 2, 3, 1, 2, 3, 4, 5],
    ]


def test_patch_labels_name_what_is_drawn(faces: tuple[str, ...]) -> None:
    rng = random.Random(4)
    sample = evaluation.draw("read", faces, rng)
    labels = encoding.encode(sample, rng).patch_classes[0]
    text = sample.exchanges[0].answer
    centres = [encoding._CHARACTER_CLASS[c] for c in text if c != " "]
    assert set(labels[:, 2:].ravel()) - {0} == set(centres)
    scene = evaluation.draw("count", faces, random.Random(9))
    things = scene.pictures[0].things
    labels = encoding.encode(scene, rng).patch_classes[0]
    assert np.count_nonzero(labels[:, 2:]) == len(things)


def test_a_packed_batch_holds_every_sample_whole(faces: tuple[str, ...]) -> None:
    rng = random.Random(5)
    drawn: list[encoding.Encoded] = []

    def draw(rng: random.Random) -> encoding.Encoded:
        drawn.append(encoding.encode(samples.draw(0.3, faces, rng), rng))
        return drawn[-1]

    arrays = workers.allocate(SMALL)
    packing.pack(draw, SMALL, rng, arrays)
    kept = drawn[: int(arrays["num_samples"][0])]
    assert 0 < len(kept) == len(drawn) - 1
    start = first_patch = first_target = 0
    for item in kept:
        end = start + len(item.tokens)
        assert arrays["tokens"][start:end].tolist() == item.tokens.tolist()
        assert end in arrays["sequence_ends"]
        for patches in item.patches:
            assert (arrays["pixels"][first_patch : first_patch + len(patches)] == patches).all()
            first_patch += len(patches)
            assert first_patch in arrays["image_ends"]
        count = int((item.weights > 0).sum())
        index = arrays["target_index"][first_target : first_target + count]
        assert (arrays["tokens"][index + 1] == arrays["target"][first_target : first_target + count]).all()
        first_target, start = first_target + count, end
    assert (arrays["tokens"][arrays["image_index"]] == IMAGE_ID).all()
    assert len(set(arrays["image_index"].tolist())) == SMALL.patches // 4
    assert arrays["image_ends"][-1] == SMALL.patches and arrays["sequence_ends"][-1] == SMALL.tokens
    assert not arrays["weight"][first_target:].any()


def test_samples_that_do_not_fit_are_refused(faces: tuple[str, ...]) -> None:
    rng = random.Random(6)
    items = [encoding.encode(samples.draw(0.5, faces, rng), rng) for _ in range(3)]
    arrays = workers.allocate(SMALL)
    packing.pack_all(items, SMALL, arrays)
    assert int(arrays["num_samples"][0]) == 3
    with pytest.raises(ValueError, match="raise the capacity"):
        packing.pack_all(items * 40, SMALL, arrays)


def test_forked_workers_give_the_batches_of_one_process(faces: tuple[str, ...]) -> None:
    alone = workers.allocate(SMALL)
    with workers.Workers(range(4), 10, SMALL, faces, seed=3, num_processes=2) as ring:
        for step, arrays in enumerate(ring):
            workers.fill(alone, SMALL, step, step / 10, 3, faces)
            assert all((arrays[name] == alone[name]).all() for name in alone)
