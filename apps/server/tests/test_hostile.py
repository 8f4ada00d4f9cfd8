"""Hostile requests: a 4xx in bounded time, and nobody else is disturbed."""

from __future__ import annotations

import base64
import struct
import threading
import time
import zlib
from collections.abc import Iterator

import httpx
import pytest

from vlm_server import Settings
from vlm_server.ids import call_id
from vlm_server.testing import running

HELLO = b'"messages":[{"role":"user","content":"a"}],"max_tokens":1'
MESSAGE = b'{"role":"user","content":"a"}'


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with running(Settings(model="demo")) as address:
        yield address


def post(url: str, body: bytes, path: str = "/generate") -> httpx.Response:
    started = time.monotonic()
    reply = httpx.post(url + path, content=body, headers={"content-type": "application/json"}, timeout=60)
    assert time.monotonic() - started < 20
    return reply


def refused(reply: httpx.Response) -> None:
    assert 400 <= reply.status_code < 500 and reply.json()["error"]["message"], reply.text


def picture(url: str, source: str) -> httpx.Response:
    body = {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": source}}]}]}
    return httpx.post(f"{url}/generate", json=body, timeout=60)


BODIES = {
    "surrogate in text": b'{"messages":[{"role":"user","content":"\\ud800"}]}',
    "surrogate in model": b'{%s,"model":"\\ud800"}' % HELLO,
    "surrogate in metadata": b'{%s,"metadata":{"a":"\\ud800"}}' % HELLO,
    "surrogate in stop": b'{%s,"stop":"\\ud800"}' % HELLO,
    "surrogate in a field": b'{%s,"\\ud800":1}' % HELLO,
    "deep metadata": b'{%s,"metadata":{"a":%s}}' % (HELLO, b"[" * 900 + b"]" * 900),
    "deep schema": b'{%s,"response_format":{"type":"json_schema","json_schema":{"schema":%s{}%s}}}'
    % (HELLO, b'{"items":' * 800, b"}" * 800),
    "huge number": b'{%s,"seed":1%s}' % (HELLO, b"0" * 5000),
    "not a number": b'{%s,"temperature":NaN}' % HELLO,
    "line break in a field": b'{%s,"user\\r\\nset-cookie: a":1}' % HELLO,
}


@pytest.mark.parametrize("body", BODIES.values(), ids=BODIES)
def test_bodies(url: str, body: bytes) -> None:
    refused(post(url, body))


def test_long_histories_and_texts(url: str) -> None:
    refused(post(url, b'{"messages":[' + b",".join([MESSAGE] * 1_000_000) + b"]}"))
    refused(post(url, b'{"input":[' + b",".join([MESSAGE] * 1_000_000) + b"]}", "/responses"))
    refused(post(url, b'{"messages":[' + b",".join([MESSAGE] * 20_000) + b"]}"))
    refused(post(url, b'{"messages":[{"role":"user","content":"' + b"a " * 20_000_000 + b'"}]}'))


@pytest.mark.parametrize(
    "source",
    [
        *(
            "http://127.0.0.1/a.png",
            "http://169.254.169.254/latest/meta-data",
            "http://[::1]/a.png",
            "http://2130706433/",
        ),
        *("http://0x7f000001/", "http://localhost/a.png", "http://[::ffff:127.0.0.1]/a.png", "file:///etc/passwd"),
        *("/etc/passwd", "/dev/zero", "/tmp/\r\nhost: a", "http://a\r\nb/", "data:image/png;base64,####", "ftp://a/b"),
    ],
)
def test_sources(url: str, source: str) -> None:
    refused(picture(url, source))


def test_a_decompression_bomb(url: str) -> None:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    pixels = zlib.compress(bytes(10_000_000), 9)
    bomb = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")
    started = time.monotonic()
    refused(picture(url, "data:image/png;base64," + base64.b64encode(bomb).decode()))
    assert time.monotonic() - started < 5


def test_others_are_served_meanwhile(url: str) -> None:
    body = b'{"messages":[{"role":"user","content":"' + b"a " * 20_000_000 + b'"}]}'
    threads = [threading.Thread(target=post, args=(url, body)) for _ in range(2)]
    for thread in threads:
        thread.start()
    started = time.monotonic()
    assert post(url, b"{%s}" % HELLO).status_code == 200
    assert time.monotonic() - started < 10
    for thread in threads:
        thread.join()


def test_ids_of_calls_fit_every_template() -> None:
    ids = {call_id() for _ in range(1000)}
    assert len(ids) == 1000 and all(len(i) == 9 and i.isascii() and i.isalnum() for i in ids)
