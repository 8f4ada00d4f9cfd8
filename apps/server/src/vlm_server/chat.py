"""OpenAI's chat completions; /generate is the same under another name."""

from __future__ import annotations

import time
import uuid
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from vlm_runtime import GenerationResult, ToolCall

from .effort import with_effort
from .errors import ApiError
from .fields import ChatBody
from .ids import call_id
from .residents import Residents
from .sse import event, stream
from .structure import structure
from .turns import Ask, Piece, Turn, Whole, timings, usage

FINISH = {"stop": "stop", "length": "length", "cancelled": "stop", "error": "stop"}


async def chat(body: ChatBody, request: Request, residents: Residents) -> Response:
    """Answer a chat; `stream` by server-sent events."""
    turn = await Turn.prepare(residents, body, lambda processor: ask_of(body, processor))
    resident = turn.resident
    about = {"id": f"chatcmpl-{uuid.uuid4().hex}", "created": int(time.time()), "model": resident.name}
    if body.metadata is not None:
        about["metadata"] = body.metadata
    if body.stream:
        return stream(_chunks(turn, body, about, resident.processor), event)
    answers = await turn.whole(request)
    return JSONResponse(
        {
            **about,
            "object": "chat.completion",
            "choices": [_choice(index, answer, body, resident.processor) for index, answer in enumerate(answers)],
            "usage": usage([answer.last for answer in answers], sum(answer.reasoning_tokens for answer in answers)),
            "timings": timings(answers[0].last),
        }
    )


def ask_of(body: ChatBody, processor: Any) -> Ask:
    """A body as a request to the runtime. Raises ApiError."""
    options = body.options()
    if body.max_tokens is not None and body.max_completion_tokens not in (None, body.max_tokens):
        raise ApiError(400, "max_completion_tokens: differs from max_tokens", param="max_completion_tokens")
    most = body.max_completion_tokens if body.max_tokens is None else body.max_tokens
    if most is not None:
        options["max_tokens"] = most
    if body.n != 1:
        options["n"] = body.n
    if body.top_logprobs is not None and not body.logprobs:
        raise ApiError(400, "top_logprobs: needs logprobs to be true", param="top_logprobs")
    if body.logprobs:
        options |= {"logprobs": True, "top_logprobs": body.top_logprobs or 0}
    options = with_effort(options, body.reasoning_effort, "reasoning_effort")
    if body.stream_options is not None and not body.stream:
        raise ApiError(400, "stream_options: needs stream to be true", param="stream_options")
    wanted = structure(
        processor,
        response_format=body.response_format,
        tools=body.tools,
        tool_choice=body.tool_choice,
        parallel=body.parallel_tool_calls,
    )
    return Ask(body.messages, options, wanted)


def _choice(index: int, answer: Whole, body: ChatBody, processor: Any) -> dict[str, Any]:
    content = answer.content if answer.content or not answer.calls else None
    message: dict[str, Any] = {"role": "assistant", "content": content, "refusal": None}
    if answer.calls:
        message["tool_calls"] = [_call(call) for call in answer.calls]
    if answer.reasoning:
        message["reasoning_content"] = answer.reasoning
    return {
        "index": index,
        "message": message,
        "finish_reason": _finish(answer.last, bool(answer.calls)),
        "logprobs": _logprobs(answer.last, processor) if body.logprobs else None,
    }


async def _chunks(turn: Turn, body: ChatBody, about: dict[str, Any], processor: Any) -> AsyncGenerator[str, None]:
    wants_usage = body.stream_options is not None and body.stream_options.include_usage
    base = {**about, "object": "chat.completion.chunk"}
    last: dict[int, GenerationResult] = {}
    thoughts = 0
    num_calls: dict[int, int] = {}

    def chunk(index: int, delta: dict[str, Any], finish: str | None = None, logprobs: Any = None) -> str:
        choice = {"index": index, "delta": delta, "finish_reason": finish, "logprobs": logprobs}
        return event({**base, "choices": [choice], **({"usage": None} if wants_usage else {})})

    async with aclosing(turn.pieces()) as pieces:
        async for piece in pieces:
            if piece.index not in last:
                yield chunk(piece.index, {"role": "assistant", "content": ""})
            last[piece.index] = piece.result
            thoughts += piece.is_reasoning
            logprobs = _last_logprob(piece.result, processor) if body.logprobs else None
            first = num_calls.get(piece.index, 0)
            num_calls[piece.index] = first + len(piece.calls)
            if delta := _delta(piece, first):
                yield chunk(piece.index, delta, None, logprobs)
            elif logprobs is not None:
                yield chunk(piece.index, {}, None, logprobs)
            if piece.result.finish_reason is not None:
                yield chunk(piece.index, {}, _finish(piece.result, bool(num_calls[piece.index])))
    answers = [last[index] for index in sorted(last)]
    if wants_usage:
        yield event({**base, "choices": [], "usage": usage(answers, thoughts), "timings": timings(answers[0])})
    yield event("[DONE]")


def _finish(last: GenerationResult, has_calls: bool) -> str:
    reason = FINISH[last.finish_reason or "stop"]
    return "tool_calls" if has_calls and reason == "stop" else reason


def _call(call: ToolCall) -> dict[str, Any]:
    function = {"name": call.name, "arguments": call.arguments}
    return {"id": call_id(), "type": "function", "function": function}


def _delta(piece: Piece, first_call: int) -> dict[str, Any]:
    delta: dict[str, Any] = {}
    if piece.calls:
        delta["tool_calls"] = [{"index": first_call + i, **_call(call)} for i, call in enumerate(piece.calls)]
    if piece.reasoning:
        delta["reasoning_content"] = piece.reasoning
    if piece.content:
        delta["content"] = piece.content
    return delta


def _logprobs(result: GenerationResult, processor: Any) -> dict[str, Any]:
    return {"content": [_logprob(entry, processor) for entry in result.logprobs], "refusal": None}


def _last_logprob(result: GenerationResult, processor: Any) -> dict[str, Any] | None:
    if not result.logprobs:
        return None
    return {"content": [_logprob(result.logprobs[-1], processor)], "refusal": None}


def _logprob(entry: Any, processor: Any) -> dict[str, Any]:
    def one(token: int, logprob: float) -> dict[str, Any]:
        text = processor.tokenizer.decode([token], skip_special_tokens=False)
        return {"token": text, "logprob": max(logprob, -9999.0), "bytes": list(text.encode())}

    return {**one(entry.token, entry.logprob), "top_logprobs": [one(*pair) for pair in entry.top]}
