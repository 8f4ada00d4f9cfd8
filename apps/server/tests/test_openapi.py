"""/openapi.json against behaviour: what it documents is taken, what it does not is refused by name, defaults mean nothing."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from vlm_server import Settings
from vlm_server.testing import running

USER = [{"role": "user", "content": "Hello"}]
TOOL = {"name": "paint", "description": "Paints.", "parameters": {"type": "object", "properties": {}}}
LEAST: dict[str, dict[str, Any]] = {
    "/chat/completions": {"messages": USER, "max_tokens": 2},
    "/generate": {"messages": USER, "max_tokens": 2},
    "/responses": {"input": "Hello", "max_output_tokens": 16},
    "/messages": {"messages": USER, "max_tokens": 2},
    "/messages/count_tokens": {"messages": USER},
}
EVERYWHERE: dict[str, Any] = {
    "model": "demo", "stream": True, "temperature": 0.5, "top_p": 0.9, "top_k": 5, "min_p": 0.1, "repetition_penalty": 1.1,
    "presence_penalty": 0.1, "frequency_penalty": 0.1, "logit_bias": {"5": 1}, "seed": 3, "stop": ["x"],
    "enable_thinking": False, "thinking_budget": 3, "thinking_token_budget": 3, "thinking_start_token": "<think>",
    "thinking_end_token": "</think>", "resize_shape": [56, 56], "max_pixels": 50176, "min_pixels": 3136, "fps": 1.0,
    "adapter_path": None, "user": "me", "service_tier": "auto", "metadata": {"a": "b"},
}  # fmt: skip
CHAT: dict[str, Any] = {
    "messages": USER, "max_tokens": 2, "max_completion_tokens": 2, "n": 2, "logprobs": True, "top_logprobs": None,
    "stream_options": None, "response_format": {"type": "json_object"}, "tools": [{"type": "function", "function": TOOL}],
    "tool_choice": "none", "parallel_tool_calls": False, "reasoning_effort": "low",
}  # fmt: skip
CLAUDE: dict[str, Any] = {
    "system": "Be brief.", "messages": USER, "tools": [{"name": "paint", "input_schema": TOOL["parameters"]}],
    "tool_choice": {"type": "none"}, "thinking": {"type": "enabled", "budget_tokens": 8},
}  # fmt: skip
# the fields of the contract, each with a value that must be taken
FIELDS: dict[str, dict[str, Any]] = {
    "/chat/completions": EVERYWHERE | CHAT,
    "/generate": EVERYWHERE | CHAT,
    "/responses": EVERYWHERE
    | {
        "input": "Hello", "messages": None, "instructions": "Be brief.", "previous_response_id": None,
        "max_output_tokens": 2, "max_tokens": 2, "text": {"format": {"type": "text"}},
        "tools": [{"type": "function", **TOOL}], "tool_choice": "none", "parallel_tool_calls": False,
        "reasoning": {"effort": "low"}, "store": False,
    },
    "/messages": EVERYWHERE | CLAUDE | {"max_tokens": 2, "stop_sequences": ["x"]},
    "/messages/count_tokens": EVERYWHERE | CLAUDE,
    "/unload": {"model": "demo"},
}  # fmt: skip
# what the clients' own documentation calls the default
DOCUMENTED: dict[str, dict[str, Any]] = {
    "/chat/completions": {
        "frequency_penalty": 0, "presence_penalty": 0, "temperature": 1, "top_p": 1, "n": 1, "logprobs": False,
        "top_logprobs": 0, "stream": False, "stream_options": None, "parallel_tool_calls": True, "tool_choice": "none",
        "service_tier": "auto", "modalities": ["text"], "verbosity": "medium", "store": False, "logit_bias": {}, "stop": [],
        "response_format": {"type": "text"}, "tools": [], "metadata": {}, "reasoning_effort": "medium", "audio": None,
        "prediction": None, "prompt_cache_key": None, "safety_identifier": None, "web_search_options": None, "functions": [],
        "function_call": "none",
    },
    "/responses": {
        "background": False, "truncation": "disabled", "include": [], "store": True, "stream": False, "temperature": 1,
        "top_p": 1, "parallel_tool_calls": True, "tool_choice": "auto", "tools": [], "service_tier": "auto", "metadata": {},
        "text": {"format": {"type": "text"}, "verbosity": "medium"}, "reasoning": {"effort": "medium", "summary": None},
        "top_logprobs": 0, "max_tool_calls": None, "prompt": None, "conversation": None, "context_management": None,
        "instructions": None, "previous_response_id": None, "stream_options": None, "prompt_cache_retention": None,
    },
    "/messages": {
        "stream": False, "temperature": 1.0, "stop_sequences": [], "tools": [], "tool_choice": {"type": "auto"},
        "thinking": {"type": "disabled"}, "service_tier": "auto", "mcp_servers": [], "container": None, "top_k": None,
        "top_p": None, "metadata": {"user_id": "me"}, "context_management": None, "output_config": None, "system": "",
    },
}  # fmt: skip


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with running(Settings(model="demo")) as address:
        yield address


@pytest.fixture(scope="module")
def documented(url: str) -> dict[str, dict[str, Any]]:
    """Properties of each endpoint's body, by path."""
    document = httpx.get(f"{url}/openapi.json").json()
    bodies = {}
    for path, methods in document["paths"].items():
        if "post" in methods:
            schema = methods["post"]["requestBody"]["content"]["application/json"]["schema"]
            name = next(one["$ref"] for one in [schema, *schema.get("anyOf", [])] if "$ref" in one).rpartition("/")[2]
            bodies[path] = document["components"]["schemas"][name]
    return bodies


