"""Fields of every endpoint: taken with effect, or refused by name."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest

from vlm_server import Settings
from vlm_server.fields import ChatBody, MessagesBody, ResponsesBody
from vlm_server.testing import running

USER = [{"role": "user", "content": "Hello"}]
CHAT = {"messages": USER, "max_tokens": 2}
BODIES = {
    "/chat/completions": (ChatBody, CHAT),
    "/generate": (ChatBody, CHAT),
    "/responses": (ResponsesBody, {"input": "Hello", "max_output_tokens": 16}),
    "/messages": (MessagesBody, {"messages": USER, "max_tokens": 2}),
}
COMMON = {
    "temperature": 0.5, "top_p": 0.9, "top_k": 5, "min_p": 0.1, "repetition_penalty": 1.1, "presence_penalty": 0.1,
    "frequency_penalty": 0.1, "logit_bias": {"5": 1}, "seed": 3, "stop": ["x"], "enable_thinking": False,
    "thinking_budget": 3, "thinking_start_token": "<think>", "thinking_end_token": "</think>", "resize_shape": [56, 56],
    "max_pixels": 50176, "min_pixels": 3136, "fps": 1.0, "user": "me", "service_tier": "auto", "stream": False,
}  # fmt: skip
DEFAULTS = {
    "/chat/completions": {
        "store": False, "n": 1, "logprobs": False, "top_logprobs": 0, "response_format": {"type": "text"},
        "tools": [], "tool_choice": "none", "parallel_tool_calls": True, "modalities": ["text"], "verbosity": "medium",
        "reasoning_effort": "medium",
    },
    "/responses": {
        "store": True, "background": False, "truncation": "disabled", "include": [], "text": {"format": {"type": "text"}},
        "tools": [], "tool_choice": "auto", "reasoning": {"effort": None, "summary": None}, "parallel_tool_calls": True,
    },
    "/messages": {"stop_sequences": [], "thinking": {"type": "disabled"}, "tools": [], "tool_choice": {"type": "auto"}},
}  # fmt: skip
WRONG = {
    "temperature": -1, "top_p": 2, "top_k": -1, "min_p": 2, "repetition_penalty": 0, "presence_penalty": 1e9,
    "frequency_penalty": "much", "logit_bias": {"x": 1}, "seed": 1.5, "stop": 5, "enable_thinking": "yes",
    "thinking_budget": -1, "resize_shape": 0, "max_pixels": -4, "min_pixels": [1, 2, 3], "fps": 0, "stream": "yes",
    "user": 5, "metadata": {"a": ["b"]}, "adapter_path": "/a", "model": 5, "voice": "loud",
}  # fmt: skip


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with running(Settings(model="demo")) as address:
        yield address


@pytest.mark.parametrize("path", BODIES)
def test_null_is_left_out_and_defaults_are_taken(url: str, path: str) -> None:
    kind, body = BODIES[path]
    nulls = dict.fromkeys(kind.model_fields) | {"prompt_cache_key": None}
    for extra in (nulls, COMMON, DEFAULTS.get(path, {}), {"thinking_token_budget": 3}):
        reply = httpx.post(url + path, json={**extra, **body})
        assert reply.status_code == 200, reply.text
    assert httpx.post(url + path, json={**body, "metadata": {"a": "b"}}).json()["metadata"] == {"a": "b"}


@pytest.mark.parametrize("path", BODIES)
def test_wrong_and_unknown_fields_are_named(url: str, path: str) -> None:
    for name, value in WRONG.items():
        reply = httpx.post(url + path, json={**BODIES[path][1], name: value})
        assert reply.status_code == 400, (name, reply.text)
        error = reply.json()["error"]
        assert name in error["message"], (name, error)
        assert path == "/messages" or error["param"].startswith(name), (name, error)


@pytest.mark.parametrize(
    ("path", "extra", "name"),
    [
        ("/generate", {"max_completion_tokens": 9}, "max_completion_tokens"),
        ("/generate", {"stream_options": {"include_usage": True}}, "stream_options"),
        ("/generate", {"stream": True, "stream_options": {"include_obfuscation": True}}, "stream_options"),
        ("/generate", {"response_format": {"type": "json_schema", "json_schema": "x"}}, "response_format"),
        ("/generate", {"tool_choice": "required"}, "tool_choice"),
        ("/generate", {"tools": [{"type": "web_search"}]}, "tools[0]"),
        ("/generate", {"store": True}, "store"),
        ("/generate", {"verbosity": "high"}, "verbosity"),
        ("/responses", {"text": {"format": "json"}}, "text.format"),
        ("/responses", {"text": {"verbosity": "high"}}, "text.verbosity"),
        ("/responses", {"reasoning": {"summary": "detailed"}}, "reasoning.summary"),
        ("/responses", {"tools": [{"type": "web_search"}]}, "tools[0]"),
        ("/responses", {"input": []}, "input"),
        ("/responses", {"input": [{"type": ["a"]}]}, "input[0].type"),
        ("/responses", {"truncation": "auto"}, "truncation"),
        ("/messages", {"thinking": {"type": "enabled", "display": "omitted"}}, "thinking.display"),
        ("/messages", {"thinking": {"type": "loud"}}, "thinking.type"),
        ("/messages", {"tools": [{"x": 1}]}, "tools[0]"),
        ("/messages", {"tool_choice": {"type": "tool"}}, "tool_choice"),
        ("/messages", {"messages": [{"role": "user", "content": [{"type": "tool_result", "content": [{}]}]}]}, "messages[0]"),
    ],
)  # fmt: skip
def test_what_is_inside_is_checked_too(url: str, path: str, extra: dict, name: str) -> None:
    reply = httpx.post(url + path, json={**BODIES[path][1], **extra})
    assert reply.status_code == 400 and name in reply.json()["error"]["message"], reply.text
