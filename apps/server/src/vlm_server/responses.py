"""OpenAI's responses: items in, items out, conversations kept in memory by id."""

from __future__ import annotations

import time
import uuid
from collections import OrderedDict
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from vlm_runtime import GenerationResult, ToolCall

from .effort import with_effort
from .errors import ApiError
from .fields import ResponsesBody
from .ids import call_id
from .residents import Residents
from .sse import event, stream
from .structure import structure
from .turns import Ask, Turn

Messages = list[dict[str, Any]]


class ResponseStore:
    """Conversations of earlier responses, bounded in number and bytes; the oldest go first."""

    def __init__(self, most: int, max_bytes: int = 256 << 20) -> None:
        self._most, self._max_bytes = most, max_bytes
        self._messages: OrderedDict[str, Messages] = OrderedDict()
        self._sizes: dict[str, int] = {}

    def put(self, response_id: str, messages: Messages) -> None:
        self._messages[response_id] = messages
        self._sizes[response_id] = _size(messages)
        while len(self._messages) > self._most or sum(self._sizes.values()) > self._max_bytes:
            oldest, _ = self._messages.popitem(last=False)
            del self._sizes[oldest]

    def get(self, response_id: str) -> Messages:
        """Raises ApiError for one that is not, or no longer, kept."""
        if response_id not in self._messages:
            raise ApiError(404, f"previous_response_id: {response_id} is not known", param="previous_response_id")
        return self._messages[response_id]


def _size(value: Any) -> int:
    """About how many bytes a conversation takes."""
    if isinstance(value, str):
        return len(value)
    if isinstance(value, Mapping):
        return 64 + sum(_size(inner) for inner in value.values())
    return 64 + sum(_size(inner) for inner in value) if isinstance(value, list) else 8


async def respond(body: ResponsesBody, request: Request, residents: Residents, store: ResponseStore) -> Response:
    """Answer; `stream` by server-sent events."""
    conversation = conversation_of(body, store)
    instructions: Messages = [{"role": "system", "content": body.instructions}] if body.instructions else []
    turn = await Turn.prepare(residents, body, lambda processor: _ask(body, instructions + conversation, processor))
    draft = _Draft(body, turn.resident.name)

    def keep(text: str) -> None:
        if body.store:
            store.put(draft.id, [*conversation, draft.turn(text)])

    if body.stream:
        events = _events(turn, draft, keep)
        return stream(events, lambda error: event({"type": "error", **error["error"]}, "error"))
    (answer,) = await turn.whole(request)
    for call in answer.calls:
        draft.call(call)
    keep(answer.content)
    return JSONResponse(draft.finished(answer.reasoning, answer.content, answer.last, answer.reasoning_tokens))


def conversation_of(body: ResponsesBody, store: ResponseStore) -> Messages:
    """The messages so far, from `input`, or `messages` as chat clients send them. Raises ApiError."""
    if (body.input is None) == (body.messages is None):
        raise ApiError(400, "input: expected input, or messages in its place", param="input")
    earlier = store.get(body.previous_response_id) if body.previous_response_id else []
    if body.messages is not None:
        return [*earlier, *body.messages]
    if isinstance(body.input, str):
        return [*earlier, {"role": "user", "content": body.input}]
    messages: Messages = []
    for index, item in enumerate(body.input or []):
        message = _message(index, item)
        if message is None:
            continue
        if "tool_calls" in message and messages and messages[-1]["role"] == "assistant":
            # one answer's text and calls are items of their own here, one message to a template
            calls = [*messages[-1].get("tool_calls", ()), *message["tool_calls"]]
            messages[-1] = {**messages[-1], "tool_calls": calls}
        else:
            messages.append(message)
    if not earlier and not messages:
        raise ApiError(400, "input: expected at least one item", param="input")
    return [*earlier, *messages]