def test_the_document_lists_the_fields_of_the_contract(documented: dict) -> None:
    assert set(documented) == set(FIELDS)
    for path, schema in documented.items():
        assert set(schema["properties"]) == set(FIELDS[path]), path
        assert schema["additionalProperties"] is False


@pytest.mark.parametrize("path", LEAST)
def test_documented_fields_are_taken_and_others_refused(url: str, documented: dict, path: str) -> None:
    for name, schema in documented[path]["properties"].items():
        value = FIELDS[path][name]
        bodies = [
            {**LEAST[path], name: value},
            {**LEAST[path], name: schema["default"]} if "default" in schema else None,
        ]
        if name == "max_output_tokens" or (name == "max_tokens" and path == "/responses"):
            bodies[0].pop("max_output_tokens", None)
            bodies[0][name] = value
        for body in bodies:
            if body is None:
                continue
            if name not in LEAST[path] or body[name] is not None:
                reply = httpx.post(url + path, json=body, timeout=60)
                assert reply.status_code == 200, (name, body, reply.text)
    for name in ("voice", "chat_template", "__class__", "Temperature", "max_new_tokens"):
        reply = httpx.post(url + path, json={**LEAST[path], name: 1})
        error = reply.json()["error"]
        assert reply.status_code == 400 and name in error["message"], (name, reply.text)
        assert path.startswith("/messages") or error["param"] == name


@pytest.mark.parametrize("path", DOCUMENTED)
def test_documented_defaults_are_taken_one_by_one_and_together(url: str, path: str) -> None:
    for name, value in DOCUMENTED[path].items():
        reply = httpx.post(url + path, json={**LEAST[path], name: value}, timeout=60)
        assert reply.status_code == 200, (name, reply.text)
    reply = httpx.post(url + path, json={**LEAST[path], **DOCUMENTED[path]}, timeout=60)
    assert reply.status_code == 200, reply.text


def test_documented_routes_answer(url: str) -> None:
    for path, methods in httpx.get(f"{url}/openapi.json").json()["paths"].items():
        if "get" in methods:
            assert httpx.get(url + path.replace("{name}", "demo")).status_code == 200, path
            assert httpx.get(f"{url}/v1" + path.replace("{name}", "demo")).status_code == 200, path


@pytest.mark.parametrize(("effort", "most"), [("none", 0), ("minimal", 128), ("low", 512)])
def test_efforts_are_budgets(url: str, effort: str, most: int) -> None:
    """The end token is forbidden, so that only the budget ends a thought."""
    end = _token(url, "</think>")
    body = {
        "messages": USER,
        "max_tokens": most + 60,
        "reasoning_effort": effort,
        "logit_bias": {str(end): -100, "258": -100},
    }
    body["temperature"] = 0
    reply = httpx.post(f"{url}/generate", json=body, timeout=120).json()
    thought = reply["usage"]["completion_tokens_details"]["reasoning_tokens"]
    if effort == "none":
        assert thought == 0
        return
    # the budget, and the line break and the marker that end the block
    assert most <= thought <= most + 3, reply["usage"]
    assert "reasoning_content" in reply["choices"][0]["message"]
    own = httpx.post(f"{url}/generate", json={**body, "thinking_budget": 5, "max_tokens": 40}, timeout=60).json()
    assert 5 <= own["usage"]["completion_tokens_details"]["reasoning_tokens"] <= 8
    same = {"input": "Hello", "max_output_tokens": most + 60, "reasoning": {"effort": effort}, "temperature": 0}
    other = httpx.post(f"{url}/responses", json={**same, "logit_bias": body["logit_bias"]}, timeout=120).json()
    assert other["usage"]["output_tokens_details"]["reasoning_tokens"] == thought


@pytest.mark.parametrize(
    ("path", "extra", "name"),
    [
        ("/generate", {"reasoning_effort": "high", "enable_thinking": False}, "reasoning_effort"),
        ("/generate", {"reasoning_effort": "none", "enable_thinking": True}, "reasoning_effort"),
        ("/generate", {"reasoning_effort": "huge"}, "reasoning_effort"),
        ("/responses", {"reasoning": {"effort": "huge"}}, "reasoning.effort"),
        ("/responses", {"reasoning": {"effort": "low"}, "enable_thinking": False}, "reasoning.effort"),
    ],
)
def test_efforts_that_mean_nothing_are_refused(url: str, path: str, extra: dict, name: str) -> None:
    reply = httpx.post(url + path, json={**LEAST[path], **extra})
    assert reply.status_code == 400 and reply.json()["error"]["param"] == name, reply.text


def _token(url: str, text: str) -> int:
    from vlm_runtime import resolve_checkpoint

    rows = json.loads((resolve_checkpoint("demo") / "tokenizer.json").read_text())["added_tokens"]
    return next(row["id"] for row in rows if row["content"] == text)
