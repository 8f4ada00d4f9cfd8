"""Bodies and media that are far too large, against a server process of its own: refused early, in bounded memory, and
somebody else's stream goes on."""

from __future__ import annotations

import base64
import io
import os
import signal
import socket
import struct
import threading
import time
import wave
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import numpy as np
import pytest
from PIL import Image

from .soak import metric, served
from .test_sources import Stream

MEBI = 1 << 20
HEAD = b"POST /generate HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n"


@pytest.fixture(scope="module")
def process() -> Iterator[tuple[str, int]]:
    with served() as (url, pid):
        warm = {"messages": [{"role": "user", "content": "Hello"}], "max_tokens": 4}
        assert httpx.post(f"{url}/generate", json=warm, timeout=60).status_code == 200
        yield url, pid


@pytest.fixture(scope="module")
def alone(process: tuple[str, int]) -> Stream:
    stream = Stream(process[0], 500)
    stream.run()
    return stream


@pytest.fixture
def url(process: tuple[str, int], alone: Stream) -> Iterator[str]:
    """The server, with a stream beside the test; afterwards: the stream was not disturbed, the memory's peak is bounded."""
    address, pid = process
    Path(f"/proc/{pid}/clear_refs").write_text("5")  # forget the peak so far
    before = peak(pid)
    stream = Stream(address, 500)
    stream.start()
    yield address
    stream.join(timeout=60)
    assert stream.last == "data: [DONE]" and stream.text[:20] == alone.text[:20]
    assert stream.longest < 5
    assert peak(pid) - before < 700 * MEBI
    assert httpx.get(f"{address}/health").status_code == 200


