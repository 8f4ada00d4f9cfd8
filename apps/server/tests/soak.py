"""Many clients for a long time: every answer belongs to its asker, memory is flat, the queue has an end, nothing breaks.

`python apps/server/tests/soak.py --seconds 600` starts `vlm serve --model demo` as a process of its own, sends it 32 clients, and
prints what was seen as JSON; exit status 1 where something does not hold. Each client draws a text of its own into a picture and
has it read: an answer that is anybody else's cannot pass.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import io
import json
import os
import random
import re
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
from PIL import Image, ImageDraw, ImageFont

CLIENTS = 32
LONG = 300
# no two of these look alike in Pillow's font
ALPHABET = "ACDEFHJKLMNPRTUVWXY23456789"
BAD = {
    "not a picture": "data:image/png;base64,AAAA",
    "cut off": None,
    "no file": "/nowhere/at/all.png",
    "private address": "http://127.0.0.1:9/a.png",
    "metadata service": "http://169.254.169.254/latest/meta-data",
}


def nonce(rng: random.Random) -> str:
    return "".join(rng.choice(ALPHABET) for _ in range(7))


def distance(a: str, b: str) -> int:
    """Characters to put in, take out or change to get from one text to the other."""
    row = list(range(len(b) + 1))
    for i, left in enumerate(a, 1):
        before, row[0] = row[0], i
        for j, right in enumerate(b, 1):
            before, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, before + (left != right))
    return row[-1]


def drawn(text: str, rng: random.Random) -> str:
    """A data URI of a picture of the text."""
    size = rng.randint(28, 40)
    font = ImageFont.load_default(size)
    image = Image.new("RGB", (int(font.getlength(text)) + 24, size + 28), "white")
    ImageDraw.Draw(image).text((12, 10), text, font=font, fill="black")
    content = io.BytesIO()
    image.save(content, "PNG")
    return "data:image/png;base64," + base64.b64encode(content.getvalue()).decode()


@dataclass
class Seen:
    """What a run saw.

    wrong: (asked, answered) where an answer is not its asker's; misread: where it is, but for a character or two.
    drifted: seeded samples that came out another way in other company. memory: (seconds, MB) of the server."""

    kinds: Counter[str] = field(default_factory=Counter)
    statuses: Counter[int] = field(default_factory=Counter)
    wrong: list[tuple[str, str]] = field(default_factory=list)
    misread: list[tuple[str, str]] = field(default_factory=list)
    drifted: int = 0
    failures: list[str] = field(default_factory=list)
    memory: list[tuple[float, float]] = field(default_factory=list)
    longest_queue: int = 0
    most_rows: int = 0
    waits: list[float] = field(default_factory=list)


class Visitor:
    """One client. Its requests are of a random kind; each checks its own answer."""

    def __init__(self, client: httpx.AsyncClient, rng: random.Random, seen: Seen) -> None:
        self.client, self.rng, self.seen = client, rng, seen
        self.kinds = (self.read, self.read, self.stream, self.stream, self.turns, self.total, self.leave, self.bad,
                      self.response, self.message, self.sampled)  # fmt: skip

    async def visit(self) -> None:
        kind = self.rng.choice(self.kinds)
        started = time.monotonic()
        try:
            await kind()
        except httpx.HTTPError as error:
            self.seen.failures.append(f"{kind.__name__}: {type(error).__name__}: {error}")
            await asyncio.sleep(0.2)
        self.seen.kinds[kind.__name__] += 1
        self.seen.waits.append(time.monotonic() - started)

    def asked(self, text: str, **extra: Any) -> dict[str, Any]:
        parts = [
            {"type": "image_url", "image_url": {"url": drawn(text, self.rng)}},
            {"type": "text", "text": "Read the text."},
        ]
        return {"messages": [{"role": "user", "content": parts}], "temperature": 0, "max_tokens": 20, **extra}

    def check(self, expected: str, answered: str | None) -> None:
        if answered == expected:
            return
        # any two texts drawn by chance differ in more places than that
        is_own = len(expected) == 7 and distance(expected, str(answered)) <= 2
        (self.seen.misread if is_own else self.seen.wrong).append((expected, str(answered)))

    async def post(self, path: str, body: dict[str, Any]) -> Any:
        """The JSON of a 200; None where the server said that it is busy."""
        reply = await self.client.post(path, json=body)
        self.seen.statuses[reply.status_code] += 1
        if reply.status_code == 200:
            return reply.json()
        if reply.status_code != 429:
            self.seen.failures.append(f"{path}: {reply.status_code} {reply.text[:200]}")
        return None

    async def read(self) -> None:
        text = nonce(self.rng)
        reply = await self.post("/v1/chat/completions", self.asked(text))
        if reply is not None:
            self.check(text, reply["choices"][0]["message"]["content"])

    async def stream(self) -> None:
        text = nonce(self.rng)
        answer = ""
        async with self.client.stream("POST", "/generate", json=self.asked(text, stream=True)) as reply:
            self.seen.statuses[reply.status_code] += 1
            if reply.status_code != 200:
                return
            async for line in reply.aiter_lines():
                if line.startswith("data: {"):
                    event = json.loads(line[6:])
                    if "error" in event:
                        self.seen.failures.append(f"stream: {line[:200]}")
                        return
                    answer += event["choices"][0]["delta"].get("content") or ""
        self.check(text, answer)

    async def turns(self) -> None:
        """A second question about the same picture, which the caches may serve."""
        text = nonce(self.rng)
        body = self.asked(text)
        for _ in range(2):
            reply = await self.post("/v1/chat/completions", body)
            if reply is None:
                return
            self.check(text, reply["choices"][0]["message"]["content"])

    async def total(self) -> None:
        left, right = self.rng.randrange(10), self.rng.randrange(10)
        body = {
            "messages": [{"role": "user", "content": f"What is {left} + {right}?"}],
            "temperature": 0,
            "max_tokens": 8,
        }
        reply = await self.post("/v1/chat/completions", body)
        if reply is not None:
            self.check(str(left + right), reply["choices"][0]["message"]["content"])

    async def leave(self) -> None:
        """Go away at any moment: at once, in the prefill, or after some tokens."""
        body = self.asked(nonce(self.rng), stream=True, max_tokens=2000, logit_bias={"258": -100})
        patience = self.rng.choice((0.0, 0.01, 0.1, None))
        if patience is not None:
            task = asyncio.ensure_future(self.client.post("/generate", json=body))
            await asyncio.sleep(patience)
            task.cancel()
            await asyncio.wait({task})
            return
        count, most = 0, self.rng.randint(1, 30)
        async with self.client.stream("POST", "/generate", json=body) as reply:
            self.seen.statuses[reply.status_code] += 1
            async for _ in reply.aiter_lines():
                count += 1
                if count > most:
                    break

    async def bad(self) -> None:
        source = BAD[self.rng.choice(tuple(BAD))]
        if source is None:
            whole = drawn(nonce(self.rng), self.rng)
            source = whole[: len(whole) // 2 // 4 * 4]
        parts = [{"type": "image_url", "image_url": {"url": source}}, {"type": "text", "text": "Read the text."}]
        reply = await self.client.post("/generate", json={"messages": [{"role": "user", "content": parts}]})
        self.seen.statuses[reply.status_code] += 1
        if reply.status_code not in (400, 429):
            self.seen.failures.append(f"bad media: {reply.status_code} {reply.text[:200]}")

    async def response(self) -> None:
        text = nonce(self.rng)
        parts = [
            {"type": "input_image", "image_url": drawn(text, self.rng)},
            {"type": "input_text", "text": "Read the text."},
        ]
        body = {"input": [{"role": "user", "content": parts}], "temperature": 0, "max_output_tokens": 20}
        reply = await self.post("/v1/responses", body)
        if reply is not None:
            self.check(text, reply["output"][-1]["content"][0]["text"])

    async def message(self) -> None:
        text = nonce(self.rng)
        data = drawn(text, self.rng).partition(",")[2]
        image = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": data}}
        parts = [image, {"type": "text", "text": "Read the text."}]
        body = {"messages": [{"role": "user", "content": parts}], "temperature": 0, "max_tokens": 20}
        reply = await self.post("/v1/messages", body)
        if reply is not None:
            self.check(text, reply["content"][0]["text"])

    async def sampled(self) -> None:
        """Hot sampling beside the others; a seed gives the same text again, whoever is served meanwhile."""
        body = self.asked(nonce(self.rng), temperature=1.5, top_p=0.95, seed=self.rng.randrange(1 << 30), n=2)
        first = await self.post("/v1/chat/completions", body)
        second = await self.post("/v1/chat/completions", body)
        if first is not None and second is not None:
            texts = [[choice["message"]["content"] for choice in reply["choices"]] for reply in (first, second)]
            self.seen.drifted += texts[0] != texts[1]


async def crowd(url: str, pid: int, seconds: float) -> Seen:
    """Send the clients; watch the server meanwhile."""
    seen = Seen()
    end = time.monotonic() + seconds
    limits = httpx.Limits(max_connections=2 * CLIENTS, max_keepalive_connections=CLIENTS)
    async with httpx.AsyncClient(base_url=url, timeout=120, limits=limits) as client:

        async def visitor(number: int) -> None:
            mine = Visitor(client, random.Random(number), seen)
            while time.monotonic() < end:
                await mine.visit()

        async def watch() -> None:
            started = time.monotonic()
            while True:
                seen.memory.append((time.monotonic() - started, resident_mb(pid)))
                text = (await client.get("/metrics")).text
                seen.longest_queue = max(seen.longest_queue, int(metric(text, "vlm_queue_length")))
                seen.most_rows = max(seen.most_rows, int(metric(text, "vlm_running_rows")))
                await asyncio.sleep(1)

        watching = asyncio.create_task(watch())
        await asyncio.gather(*map(visitor, range(CLIENTS)))
        watching.cancel()
        await asyncio.wait({watching})
        await _idle(client, seen)
    return seen


async def _idle(client: httpx.AsyncClient, seen: Seen) -> None:
    """Nothing of those who left may still run."""
    for _ in range(200):
        text = (await client.get("/metrics")).text
        if all(metric(text, name) == 0 for name in ("vlm_model_requests", "vlm_queue_length", "vlm_running_rows")):
            return
        await asyncio.sleep(0.1)
    seen.failures.append("requests are left running")


def metric(text: str, name: str) -> float:
    """A gauge, over all models."""
    return sum(float(value) for value in re.findall(rf"^{name}\{{[^}}]*\}} (\S+)$", text, re.MULTILINE))


def resident_mb(pid: int) -> float:
    """Memory of a process in MB, without the file pages it shares with others."""
    fields = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines() if ":" in line)
    return float(fields["RssAnon"].split()[0]) / 1e3


def slope(points: list[tuple[float, float]]) -> float:
    """MB per minute, by least squares over what comes after the first third."""
    late = [point for point in points if point[0] >= points[-1][0] / 3]
    mean_x, mean_y = (sum(point[axis] for point in late) / len(late) for axis in (0, 1))
    spread = sum((x - mean_x) ** 2 for x, _ in late)
    return 60 * sum((x - mean_x) * (y - mean_y) for x, y in late) / spread if spread else 0.0


@contextmanager
def served(*options: str) -> Iterator[tuple[str, int]]:
    """`vlm serve --model demo` as a process of its own: its address and its id."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    start = "from vlm_server.cli import main; main()"
    arguments = ["--model", "demo", "--port", str(port), "--log-level", "error", *options]
    process = subprocess.Popen([sys.executable, "-c", start, *arguments], env=os.environ)
    url = f"http://127.0.0.1:{port}"
    try:
        for _ in range(300):
            try:
                if httpx.get(f"{url}/ready", timeout=5).status_code == 200:
                    break
            except httpx.TransportError:
                time.sleep(0.1)
        yield url, process.pid
    finally:
        process.terminate()
        process.wait(timeout=60)


