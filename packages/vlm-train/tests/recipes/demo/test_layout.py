from __future__ import annotations

import json
import random

import jinja2
import pytest
from tokenizers import Tokenizer

from vlm_train.recipes.demo import encoding, layout, lines, questions, receipts, vocabulary
from vlm_train.recipes.demo.lines import Limits


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.from_str(layout.files()["tokenizer.json"])


@pytest.mark.parametrize(
    "text",
    [
        "What color is the star?",
        "Hello 42, it's $3.50!",
        "Straße, 漢字 and 🙂\r\n\tend ",
        '{"items": [{"name": "Tea", "price": 3.50}], "total": 3.50}',
        "",
    ],
)
def test_text_survives_the_tokenizer(tokenizer: Tokenizer, text: str) -> None:
    ids = tokenizer.encode(text, add_special_tokens=False).ids
    assert tokenizer.decode(ids, skip_special_tokens=False) == text
    assert all(index < vocabulary.VOCABULARY_SIZE for index in ids)


def test_words_of_questions_are_single_tokens(tokenizer: Tokenizer) -> None:
    assert tokenizer.encode("What color is the star?").tokens == ["What", "Ġcolor", "Ġis", "Ġthe", "Ġstar", "?"]


def test_the_vocabulary_opens_with_the_bytes() -> None:
    assert encoding.spelled_ids("Aé") == tuple("Aé".encode())
    assert encoding.tokenizer().decode(list(encoding.spelled_ids("Aé 漢"))) == "Aé 漢"


def test_receipts_spell_their_goods() -> None:
    known = set(vocabulary.tokens())
    assert not [name for name in receipts.GOODS if name in known or name.upper() in known]


def test_special_tokens_have_the_ids_of_the_config(tokenizer: Tokenizer) -> None:
    config = layout.config()
    assert tokenizer.token_to_id("<|image_pad|>") == config["image_token_id"]
    assert tokenizer.token_to_id("<|im_end|>") == config["eos_token_id"]
    assert tokenizer.token_to_id("<|vision_start|>") == config["vision_start_token_id"]


def render(messages: list[dict], **variables: object) -> str:
    environment = jinja2.Environment()
    return environment.from_string(layout.CHAT_TEMPLATE).render(messages=messages, **variables)


def test_the_template_places_images_where_they_stand() -> None:
    content = [{"type": "image"}, {"type": "text", "text": "What changed?"}, {"type": "image"}]
    assert render([{"role": "user", "content": content}], add_generation_prompt=True) == (
        "<|im_start|>user\n<|vision_start|><|image_pad|><|vision_end|>What changed?"
        "<|vision_start|><|image_pad|><|vision_end|><|im_end|>\n<|im_start|>assistant\n"
    )


def test_the_template_opens_a_thought_only_when_asked() -> None:
    turn = [{"role": "user", "content": "2+2"}]
    assert render(turn, add_generation_prompt=True, enable_thinking=True).endswith("assistant\n<think>\n")
    assert "<think>" not in render(turn, add_generation_prompt=True, enable_thinking=False)


def test_the_template_drops_earlier_thoughts() -> None:
    turns = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "<think>\n1: red\n</think>\n\n3"}]
    assert render(turns) == "<|im_start|>user\nq<|im_end|>\n<|im_start|>assistant\n3<|im_end|>\n"


@pytest.mark.parametrize("thinking", [False, True])
def test_training_prompts_are_what_the_template_gives(tokenizer: Tokenizer, thinking: bool) -> None:
    from vlm_train.recipes.demo.samples import Sample

    rng = random.Random(1)
    page = lines.compose(Limits(), (encoding_face(),), rng)
    exchanges = (questions.about_text(page.text, rng), questions.about_nothing(rng, "thanks"))
    sample = Sample((page,), (page.draw(),), exchanges, thinking)
    encoded = encoding.encode(sample, rng)
    messages = [
        {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": exchanges[0].question}]},
        {"role": "assistant", "content": exchanges[0].answer},
        {"role": "user", "content": exchanges[1].question},
    ]
    text = render(messages, add_generation_prompt=True, enable_thinking=thinking)
    rows, columns = encoded.grids[0]
    text = text.replace("<|image_pad|>", "<|image_pad|>" * (rows * columns // 4))
    prompt = tokenizer.encode(text, add_special_tokens=False).ids
    assert tokenizer.decode(encoding.prompt_ids(sample, encoded.grids, 1), skip_special_tokens=False) == text
    assert tokenizer.decode(prompt, skip_special_tokens=False) == text


def encoding_face() -> str:
    from vlm_train.recipes.demo import fonts

    return fonts.PILLOW


def test_files_are_json() -> None:
    for name, text in layout.files().items():
        if name.endswith(".json"):
            assert isinstance(json.loads(text), dict)