def _message(index: int, item: Mapping[str, Any]) -> dict[str, Any] | None:
    """An input item as a message; None for earlier thoughts, which are not shown again. Raises ApiError."""
    kind = item.get("type", "message")
    if kind == "message" and "role" in item:
        return {"role": item["role"], "content": item.get("content")}
    if kind == "reasoning":
        return None
    if kind == "function_call_output":
        return {"role": "tool", "tool_call_id": item.get("call_id"), "content": item.get("output")}
    if kind == "function_call":
        function = {"name": item.get("name"), "arguments": item.get("arguments")}
        call = {"id": item.get("call_id"), "type": "function", "function": function}
        return {"role": "assistant", "content": "", "tool_calls": [call]}
    raise ApiError(400, f"input[{index}].type: {kind!r} is not supported", param=f"input[{index}].type")


def _ask(body: ResponsesBody, messages: Messages, processor: Any) -> Ask:
    options = body.options()
    if body.max_tokens is not None and body.max_output_tokens not in (None, body.max_tokens):
        raise ApiError(400, "max_output_tokens: differs from max_tokens", param="max_output_tokens")
    most = body.max_output_tokens if body.max_tokens is None else body.max_tokens
    if most is not None:
        options["max_tokens"] = most
    if body.reasoning is not None:
        unknown = {name for name, value in body.reasoning.items() if value is not None} - {"effort"}
        if unknown:
            raise ApiError(400, f"reasoning.{min(unknown)}: not supported", param=f"reasoning.{min(unknown)}")
        options = with_effort(options, body.reasoning.get("effort"), "reasoning.effort")
    text = dict(body.text or {})
    text.pop("verbosity", None) if text.get("verbosity") in (None, "medium") else None
    unknown = set(text) - {"format"}
    if unknown:
        raise ApiError(400, f"text.{min(unknown)}: not supported", param=f"text.{min(unknown)}")
    form = text.get("format")
    if form is not None and not isinstance(form, Mapping):
        raise ApiError(400, "text.format: expected an object", param="text.format")
    if form is not None and form.get("type") == "json_schema" and "json_schema" not in form:
        form = {"type": "json_schema", "json_schema": {k: v for k, v in form.items() if k != "type"}}
    for index, tool in enumerate(body.tools or []):
        if tool.get("type") != "function":
            raise ApiError(400, f"tools[{index}].type: expected function", param=f"tools[{index}].type")
    tools = [
        tool if "function" in tool else {"type": "function", "function": {k: v for k, v in tool.items() if k != "type"}}
        for tool in body.tools or []
    ]
    wanted = structure(
        processor,
        response_format=form,
        tools=tools,
        tool_choice=body.tool_choice,
        parallel=body.parallel_tool_calls,
    )
    return Ask(messages, options, wanted)


class _Draft:
    """The response object while it grows."""

    def __init__(self, body: ResponsesBody, model: str) -> None:
        self.id = f"resp_{uuid.uuid4().hex}"
        self.message_id = f"msg_{uuid.uuid4().hex}"
        self.reasoning_id = f"rs_{uuid.uuid4().hex}"
        self.calls: list[dict[str, Any]] = []
        self._base = {
            "id": self.id,
            "object": "response",
            "created_at": int(time.time()),
            "model": model,
            "instructions": body.instructions,
            "previous_response_id": body.previous_response_id,
            "max_output_tokens": body.max_output_tokens,
            "temperature": body.temperature,
            "top_p": body.top_p,
            "parallel_tool_calls": body.parallel_tool_calls,
            "tool_choice": body.tool_choice or "auto",
            "tools": body.tools or [],
            "text": body.text or {"format": {"type": "text"}},
            "reasoning": body.reasoning,
            "store": body.store,
            "metadata": body.metadata or {},
            "error": None,
        }

    def started(self) -> dict[str, Any]:
        return {**self._base, "status": "in_progress", "incomplete_details": None, "output": [], "usage": None}

    def message(self, text: str, status: str = "completed") -> dict[str, Any]:
        content = [self.part(text)] if status != "in_progress" else []
        return {"type": "message", "id": self.message_id, "role": "assistant", "status": status, "content": content}

    def part(self, text: str) -> dict[str, Any]:
        return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}

    def thought(self, text: str) -> dict[str, Any]:
        content = [{"type": "reasoning_text", "text": text}]
        return {"type": "reasoning", "id": self.reasoning_id, "summary": [], "content": content, "status": "completed"}

    def call(self, call: ToolCall) -> dict[str, Any]:
        """The item of a call; kept for the finished response."""
        item = {
            "type": "function_call",
            "id": f"fc_{uuid.uuid4().hex}",
            "call_id": call_id(),
            "name": call.name,
            "arguments": call.arguments,
            "status": "completed",
        }
        self.calls.append(item)
        return item

    def turn(self, text: str) -> dict[str, Any]:
        """The answer as a message of the conversation."""
        calls = [
            {"id": c["call_id"], "type": "function", "function": {"name": c["name"], "arguments": c["arguments"]}}
            for c in self.calls
        ]
        return {"role": "assistant", "content": text, **({"tool_calls": calls} if calls else {})}

    def finished(self, reasoning: str, text: str, last: GenerationResult, thoughts: int) -> dict[str, Any]:
        is_cut = last.finish_reason == "length"
        status = "incomplete" if is_cut else "completed"
        said = [self.message(text, status)] if text or not self.calls else []
        return {
            **self._base,
            "status": status,
            "incomplete_details": {"reason": "max_output_tokens"} if is_cut else None,
            "output": [*([self.thought(reasoning)] if reasoning else []), *said, *self.calls],
            "usage": {
                "input_tokens": last.prompt_tokens,
                "input_tokens_details": {"cached_tokens": last.cached_tokens},
                "output_tokens": last.generation_tokens,
                "output_tokens_details": {"reasoning_tokens": thoughts},
                "total_tokens": last.total_tokens,
            },
        }


