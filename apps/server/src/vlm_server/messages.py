"""Anthropic's messages: content blocks in and out."""

from __future__ import annotations

import json
import uuid
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from vlm_runtime import GenerationResult, ToolCall

from .errors import ApiError
from .fields import CountBody, MessagesBody
from .ids import call_id
from .residents import Residents
from .sse import event, stream
from .structure import structure
from .turns import Ask, Turn

STOP = {"stop": "end_turn", "length": "max_tokens"}


async def answer(body: MessagesBody, request: Request, residents: Residents) -> Response:
    """Answer; `stream` by server-sent events."""
    turn = await Turn.prepare(residents, body, lambda processor: ask_of(body, processor))
    stops = tuple(body.stop_sequences or ())
    about: dict[str, Any] = {
        "id": f"msg_{uuid.uuid4().hex}",
        "type": "message",
        "role": "assistant",
        "model": turn.resident.name,
    }
    if body.metadata is not None:
        about["metadata"] = body.metadata
    if body.stream:
        events = _events(turn, about, stops)
        return stream(events, lambda error: event(error, "error"), is_anthropic=True)
    (done,) = await turn.whole(request)
    content: list[dict[str, Any]] = []
    if done.reasoning:
        content.append({"type": "thinking", "thinking": done.reasoning, "signature": ""})
    if done.content or not done.calls:
        content.append({"type": "text", "text": done.content})
    content += [_tool_use(call, json.loads(call.arguments)) for call in done.calls]
    ending = _ending(done.last, stops, bool(done.calls))
    return JSONResponse({**about, "content": content, **ending, "usage": _usage(done.last)})


async def count(body: CountBody, residents: Residents) -> Response:
    """How many tokens a request's prompt has, media included."""
    turn = await Turn.prepare(residents, body, lambda processor: ask_of(body, processor))
    turn.leave()
    return JSONResponse({"input_tokens": turn.prompt_tokens})


def ask_of(body: MessagesBody | CountBody, processor: Any) -> Ask:
    """A body as a request to the runtime. Raises ApiError."""
    options = body.options()
    if isinstance(body, MessagesBody):
        options["max_tokens"] = body.max_tokens
        if body.stop_sequences:
            options["stop"] = body.stop_sequences
    if body.thinking is not None:
        kind = body.thinking.get("type")
        if kind not in ("enabled", "disabled", "adaptive"):
            raise ApiError(400, f"thinking.type: expected enabled or disabled, got {kind!r}", param="thinking.type")
        options["enable_thinking"] = kind != "disabled"
        unknown = {name for name, value in body.thinking.items() if value is not None} - {"type", "budget_tokens"}
        if unknown:
            raise ApiError(400, f"thinking.{min(unknown)}: not supported", param=f"thinking.{min(unknown)}")
        if body.thinking.get("budget_tokens") is not None:
            if kind != "enabled":
                raise ApiError(400, "thinking.budget_tokens: needs type enabled", param="thinking.budget_tokens")
            options["thinking_budget"] = body.thinking["budget_tokens"]
    for index, tool in enumerate(body.tools or []):
        if tool.get("type", "custom") != "custom" or not isinstance(tool.get("name"), str):
            where = f"tools[{index}]"
            raise ApiError(400, f"{where}: expected a custom tool with a name and an input_schema", param=where)
    tools = [
        {"type": "function", "function": {**{k: tool[k] for k in ("name", "description") if k in tool},
         "parameters": tool.get("input_schema", {})}}
        for tool in body.tools or []
    ]  # fmt: skip
    parallel = not (body.tool_choice or {}).get("disable_parallel_tool_use", False)
    wanted = structure(processor, tools=tools, tool_choice=_choice(body.tool_choice), parallel=parallel)
    messages: list[dict[str, Any]] = []
    if body.system:
        messages.append({"role": "system", "content": _text(body.system, "system")})
    for index, message in enumerate(body.messages):
        messages += _messages(message, f"messages[{index}]")
    return Ask(messages, options, wanted)


def _choice(given: Mapping[str, Any] | None) -> Any:
    if given is None:
        return None
    kind = given.get("type")
    if kind == "tool":
        return {"type": "function", "function": {"name": given.get("name")}}
    if kind not in ("auto", "any", "none"):
        raise ApiError(
            400, f"tool_choice.type: expected auto, any, tool or none, got {kind!r}", param="tool_choice.type"
        )
    return {"any": "required"}.get(kind, kind)


def _text(content: Any, where: str) -> str:
    if isinstance(content, str):
        return content
    parts = content if isinstance(content, list) else []
    if not parts or any(not isinstance(part, dict) or part.get("type") != "text" for part in parts):
        raise ApiError(400, f"{where}: expected a string or text blocks", param=where)
    return "\n".join(str(part.get("text", "")) for part in parts)


