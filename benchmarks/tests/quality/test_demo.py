from __future__ import annotations

import pytest

from vlm_benchmarks.quality import demo, tables
from vlm_runtime import VisionFeatureCache, load


def test_pairs_count_what_was_lost_and_won():
    pairs = [(True, True)] * 90 + [(True, False)] * 6 + [(False, True)] * 2 + [(False, False)] * 2
    row = demo.paired(pairs)
    assert (row["asked"], row["lost"], row["won"]) == (100, 6, 2)
    assert row["right_percent"] == pytest.approx(92.0) and row["points"] == pytest.approx(-4.0)
    assert row["low"] < -4.0 < row["high"] < 2.5
    same = demo.paired([(True, True)] * 2000)
    assert same["points"] == 0 and 0 < same["high"] < 0.2


def test_ways_count_their_bits():
    by_name = {way.name: way for way in demo.WAYS}
    assert by_name["turboquant 3/4"].true_bits == 3.75 and by_name["uniform 4 g64"].true_bits == 4.5
    assert by_name["turboquant 4/3"].options["kv_key_bits"] == 4


def test_questions_are_the_same_each_time_and_recall_looks_back():
    _, processor = load("demo")
    first, second = (demo.questions_of(processor, ("color", demo.RECALL), 3) for _ in range(2))
    assert [(q.task, q.prompt, q.expected) for q in first] == [(q.task, q.prompt, q.expected) for q in second]
    recall = [q for q in first if q.task == demo.RECALL]
    turns = [q.prompt.count("<|im_start|>user") for q in recall]
    assert turns == [count + 2 for count in demo.FILLERS]
    assert all(q.images and q.prompt.index("<|vision_start|>") < len(q.prompt) // 2 for q in recall)


def test_a_quantized_cache_answers_as_16_bits_do_and_the_table_says_so():
    model, processor = load("demo")
    asked = demo.questions_of(processor, ("color", "shape"), 4)
    ways = (demo.PLAIN, demo.turboquant_way(4), demo.turboquant_way(1))
    cache = VisionFeatureCache()
    answers = {way.name: demo.right_answers(model, processor, asked, way, cache) for way in ways}
    assert sum(answers["16 bits"]) >= 7 and answers["turboquant 4/4"] == answers["16 bits"]
    rows = demo.demo_rows([q.task for q in asked], answers, ways)
    assert {row["questions"] for row in rows} == {"all tasks", "color", "shape"}
    attention = [{"keys": "random", "error": 0.1}]
    distortion = [
        {"method": "turboquant", "bits": 1, "true_bits": 1.1, "vectors": "random", "head_size": 128, "distortion": 0.3,
         "gaussian": 0.36}
    ]  # fmt: skip
    results = {"distortion": distortion, "inner products": attention, "attention": attention, "demo": rows}
    text = tables({**results, "weights": demo.digest("demo")})
    assert "| all tasks | turboquant 4/4 | 4.25 | 8 |" in text and "by task" in text
