"""The official anthropic client against the server."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from pathlib import Path

import anthropic
import pytest

from vlm_server.testing import Running

GREEDY = {"temperature": 0}


@pytest.fixture(scope="module")
def client(server: Running) -> Iterator[anthropic.Anthropic]:
    with anthropic.Anthropic(base_url=server.url, api_key="none", max_retries=0) as opened:
        yield opened


def test_message_and_stream_say_the_same(client: anthropic.Anthropic, server: Running) -> None:
    messages = [{"role": "user", "content": "hello"}]
    whole = client.messages.create(model=server.model, messages=messages, max_tokens=8, extra_body=GREEDY)
    with client.messages.stream(model=server.model, messages=messages, max_tokens=8, extra_body=GREEDY) as stream:
        text = "".join(stream.text_stream)
        last = stream.get_final_message()
    assert whole.content[0].text == text == last.content[0].text
    assert whole.stop_reason == last.stop_reason == "max_tokens"
    assert whole.usage.output_tokens == last.usage.output_tokens == 8


def test_picture_system_and_stop_sequence(client: anthropic.Anthropic, server: Running, picture: Path) -> None:
    source = {"type": "base64", "media_type": "image/png", "data": base64.b64encode(picture.read_bytes()).decode()}
    messages = [{"role": "user", "content": [{"type": "image", "source": source}, {"type": "text", "text": "what?"}]}]
    common = {"model": server.model, "system": "be brief", "messages": messages, "max_tokens": 8, "extra_body": GREEDY}
    text = client.messages.create(**common).content[0].text
    stopped = client.messages.create(**common, stop_sequences=[text[2:4]])
    assert stopped.content[0].text == text[: text.index(text[2:4])]
    assert stopped.stop_reason == "stop_sequence" and stopped.stop_sequence == text[2:4]


def test_count_tokens_counts_what_a_message_uses(client: anthropic.Anthropic, server: Running) -> None:
    messages = [{"role": "user", "content": "hello"}]
    counted = client.messages.count_tokens(model=server.model, messages=messages).input_tokens
    usage = client.messages.create(model=server.model, messages=messages, max_tokens=1).usage
    assert counted == usage.input_tokens + (usage.cache_read_input_tokens or 0)


def test_errors_are_anthropics(client: anthropic.Anthropic, server: Running) -> None:
    with pytest.raises(anthropic.BadRequestError) as raised:
        client.messages.create(
            model=server.model, messages=[{"role": "user", "content": "a"}], max_tokens=1, extra_body={"top_p": 9}
        )
    assert raised.value.body["error"]["type"] == "invalid_request_error"


def test_tools_are_used_when_they_must_be(client: anthropic.Anthropic, server: Running) -> None:
    schema = {"type": "object", "properties": {"count": {"type": "integer", "minimum": 0, "maximum": 9}}}
    schema |= {"required": ["count"], "additionalProperties": False}
    tools = [{"name": "look", "description": "Look.", "input_schema": schema}]
    messages = [{"role": "user", "content": "go"}]
    common = {"model": server.model, "messages": messages, "max_tokens": 300, "tools": tools, "extra_body": GREEDY}
    done = client.messages.create(**common, tool_choice={"type": "tool", "name": "look"})
    (block,) = done.content
    assert block.type == "tool_use" and block.input["count"] in range(10) and done.stop_reason == "tool_use"
    with client.messages.stream(**common, tool_choice={"type": "any"}) as stream:
        assert stream.get_final_message().content[0].input == block.input
    result = {"type": "tool_result", "tool_use_id": block.id, "content": "done"}
    turns = [*messages, {"role": "assistant", "content": done.content}, {"role": "user", "content": [result]}]
    assert client.messages.create(**{**common, "messages": turns}).content
