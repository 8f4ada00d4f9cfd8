"""Many clients at once: every answer belongs to its asker, nothing is left running, the queue has an end."""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections import Counter
from collections.abc import Iterator

import httpx
import pytest
import uvicorn

import vlm_server.residents
from vlm_server import Settings
from vlm_server.testing import running

from .test_demo import QUESTION, part, user

COLORS = ("red", "blue", "green", "black")
CLIENTS = 32


@pytest.fixture
def app_and_url(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[object, str]]:
    made = []
    config = uvicorn.Config

    def keep(app: object, **options: object) -> uvicorn.Config:
        made.append(app)
        return config(app, **options)

    monkeypatch.setattr(uvicorn, "Config", keep)
    with running(Settings(model="demo")) as url:
        yield made[0], url


async def one(client: httpx.AsyncClient, rng: random.Random, seen: Counter) -> None:
    """One request of a random kind; asserts that its answer is its own."""
    kind = rng.choice(("whole", "stream", "sum", "leave", "bad"))
    color = rng.choice(COLORS)
    body = {"model": "demo", "messages": [user(part(color), QUESTION)], "temperature": 0, "max_tokens": 12}
    if kind == "whole":
        reply = await client.post("/v1/chat/completions", json=body)
        assert reply.status_code == 200, reply.text
        assert reply.json()["choices"][0]["message"]["content"] == color
    elif kind == "sum":
        left, right = rng.randrange(10), rng.randrange(10)
        body["messages"] = [{"role": "user", "content": f"What is {left} + {right}?"}]
        reply = await client.post("/v1/chat/completions", json=body)
        assert reply.json()["choices"][0]["message"]["content"] == str(left + right), (left, right)
    elif kind == "bad":
        body["messages"] = [user({"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}, QUESTION)]
        assert (await client.post("/v1/chat/completions", json=body)).status_code == 400
    elif kind == "leave":
        body |= {"max_tokens": 2000, "logit_bias": {"258": -100}, "stream": True}
        async with client.stream("POST", "/v1/chat/completions", json=body) as reply:
            assert reply.status_code == 200
            async for _ in reply.aiter_lines():
                break
    else:
        text = ""
        async with client.stream("POST", "/v1/chat/completions", json={**body, "stream": True}) as reply:
            async for line in reply.aiter_lines():
                if line.startswith("data: {"):
                    text += json.loads(line[6:])["choices"][0]["delta"].get("content") or ""
        assert text == color
    seen[kind] += 1


async def crowd(url: str, seconds: float) -> Counter:
    seen: Counter = Counter()
    limits = httpx.Limits(max_connections=CLIENTS)
    async with httpx.AsyncClient(base_url=url, timeout=60, limits=limits) as client:

        async def visitor(number: int) -> None:
            rng, end = random.Random(number), time.monotonic() + seconds
            while time.monotonic() < end:
                await one(client, rng, seen)

        await asyncio.gather(*map(visitor, range(CLIENTS)))
    return seen


def is_idle(resident: object) -> bool:
    return resident.in_use == 0 and all(engine.num_open == 0 for engine in resident.processor.engines.values())


@pytest.mark.parametrize("seconds", [14, pytest.param(600, marks=pytest.mark.slow)])
def test_a_crowd_gets_its_own_answers(app_and_url: tuple, seconds: float) -> None:
    app, url = app_and_url
    seen = asyncio.run(crowd(url, seconds))
    assert set(seen) == {"whole", "stream", "sum", "leave", "bad"}, seen
    (resident,) = app.state.residents.all
    deadline = time.monotonic() + 20
    while not is_idle(resident) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert is_idle(resident)
    metrics = httpx.get(f"{url}/metrics").text
    assert 'status="400"' in metrics and 'status="5' not in metrics


def test_the_queue_has_an_end(app_and_url: tuple, monkeypatch: pytest.MonkeyPatch) -> None:
    _, url = app_and_url
    monkeypatch.setattr(vlm_server.residents, "MOST_REQUESTS", 2)

    async def rush() -> list[int]:
        body = {"messages": [{"role": "user", "content": "Hello"}], "max_tokens": 300, "logit_bias": {"258": -100}}
        async with httpx.AsyncClient(base_url=url, timeout=60) as client:
            replies = await asyncio.gather(*(client.post("/generate", json=body) for _ in range(8)))
        return [reply.status_code for reply in replies]

    statuses = Counter(asyncio.run(rush()))
    assert set(statuses) == {200, 429} and statuses[200] >= 2
    body = {"messages": [{"role": "user", "content": "Hello"}], "max_tokens": 2}
    assert httpx.post(f"{url}/generate", json=body).status_code == 200