def report(seen: Seen, seconds: float) -> dict[str, Any]:
    """Figures of a run; `problems` is empty where everything holds."""
    waits = sorted(seen.waits)
    memory = [round(size) for _, size in seen.memory]
    problems = [f"answers of others: {seen.wrong[:5]}"] if seen.wrong else []
    if len(seen.misread) > 0.01 * sum(seen.kinds.values()):
        problems.append(f"misread: {seen.misread[:5]}")
    problems += [f"failures: {seen.failures[:5]}"] if seen.failures else []
    problems += [f"status {status}" for status in seen.statuses if status >= 500]
    growth = slope(seen.memory)
    # over the whole run less than a tenth of what the server takes; a short run is all warm-up
    if seconds >= LONG and growth * seconds / 60 > 0.1 * seen.memory[-1][1]:
        problems.append(f"memory grows by {growth:.1f} MB a minute")
    return {
        "seconds": seconds,
        "clients": CLIENTS,
        "requests": sum(seen.kinds.values()),
        "kinds": dict(seen.kinds),
        "statuses": {str(status): count for status, count in sorted(seen.statuses.items())},
        "wrong": len(seen.wrong),
        "misread": len(seen.misread),
        "seeded samples that differ": seen.drifted,
        "longest_queue": seen.longest_queue,
        "most_rows": seen.most_rows,
        "wait_seconds": {"median": waits[len(waits) // 2], "99 %": waits[len(waits) * 99 // 100], "longest": waits[-1]},
        "memory_mb": {
            "first": memory[0],
            "at a third": memory[len(memory) // 3],
            "last": memory[-1],
            "most": max(memory),
        },
        "memory_mb_per_minute": round(growth, 2),
        "problems": problems,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    with served() as (url, pid):
        result = report(asyncio.run(crowd(url, pid, arguments.seconds)), arguments.seconds)
    text = json.dumps(result, indent=1)
    if arguments.out is not None:
        arguments.out.write_text(text + "\n")
    sys.stdout.write(text + "\n")
    raise SystemExit(1 if result["problems"] else 0)


if __name__ == "__main__":
    main()