def _messages(message: Mapping[str, Any], where: str) -> list[dict[str, Any]]:
    """One of Anthropic's messages as one or more of the runtime's: tool results are messages of their own."""
    content = message.get("content")
    if not isinstance(content, list):
        return [{"role": message.get("role"), "content": content}]
    results: list[dict[str, Any]] = []
    parts: list[Any] = []
    calls: list[dict[str, Any]] = []
    for index, block in enumerate(content):
        place = f"{where}.content[{index}]"
        kind = block.get("type") if isinstance(block, dict) else None
        if kind == "image":
            parts.append({"type": "image", "image": _source(block.get("source"), place)})
        elif kind == "tool_use":
            function = {"name": block.get("name"), "arguments": json.dumps(block.get("input", {}))}
            calls.append({"id": block.get("id"), "type": "function", "function": function})
        elif kind == "tool_result":
            text = _text(block.get("content") or "", f"{place}.content")
            text = f"error: {text}" if block.get("is_error") else text
            results.append({"role": "tool", "tool_call_id": block.get("tool_use_id"), "content": text})
        elif kind in ("thinking", "redacted_thinking"):
            continue  # earlier turns' thoughts are not shown to the model again
        elif isinstance(block, dict):
            parts.append({key: value for key, value in block.items() if key not in ("cache_control", "citations")})
        else:
            parts.append(block)
    if parts or calls:
        own: dict[str, Any] = {"role": message.get("role"), "content": parts or ""}
        if calls:
            own["tool_calls"] = calls
        results.append(own)
    return results


def _source(source: Any, where: str) -> str:
    kind = source.get("type") if isinstance(source, dict) else None
    if kind == "base64" and isinstance(source.get("data"), str):
        return f"data:{source.get('media_type', 'image/png')};base64,{source['data']}"
    if kind == "url" and isinstance(source.get("url"), str):
        return str(source["url"])
    raise ApiError(400, f"{where}.source: expected base64 data or a url", param=f"{where}.source")


def _tool_use(call: ToolCall, arguments: Any) -> dict[str, Any]:
    return {"type": "tool_use", "id": call_id(), "name": call.name, "input": arguments}


def _ending(last: GenerationResult, stops: tuple[str, ...], has_calls: bool) -> dict[str, Any]:
    if has_calls and last.finish_reason == "stop":
        return {"stop_reason": "tool_use", "stop_sequence": None}
    if last.stop_string is not None and last.stop_string in stops:
        return {"stop_reason": "stop_sequence", "stop_sequence": last.stop_string}
    return {"stop_reason": STOP.get(last.finish_reason or "stop", "end_turn"), "stop_sequence": None}


def _usage(last: GenerationResult) -> dict[str, Any]:
    return {
        "input_tokens": last.prompt_tokens - last.cached_tokens,
        "cache_read_input_tokens": last.cached_tokens,
        "cache_creation_input_tokens": 0,
        "output_tokens": last.generation_tokens,
    }


async def _events(turn: Turn, about: dict[str, Any], stops: tuple[str, ...]) -> AsyncGenerator[str, None]:
    def tell(kind: str, **fields: Any) -> str:
        return event({"type": kind, **fields}, kind)

    started = {"input_tokens": turn.prompt_tokens, "output_tokens": 0}
    empty = {**about, "content": [], "stop_reason": None, "stop_sequence": None, "usage": started}
    yield tell("message_start", message=empty)
    yield tell("ping")
    index, current, last, has_calls = -1, "", None, False
    shapes = {"thinking": ("thinking_delta", {"thinking": "", "signature": ""}), "text": ("text_delta", {"text": ""})}
    async with aclosing(turn.pieces()) as pieces:
        async for piece in pieces:
            last = piece.result
            for kind, text in (("thinking", piece.reasoning), ("text", piece.content)):
                if not text:
                    continue
                delta, block = shapes[kind]
                if kind != current:
                    if current:
                        yield tell("content_block_stop", index=index)
                    index, current = index + 1, kind
                    yield tell("content_block_start", index=index, content_block={"type": kind, **block})
                yield tell("content_block_delta", index=index, delta={"type": delta, kind: text})
            for call in piece.calls:
                if current:
                    yield tell("content_block_stop", index=index)
                index, current, has_calls = index + 1, "", True
                yield tell("content_block_start", index=index, content_block=_tool_use(call, {}))
                arguments = {"type": "input_json_delta", "partial_json": call.arguments}
                yield tell("content_block_delta", index=index, delta=arguments)
                yield tell("content_block_stop", index=index)
    assert last is not None, "a request ends with a result"
    if current:
        yield tell("content_block_stop", index=index)
    yield tell("message_delta", delta=_ending(last, stops, has_calls), usage=_usage(last))
    yield tell("message_stop")
