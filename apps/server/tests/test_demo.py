"""The embedded model behind the official clients: answers have a meaning here, so that mix-ups show."""

from __future__ import annotations

import base64
import io
import json
import threading
from collections.abc import Iterator

import anthropic
import httpx
import openai
import pytest
from PIL import Image, ImageDraw

from vlm_server import Settings
from vlm_server.testing import running

QUESTION = "What color is the shape?"


def shape(color: str, *, is_round: bool = True) -> str:
    image = Image.new("RGB", (112, 112), "white")
    draw = ImageDraw.Draw(image)
    (draw.ellipse if is_round else draw.rectangle)((25, 25, 85, 85), fill=color)
    content = io.BytesIO()
    image.save(content, "PNG")
    return base64.b64encode(content.getvalue()).decode()


def part(color: str, **detail: str) -> dict:
    return {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{shape(color)}", **detail}}


@pytest.fixture(scope="module")
def demo() -> Iterator[str]:
    with running(Settings(model="demo")) as url:
        yield url


@pytest.fixture(scope="module")
def client(demo: str) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{demo}/v1", api_key="none", max_retries=0) as opened:
        yield opened


def say(client: openai.OpenAI, messages: list, **options: object):
    return client.chat.completions.create(
        model="demo", messages=messages, temperature=0, **{"max_tokens": 40, **options}
    )


def user(*content: object) -> dict:
    parts = [{"type": "text", "text": item} if isinstance(item, str) else item for item in content]
    return {"role": "user", "content": parts}


def test_the_same_question_about_a_b_a_b(client: openai.OpenAI) -> None:
    cached = []
    for color in ("red", "blue", "red", "blue"):
        done = say(client, [user(part(color), QUESTION)])
        assert done.choices[0].message.content == color
        cached.append(done.usage.prompt_tokens_details.cached_tokens)
    assert min(cached[2:]) > done.usage.prompt_tokens // 2 > max(cached[:2])


def test_three_turns_about_one_picture(client: openai.OpenAI) -> None:
    messages = [user(part("green"), QUESTION)]
    for question, expected in ((None, "green"), ("What shape is green?", "circle"), (QUESTION, "green")):
        if question is not None:
            messages.append({"role": "user", "content": question})
        done = say(client, messages)
        assert done.choices[0].message.content == expected
        messages.append({"role": "assistant", "content": expected})
    assert done.usage.prompt_tokens_details.cached_tokens > done.usage.prompt_tokens // 2


def test_two_pictures_keep_their_order(client: openai.OpenAI) -> None:
    for first, second in (("red", "blue"), ("blue", "red")):
        text = say(client, [user(part(first), part(second), "Compare these images")]).choices[0].message.content
        assert text.index(first) < text.index(second)


def test_thinking_is_apart_counted_and_bounded(client: openai.OpenAI) -> None:
    messages = [{"role": "user", "content": "What is 3 + 4?"}]
    plain = say(client, messages)
    assert plain.choices[0].message.content == "7"
    assert plain.usage.completion_tokens_details.reasoning_tokens == 0
    free = say(client, messages, extra_body={"enable_thinking": True})
    short = say(client, messages, extra_body={"enable_thinking": True, "thinking_budget": 3})
    chunks = list(say(client, messages, reasoning_effort="low", stream=True, stream_options={"include_usage": True}))
    assert free.choices[0].message.reasoning_content.startswith("3 + 4 = 7") and free.choices[0].message.content == "7"
    counts = [done.usage.completion_tokens_details.reasoning_tokens for done in (free, short, chunks[-1])]
    # three in the block, the line end and the end marker
    assert counts[1] == 5 < counts[0] == counts[2] < free.usage.completion_tokens
    again = client.responses.create(model="demo", input="What is 3 + 4?", reasoning={"effort": "low"}, temperature=0)
    assert again.usage.output_tokens_details.reasoning_tokens == counts[0] and again.output_text == "7"
    history = [{"role": "user", "content": "Hi"}, *(item.model_dump() for item in again.output)]
    assert client.responses.create(model="demo", input=[*history, {"role": "user", "content": "Hello"}]).output_text


def test_stored_or_not_a_response_goes_on(client: openai.OpenAI) -> None:
    url = f"data:image/png;base64,{shape('blue', is_round=False)}"
    content = [{"type": "input_text", "text": QUESTION}, {"type": "input_image", "image_url": url, "detail": "auto"}]
    common = {"model": "demo", "temperature": 0}
    first = client.responses.create(input=[{"role": "user", "content": content}], metadata={"a": "b"}, **common)
    assert first.output_text == "blue" and first.metadata == {"a": "b"}
    more = {"input": "What shape is blue?", "previous_response_id": first.id}
    second = client.responses.create(store=False, **more, **common)
    assert second.output_text == "square"
    with pytest.raises(openai.NotFoundError):
        client.responses.create(input="and?", previous_response_id=second.id, **common)


def test_anthropic_sees_thinks_and_streams(demo: str) -> None:
    client = anthropic.Anthropic(base_url=demo, api_key="none", max_retries=0)
    source = {"type": "base64", "media_type": "image/png", "data": shape("blue")}
    messages = [{"role": "user", "content": [{"type": "image", "source": source}, {"type": "text", "text": QUESTION}]}]
    greedy = {"temperature": 0, "metadata": {"user_id": "me"}}
    done = client.messages.create(model="demo", max_tokens=40, messages=messages, extra_body=greedy)
    assert done.content[0].text == "blue" and done.stop_reason == "end_turn" and done.metadata == {"user_id": "me"}
    sums = [{"role": "user", "content": "What is 3 + 4?"}]
    thinking = {"type": "enabled", "budget_tokens": 1024}
    options = {"model": "demo", "max_tokens": 1100, "messages": sums, "thinking": thinking}
    with client.messages.stream(**options, extra_body={"temperature": 0}) as stream:
        last = stream.get_final_message()
    assert [block.type for block in last.content] == ["thinking", "text"] and last.content[1].text == "7"
    with pytest.raises(anthropic.BadRequestError, match=r"tools\[0\]"):
        client.messages.create(
            model="demo", max_tokens=4, messages=sums, tools=[{"type": "web_search_20250305", "name": "web_search"}]
        )


def test_detail_acts_or_is_refused(client: openai.OpenAI) -> None:
    for detail in ("auto", "high", "low"):
        assert say(client, [user(part("red", detail=detail), QUESTION)]).choices[0].message.content == "red"
    with pytest.raises(openai.BadRequestError, match="detail"):
        say(client, [user(part("red", detail="superb"), QUESTION)])


@pytest.mark.parametrize("sound", ["/path/a.wav", "https://host/b.mp3", {"data": "AAAA", "format": "wav"}], ids=str)
def test_sound_is_refused_by_name(demo: str, sound: object) -> None:
    content = [{"type": "text", "text": "Describe what you hear"}, {"type": "input_audio", "input_audio": sound}]
    body = {"model": "demo", "messages": [{"role": "user", "content": content}], "stream": True, "max_tokens": 500}
    reply = httpx.post(f"{demo}/generate", json=body)
    assert reply.status_code == 400 and reply.json()["error"]["param"] == "input_audio"


SCHEMA = {
    "type": "object",
    "properties": {"color": {"type": "string", "enum": ["red", "blue"]}},
    "required": ["color"],
    "additionalProperties": False,
}


def test_schemas_and_tools_bind_it_with_a_picture(client: openai.OpenAI) -> None:
    messages = [user(part("blue"), QUESTION)]
    form = {"type": "json_schema", "json_schema": {"name": "answer", "schema": SCHEMA, "strict": True}}
    done = say(client, messages, response_format=form, max_tokens=300)
    assert json.loads(done.choices[0].message.content)["color"] in ("red", "blue")
    tools = [{"type": "function", "function": {"name": "paint", "parameters": SCHEMA}}]
    for choice in ("required", {"type": "function", "function": {"name": "paint"}}):
        (call,) = (
            say(client, messages, tools=tools, tool_choice=choice, parallel_tool_calls=False, max_tokens=300)
            .choices[0]
            .message.tool_calls
        )
        assert call.function.name == "paint" and json.loads(call.function.arguments)["color"] in ("red", "blue")


def test_unloading_waits_for_answers_under_way() -> None:
    with running(Settings(model="demo")) as url:
        body = {"messages": [{"role": "user", "content": "Hello"}], "max_tokens": 200, "stream": True}
        body["logit_bias"] = {"258": -100}
        with httpx.stream("POST", f"{url}/generate", json=body, timeout=60) as reply:
            lines = reply.iter_lines()
            assert next(lines).startswith("data: ")
            unloading = threading.Thread(target=httpx.post, args=(f"{url}/unload",), kwargs={"json": {}, "timeout": 60})
            unloading.start()
            rest = [line for line in lines if line]
        unloading.join()
        assert rest[-1] == "data: [DONE]" and '"finish_reason": "length"' in rest[-2]
        assert httpx.get(f"{url}/health").json()["models"] == []
        assert httpx.post(f"{url}/generate", json={**body, "max_tokens": 1}, timeout=60).status_code == 200
