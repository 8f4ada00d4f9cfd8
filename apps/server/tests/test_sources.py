"""Media by URL and path over HTTP: the guarded door lets public hosts in and nothing else, while other answers go on.

The operating system's resolver and sockets are replaced, as there is no internet in a test: `pictures.example` has a public
address, behind which a server of this process answers. The door itself is the one that serves users.
"""

from __future__ import annotations

import base64
import io
import json
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import pytest
from PIL import Image

import vlm_server.turns
from vlm_runtime import MediaPolicy
from vlm_runtime.media.fetch import SystemNetwork
from vlm_server import Settings
from vlm_server.testing import running

from .test_demo import QUESTION, shape

PUBLIC = "93.184.216.34"
ENDLESS = {"messages": [{"role": "user", "content": "Hello"}], "temperature": 0, "logit_bias": {"258": -100}}


class Site(BaseHTTPRequestHandler):
    """/red.png; /to?URL redirects; /drip and /endless never end; /text and /none are no pictures."""

    def do_GET(self) -> None:
        path, _, query = self.path.partition("?")
        if path == "/to":
            self.send_response(302)
            self.send_header("Location", query)
            self.end_headers()
            return
        content = {"/text": b"no picture"}.get(path)
        if path.endswith(".png"):
            content = base64.b64decode(shape(path[1:-4]))
        if content is not None:
            self._send(200, content)
        elif path == "/drip":
            self._endless(b"\x89", 0.05)
        elif path == "/endless":
            self._endless(bytes(1 << 20), 0.0)
        else:
            self._send(404, b"")

    def _send(self, status: int, content: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def _endless(self, chunk: bytes, pause: float) -> None:
        self.send_response(200)
        self.end_headers()
        try:
            while True:
                self.wfile.write(chunk)
                self.wfile.flush()
                time.sleep(pause)
        except OSError:
            return

    def log_message(self, *_: object) -> None:
        """Nothing is printed in tests."""


@pytest.fixture(scope="module")
def site() -> Iterator[int]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Site)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server.server_address[1]
    server.shutdown()
    server.server_close()