def peak(pid: int) -> int:
    """Most bytes that a process has held."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) << 10


def send(url: str, head: bytes, chunk: Callable[[], bytes], most: int) -> tuple[bytes, int]:
    """Send a body piece by piece until an answer comes or the connection ends: the answer, and the bytes sent."""
    parts = urlsplit(url)
    with socket.create_connection((parts.hostname, parts.port), timeout=30) as stream:
        stream.sendall(HEAD + head + b"\r\n")
        sent, answer = 0, b""
        try:
            while sent < most:
                stream.settimeout(0.001)
                try:
                    answer += stream.recv(65536)
                    if answer:
                        break
                except TimeoutError:
                    pass
                stream.settimeout(30)
                stream.sendall(piece := chunk())
                sent += len(piece)
            stream.settimeout(30)
            while more := stream.recv(65536):
                answer += more
        except OSError:  # the server closed the connection while more was sent
            pass
    return answer, sent


def test_a_declared_gigabyte_is_refused_at_once(url: str) -> None:
    answer, sent = send(url, b"Content-Length: 1073741824\r\n", lambda: b" " * MEBI, 1 << 30)
    assert sent < 32 * MEBI
    assert answer.startswith(b"HTTP/1.1 413") and b"connection: close" in answer.lower()


def test_a_streamed_gigabyte_is_refused_at_the_limit(url: str) -> None:
    piece = b"100000\r\n" + b" " * MEBI + b"\r\n"
    answer, sent = send(url, b"Transfer-Encoding: chunked\r\n", lambda: piece, 1 << 30)
    assert 60 * MEBI < sent < 128 * MEBI
    # the answer may be lost where the client was still sending as the connection was closed
    assert answer.startswith(b"HTTP/1.1 413") or answer == b""


def test_slow_bodies_hold_up_nobody(url: str) -> None:
    """Connections that send a byte now and then; others are served meanwhile."""
    parts = urlsplit(url)
    streams = [socket.create_connection((parts.hostname, parts.port)) for _ in range(50)]
    for stream in streams:
        stream.sendall(HEAD + b'Content-Length: 1000\r\n\r\n{"mess')
    started = time.monotonic()
    body = {"messages": [{"role": "user", "content": "Hello"}], "max_tokens": 4}
    assert httpx.post(f"{url}/generate", json=body, timeout=60).status_code == 200
    assert time.monotonic() - started < 15
    for stream in streams:
        stream.close()


@pytest.mark.parametrize("count", [1_000_000, 300_000])
def test_a_million_messages(url: str, count: int) -> None:
    body = b'{"messages":[' + b",".join([b'{"role":"user","content":"a"}'] * count) + b"]}"
    started = time.monotonic()
    reply = httpx.post(f"{url}/generate", content=body, headers={"content-type": "application/json"}, timeout=60)
    assert reply.status_code in (400, 413) and reply.json()["error"]["param"] in ("messages", "body")
    assert time.monotonic() - started < 60


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png_bomb() -> tuple[str, bytes]:
    header = struct.pack(">IIBBBBB", 50_000, 50_000, 8, 2, 0, 0, 0)
    deflate = zlib.compressobj(9)
    pixels = b"".join(deflate.compress(bytes(MEBI)) for _ in range(200)) + deflate.flush()
    return "image/png", b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def text_bomb() -> tuple[str, bytes]:
    """A small picture with compressed text of 500 MB beside its pixels."""
    content = io.BytesIO()
    Image.new("RGB", (56, 56), "red").save(content, "PNG")
    deflate = zlib.compressobj(9)
    text = b"".join(deflate.compress(bytes(MEBI)) for _ in range(500)) + deflate.flush()
    whole = content.getvalue()
    return "image/png", whole[:33] + chunk(b"zTXt", b"a\0\0" + text) + whole[33:]


def frames_bomb() -> tuple[str, bytes]:
    """An animation of 10,000 frames of 2000 x 2000 pixels, in a few megabytes."""
    palette = bytes(range(256)) * 3
    screen = b"GIF89a" + struct.pack("<HHBBB", 2000, 2000, 0xF7, 0, 0) + palette
    frame = (
        b"\x21\xf9\x04\x00\x0a\x00\x00\x00"
        + b"\x2c"
        + struct.pack("<HHHHB", 0, 0, 1, 1, 0)
        + b"\x08\x02\x01\x01\x00\x00"
    )
    return "image/gif", screen + frame * 10_000 + b"\x3b"


@pytest.mark.parametrize("make", [png_bomb, text_bomb], ids=["pixels", "text"])
def test_decompression_bombs(url: str, make: Callable[[], tuple[str, bytes]]) -> None:
    kind, content = make()
    assert len(content) < 2 * MEBI
    source = f"data:{kind};base64," + base64.b64encode(content).decode()
    started = time.monotonic()
    body = {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": source}}]}]}
    reply = httpx.post(f"{url}/generate", json={**body, "max_tokens": 4}, timeout=60)
    assert reply.status_code == 400 and "data:image" in reply.json()["error"]["message"], reply.text
    assert time.monotonic() - started < 60


def watch(url: str, source: str, **extra: object) -> httpx.Response:
    body = {
        "messages": [{"role": "user", "content": [{"type": "input_video", "input_video": source}]}],
        "max_tokens": 4,
    }
    started = time.monotonic()
    reply = httpx.post(f"{url}/generate", json={**body, **extra}, timeout=90)
    assert time.monotonic() - started < 60
    return reply


def test_videos_of_ten_thousand_frames(url: str, tmp_path: Path) -> None:
    av = pytest.importorskip("av")
    path = tmp_path / "long.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=30)
        stream.width, stream.height, stream.pix_fmt = 64, 64, "yuv420p"
        for index in range(10_000):
            frame = av.VideoFrame.from_ndarray(np.full((64, 64, 3), index % 255, np.uint8), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    reply = watch(url, str(path), fps=30.0)
    # as many frames as the processor takes at most are more than the model's context
    assert reply.status_code == 400 and "context" in reply.json()["error"]["message"], reply.text
    few = watch(url, str(path), fps=0.02)
    assert few.status_code == 200, few.text


def test_an_animation_of_ten_thousand_large_frames(url: str) -> None:
    kind, content = frames_bomb()
    assert len(content) < MEBI
    reply = watch(url, f"data:{kind};base64," + base64.b64encode(content).decode(), fps=10.0)
    assert reply.status_code == 400 and "at most" in reply.json()["error"]["message"], reply.text


def test_a_long_recording(url: str) -> None:
    """An hour of silence; the model hears nothing, so that it is refused before it is opened."""
    content = io.BytesIO()
    with wave.open(content, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(1)
        file.setframerate(8000)
        file.writeframes(bytes(3600 * 8000))
    data = base64.b64encode(content.getvalue()).decode()
    part = {"type": "input_audio", "input_audio": {"data": data, "format": "wav"}}
    reply = httpx.post(f"{url}/generate", json={"messages": [{"role": "user", "content": [part]}]}, timeout=60)
    assert reply.status_code == 400 and reply.json()["error"]["param"] == "input_audio"


def test_many_large_bodies_at_once(url: str) -> None:
    body = b'{"messages":[{"role":"user","content":"' + b"a " * (20 * MEBI) + b'"}]}'
    statuses: list[int] = []

    def post() -> None:
        reply = httpx.post(f"{url}/generate", content=body, headers={"content-type": "application/json"}, timeout=60)
        statuses.append(reply.status_code)

    threads = [threading.Thread(target=post) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert statuses == [400] * 3


def test_a_server_that_is_told_to_end_finishes_what_streams() -> None:
    with served() as (url, pid):
        stream = Stream(url, 300)
        stream.start()
        while not stream.text:
            time.sleep(0.01)
        os.kill(pid, signal.SIGTERM)
        stream.join(timeout=60)
        assert stream.last == "data: [DONE]"
        with pytest.raises(httpx.TransportError):
            httpx.get(f"{url}/health", timeout=5)


def test_metrics_tell_the_queue(process: tuple[str, int]) -> None:
    url, _ = process
    streams = [Stream(url, 120) for _ in range(24)]  # eight more than decode together
    for stream in streams:
        stream.start()
    longest = rows = 0
    while any(stream.is_alive() for stream in streams):
        text = httpx.get(f"{url}/metrics", timeout=30).text
        longest = max(longest, int(metric(text, "vlm_queue_length")))
        rows = max(rows, int(metric(text, "vlm_running_rows")))
        time.sleep(0.02)
    for stream in streams:
        stream.join()
    assert all(stream.last == "data: [DONE]" for stream in streams)
    assert 1 <= longest <= 8 and rows == 16
    text = httpx.get(f"{url}/metrics", timeout=30).text
    assert metric(text, "vlm_queue_length") == metric(text, "vlm_running_rows") == 0