async def _events(turn: Turn, draft: _Draft, keep: Any) -> AsyncGenerator[str, None]:
    number = 0

    def tell(kind: str, **fields: Any) -> str:
        nonlocal number
        number += 1
        return event({"type": kind, "sequence_number": number - 1, **fields}, kind)

    yield tell("response.created", response=draft.started())
    yield tell("response.in_progress", response=draft.started())
    thoughts = 0
    reasoning: list[str] = []
    content: list[str] = []
    place: dict[str, Any] = {}
    last = None
    async with aclosing(turn.pieces()) as pieces:
        async for piece in pieces:
            last = piece.result
            thoughts += piece.is_reasoning
            if piece.reasoning:
                at = {"item_id": draft.reasoning_id, "output_index": 0, "content_index": 0}
                if not reasoning:
                    empty = {**draft.thought(""), "content": [], "status": "in_progress"}
                    yield tell("response.output_item.added", output_index=0, item=empty)
                reasoning.append(piece.reasoning)
                yield tell("response.reasoning_text.delta", delta=piece.reasoning, **at)
            if piece.content:
                if not content:
                    if reasoning:
                        yield tell("response.output_item.done", output_index=0, item=draft.thought("".join(reasoning)))
                    place = {"item_id": draft.message_id, "output_index": bool(reasoning) + 0, "content_index": 0}
                    item = draft.message("", "in_progress")
                    yield tell("response.output_item.added", output_index=place["output_index"], item=item)
                    yield tell("response.content_part.added", part=draft.part(""), **place)
                content.append(piece.content)
                yield tell("response.output_text.delta", delta=piece.content, logprobs=[], **place)
            for call in piece.calls:
                draft.call(call)
    assert last is not None, "a request ends with a result"
    text = "".join(content)
    done = draft.finished("".join(reasoning), text, last, thoughts)
    if content:
        yield tell("response.output_text.done", text=text, logprobs=[], **place)
        yield tell("response.content_part.done", part=draft.part(text), **place)
        said = next(item for item in done["output"] if item["type"] == "message")
        yield tell("response.output_item.done", output_index=place["output_index"], item=said)
    for index, item in enumerate(done["output"]):
        if item["type"] != "function_call":
            continue
        at = {"item_id": item["id"], "output_index": index}
        started = {**item, "arguments": "", "status": "in_progress"}
        yield tell("response.output_item.added", output_index=index, item=started)
        yield tell("response.function_call_arguments.delta", delta=item["arguments"], **at)
        yield tell("response.function_call_arguments.done", arguments=item["arguments"], name=item["name"], **at)
        yield tell("response.output_item.done", output_index=index, item=item)
    keep(text)
    yield tell("response.incomplete" if done["status"] == "incomplete" else "response.completed", response=done)