@pytest.fixture
def reached(site: int, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Addresses that were connected to."""
    connected: list[str] = []
    names = {"pictures.example": [PUBLIC], "inside.example": ["10.0.0.7"], "mixed.example": [PUBLIC, "127.0.0.1"]}
    find, connect = SystemNetwork.resolve, SystemNetwork.connect

    def resolve(self: SystemNetwork, host: str, port: int, timeout: float) -> list[str]:
        return names[host] if host in names else find(self, host, port, timeout)

    def connecting(self: SystemNetwork, address: str, port: int, timeout: float) -> socket.socket:
        connected.append(address)
        assert address == PUBLIC, address
        return connect(self, "127.0.0.1", site, timeout)

    monkeypatch.setattr(SystemNetwork, "resolve", resolve)
    monkeypatch.setattr(SystemNetwork, "connect", connecting)

    class Quick:
        @staticmethod
        def for_server(**given: object) -> MediaPolicy:
            return replace(MediaPolicy.for_server(**given), max_fetch_seconds=3.0, max_bytes=8 << 20)

    monkeypatch.setattr(vlm_server.turns, "MediaPolicy", Quick)
    return connected


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with running(Settings(model="demo")) as address:
        yield address


class Stream(threading.Thread):
    """An answer that streams beside what a test does; its text and the longest pause in it."""

    def __init__(self, url: str, tokens: int) -> None:
        super().__init__()
        self.url, self.tokens = url, tokens
        self.text, self.longest, self.last = "", 0.0, ""

    def run(self) -> None:
        body = {**ENDLESS, "stream": True, "max_tokens": self.tokens}
        with httpx.stream("POST", f"{self.url}/generate", json=body, timeout=60) as reply:
            before = time.monotonic()
            for line in reply.iter_lines():
                now = time.monotonic()
                self.longest, before = max(self.longest, now - before), now
                if line.startswith("data: {"):
                    self.text += json.loads(line[6:])["choices"][0]["delta"].get("content") or ""
                self.last = line or self.last


@pytest.fixture(scope="module")
def alone(url: str) -> Stream:
    """The same answer with nobody beside it."""
    stream = Stream(url, 600)
    stream.run()
    assert stream.last == "data: [DONE]" and stream.text
    return stream


@pytest.fixture
def beside(url: str, alone: Stream) -> Iterator[None]:
    """A stream that goes on while the test runs: same text to the end, no long pause."""
    stream = Stream(url, 600)
    stream.start()
    yield
    stream.join(timeout=60)
    # far into an answer that may not end, roundings of 16 bits in another company decide between equal tokens
    assert stream.last == "data: [DONE]" and stream.text[:20] == alone.text[:20]
    assert stream.longest < 5


def look(url: str, source: str) -> httpx.Response:
    content = [{"type": "image_url", "image_url": {"url": source}}, {"type": "text", "text": QUESTION}]
    body = {"messages": [{"role": "user", "content": content}], "temperature": 0, "max_tokens": 8}
    started = time.monotonic()
    reply = httpx.post(f"{url}/generate", json=body, timeout=60)
    assert time.monotonic() - started < 25
    return reply


def refused(reply: httpx.Response) -> str:
    assert reply.status_code == 400, reply.text
    return reply.json()["error"]["message"]


def test_a_picture_by_public_url(url: str, reached: list[str], beside: None) -> None:
    for source in ("http://pictures.example/red.png", f"http://{PUBLIC}/blue.png?size=1#top"):
        reply = look(url, source)
        color = source.rpartition("/")[2].partition(".")[0]
        assert reply.status_code == 200 and reply.json()["choices"][0]["message"]["content"] == color, reply.text
    redirected = look(url, "http://pictures.example/to?http://pictures.example/green.png")
    assert redirected.json()["choices"][0]["message"]["content"] == "green"
    assert set(reached) == {PUBLIC}


@pytest.mark.parametrize(
    "target",
    [
        *("http://127.0.0.1:8080/", "http://169.254.169.254/latest/meta-data", "http://[::1]/", "http://2130706433/"),
        *("http://localhost/", "http://inside.example/a.png", "http://mixed.example/a.png", "file:///etc/passwd"),
        *(
            "http://0x7f.1/",
            "http://[::ffff:169.254.169.254]/",
            "gopher://pictures.example/",
            "ftp://pictures.example/",
        ),
    ],
)
def test_direct_and_redirected_to_what_is_not_public(url: str, reached: list[str], target: str) -> None:
    refused(look(url, target))
    assert reached == []
    refused(look(url, f"http://pictures.example/to?{target}"))
    assert reached == [PUBLIC]  # the redirect itself was read, what it names was not


def test_redirects_end(url: str, reached: list[str]) -> None:
    endless = "http://pictures.example/to?/to?/to?/to?/to?/red.png"
    assert "redirects" in refused(look(url, endless))


@pytest.mark.parametrize("path", ["drip", "endless"])
def test_slow_and_endless_sites(url: str, reached: list[str], beside: None, path: str) -> None:
    started = time.monotonic()
    message = refused(look(url, f"http://pictures.example/{path}"))
    assert "within" in message or "at most" in message
    assert time.monotonic() - started < 15


def test_many_slow_sites_hold_up_nobody(url: str, reached: list[str], beside: None) -> None:
    threads = [threading.Thread(target=look, args=(url, "http://pictures.example/drip")) for _ in range(40)]
    for thread in threads:
        thread.start()
    assert look(url, "http://pictures.example/black.png").status_code == 200
    for thread in threads:
        thread.join()


def test_what_is_no_picture(url: str, reached: list[str]) -> None:
    for path in ("text", "none"):
        refused(look(url, f"http://pictures.example/{path}"))


def test_urls_can_be_switched_off(reached: list[str]) -> None:
    with running(Settings(model="demo", allow_urls=False)) as address:
        assert "URLs are not allowed" in refused(look(address, "http://pictures.example/red.png"))
    assert reached == []


def test_paths_stay_under_the_allowed_folder(tmp_path: Path) -> None:
    """`..`, links to files and folders, links put in place later, and file URLs: outside is outside, and not told apart."""
    allowed, outside = tmp_path / "allowed", tmp_path / "outside"
    for folder in (allowed / "deep", outside):
        folder.mkdir(parents=True)
    content = io.BytesIO()
    Image.new("RGB", (56, 56), "red").save(content, "PNG")
    for path in (allowed / "in.png", outside / "secret.png"):
        path.write_bytes(content.getvalue())
    (allowed / "link.png").symlink_to(outside / "secret.png")
    (allowed / "folder").symlink_to(outside)
    (allowed / "inner.png").symlink_to(allowed / "in.png")
    inside = [allowed / "in.png", allowed / "inner.png", f"{allowed}/deep/../in.png"]
    beyond = [
        *(
            allowed / "link.png",
            allowed / "folder" / "secret.png",
            outside / "secret.png",
            f"{allowed}/../outside/secret.png",
        ),
        *(
            f"{allowed}/deep/../../outside/secret.png",
            f"file://{outside}/secret.png",
            "file:///etc/passwd",
            "/etc/passwd",
        ),
        *(
            f"{allowed}-not/in.png",
            f"{allowed}/in.png\x00.png",
            f"{allowed}/in.png\r\nx",
            "~/.bashrc",
            "/proc/self/environ",
        ),
    ]
    with running(Settings(model="demo", media_roots=(allowed,))) as address:
        for path in inside:
            assert look(address, str(path)).status_code == 200, path
        messages = {str(path): refused(look(address, str(path))) for path in beyond}
        assert not any("secret" in m.replace(p, "") for p, m in messages.items())
        # whether something lies out there cannot be told from the answer
        there = messages[str(outside / "secret.png")].partition(": ")[2]
        missing = refused(look(address, str(outside / "missing.png"))).partition(": ")[2]
        assert there == missing
