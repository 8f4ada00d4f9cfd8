"""The requests that users of such servers send today, by curl, word for word but for model, address and file names."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import soundfile

from vlm_models.testing import golden
from vlm_runtime.media.fetch import SystemNetwork
from vlm_server import Settings
from vlm_server.testing import running

from .conftest import GOLDENS
from .test_sources import PUBLIC, Site

pytestmark = pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")


@dataclass(frozen=True)
class Place:
    """Where the server is, its model, and a folder with chart.png, a.jpg and a.wav."""

    url: str
    model: str
    folder: Path


@pytest.fixture(scope="module")
def hearing(tmp_path_factory: pytest.TempPathFactory, picture: Path) -> Iterator[Place]:
    """A tiny checkpoint that sees and hears."""
    folder = tmp_path_factory.mktemp("media")
    for name in ("chart.png", "a.jpg"):
        shutil.copy(picture, folder / name)
    sound = np.sin(np.arange(16_000) / 10).astype(np.float32)
    soundfile.write(folder / "a.wav", sound, 16_000)
    soundfile.write(folder / "b.mp3", sound, 16_000)
    source = next(found for found in golden.find(GOLDENS, "gemma4") if found.folder.name == "e")
    checkpoint = golden.materialise(source, tmp_path_factory.mktemp("checkpoint"), "hub")
    config = json.loads((checkpoint / "config.json").read_text())
    config["text_config"]["max_position_embeddings"] = 4096
    (checkpoint / "config.json").write_text(json.dumps(config))
    with running(Settings(model=str(checkpoint))) as url:
        yield Place(url, str(checkpoint), folder)


@pytest.fixture
def host(hearing: Place, monkeypatch: pytest.MonkeyPatch) -> str:
    """`host` serves b.mp3 as the public internet would; TLS is not the server's part."""
    from http.server import ThreadingHTTPServer
    from threading import Thread

    class Sounds(Site):
        def do_GET(self) -> None:
            self._send(200, (hearing.folder / "b.mp3").read_bytes())

    server = ThreadingHTTPServer(("127.0.0.1", 0), Sounds)
    Thread(target=server.serve_forever, daemon=True).start()
    connect = SystemNetwork.connect
    monkeypatch.setattr(SystemNetwork, "resolve", lambda *_: [PUBLIC])
    monkeypatch.setattr(
        SystemNetwork,
        "connect",
        lambda self, _, __, timeout: connect(self, "127.0.0.1", server.server_address[1], timeout),
    )
    yield "http://host"  # type: ignore[misc]
    server.shutdown()
    server.server_close()


def curl(place: Place, path: str, body: str | None = None, *, host: str = "") -> str:
    """What curl prints for a request of the documentation."""
    command = ["curl", "-sS", "--fail-with-body", "--max-time", "60", f"{place.url}{path}"]
    if body is not None:
        filled = body.replace('"model": M', f'"model": "{place.model}"').replace("/path/", f"{place.folder}/")
        command += ["-X", "POST", "-H", "Content-Type: application/json", "-d", filled.replace("https://host", host)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def pieces(streamed: str) -> list[dict]:
    lines = [line[6:] for line in streamed.splitlines() if line.startswith("data: ")]
    assert lines[-1] == "[DONE]"
    return [json.loads(line) for line in lines[:-1]]


@pytest.mark.parametrize("base", ["", "/v1"])
def test_models(hearing: Place, base: str) -> None:
    rows = json.loads(curl(hearing, f"{base}/models"))["data"]
    assert rows[0]["id"] == hearing.model and rows[0]["resident"]


@pytest.mark.parametrize("base", ["", "/v1"])
def test_chat(hearing: Place, base: str) -> None:
    body = '{"model": M, "messages": [{"role": "user", "content": "Hello, how are you"}], "stream": true, "max_tokens": 100}'
    events = pieces(curl(hearing, f"{base}/chat/completions", body))
    assert events[0]["choices"][0]["delta"]["role"] == "assistant"
    assert events[-1]["choices"][0]["finish_reason"] in ("stop", "length")


def test_chat_about_a_chart(hearing: Place) -> None:
    body = """{"model": M, "messages": [{"role": "system", "content": "You are a helpful assistant."}, {"role": "user", "content":
     [{"type": "text", "text": "Analyse this chart."}, {"type": "input_image", "image_url": "/path/chart.png"}]}],
     "stream": true, "max_tokens": 1000}"""
    assert pieces(curl(hearing, "/chat/completions", body))[-1]["choices"][0]["finish_reason"]


def test_two_sounds(hearing: Place, host: str) -> None:
    body = """{"model": M, "messages": [{"role": "user", "content": [{"type": "text", "text": "Describe what you hear"},
     {"type": "input_audio", "input_audio": "/path/a.wav"}, {"type": "input_audio", "input_audio": "https://host/b.mp3"}]}],
     "stream": true, "max_tokens": 500}"""
    assert pieces(curl(hearing, "/generate", body, host=host))[-1]["choices"][0]["finish_reason"]
    one = body.replace(', {"type": "input_audio", "input_audio": "https://host/b.mp3"}', "").replace("true", "false")
    both = json.loads(curl(hearing, "/generate", body.replace("true", "false"), host=host))["usage"]["prompt_tokens"]
    assert both > json.loads(curl(hearing, "/generate", one))["usage"]["prompt_tokens"] + 10


def test_a_picture_and_a_sound(hearing: Place) -> None:
    body = """{"model": M, "messages": [{"role": "user", "content": [{"type": "input_image", "image_url": "/path/a.jpg"},
     {"type": "input_audio", "input_audio": "/path/a.wav"}]}], "max_tokens": 100}"""
    reply = json.loads(curl(hearing, "/generate", body))
    assert reply["object"] == "chat.completion" and reply["usage"]["completion_tokens"] >= 1


def test_responses_with_messages(hearing: Place) -> None:
    body = """{"model": M, "messages": [{"role": "user", "content": [{"type": "input_text", "text": "What is in this image?"},
     {"type": "input_image", "image_url": "/path/a.jpg"}]}], "max_tokens": 100}"""
    reply = json.loads(curl(hearing, "/responses", body))
    assert reply["object"] == "response" and reply["output"][-1]["content"][0]["type"] == "output_text"
    assert reply["usage"]["output_tokens"] >= 1
