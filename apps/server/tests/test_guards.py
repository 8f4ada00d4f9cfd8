"""Safe by default: keys, sizes, hosts, hostile bodies."""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest
from starlette.testclient import TestClient

from vlm_server import Settings, SettingsError, create_app
from vlm_server.testing import Running, running


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.4", "example.org"])
def test_a_public_bind_needs_a_key_or_an_explicit_no(host: str) -> None:
    with pytest.raises(SettingsError, match="--api-key"):
        Settings(host=host)
    Settings(host=host, api_key="k")
    Settings(host=host, no_auth=True)


def test_every_route_but_health_wants_the_key() -> None:
    app = create_app(Settings(api_key="secret"))
    paths = app.openapi()["paths"]
    routes = [(f"{base}{path}", method.upper()) for base in ("", "/v1") for path in paths for method in paths[path]]
    assert len(routes) >= 20
    with TestClient(app) as client:
        for path, method in [*routes, ("/docs", "GET"), ("/openapi.json", "GET"), ("/nowhere", "GET")]:
            path = path.replace("{name}", "demo")
            for headers in ({}, {"authorization": "Bearer wrong"}, {"x-api-key": "wrong"}):
                status = client.request(method, path, headers=headers).status_code
                assert status == (200 if path.endswith("/health") else 401), (path, method)
        assert client.get("/models", headers={"authorization": "Bearer secret"}).status_code == 200
        assert client.get("/models", headers={"x-api-key": "secret"}).status_code == 200


def test_health_without_the_key_says_nothing_private(checkpoint: Path) -> None:
    with running(Settings(model=str(checkpoint), api_key="secret")) as url:
        reply = httpx.get(f"{url}/health")
        assert (
            reply.json() == {"status": "ok", "models": [checkpoint.name]} and str(checkpoint.parent) not in reply.text
        )
        rows = httpx.get(f"{url}/models", headers={"authorization": "Bearer secret"}).json()["data"]
        assert rows[0]["id"] == str(checkpoint)


def test_no_cors_unless_asked() -> None:
    with TestClient(create_app(Settings())) as client:
        reply = client.get("/health", headers={"origin": "http://evil.example"})
        assert "access-control-allow-origin" not in reply.headers


@pytest.mark.parametrize(
    "body",
    [
        b"{",
        b"\xff\xfe\xfd",
        b"[" * 100_000,
        b'{"messages": ' + b"[" * 50_000 + b"]" * 50_000 + b"}",
        b'{"messages": []}',
        b'{"messages": [{"role": "user"}], "n": 1e400}',
        b'{"messages": [{"role": "wizard", "content": "a"}]}',
        b'{"messages": [{"role": "user", "content": [{"type": "input_image"}]}]}',
        b'{"model": "no/such\\r\\nmodel", "messages": [{"role": "user", "content": "a"}]}',
    ],
    ids=range(9),
)
def test_hostile_bodies_are_4xx(server: Running, body: bytes) -> None:
    reply = httpx.post(f"{server.url}/v1/chat/completions", content=body, headers={"content-type": "application/json"})
    assert 400 <= reply.status_code < 500, reply.text
    assert reply.json()["error"]["message"]
    assert httpx.get(f"{server.url}/health").status_code == 200


def test_a_large_body_is_refused_declared_or_not(checkpoint: Path) -> None:
    with running(Settings(model=str(checkpoint), max_body_bytes=10_000)) as url:
        headers = {"content-type": "application/json"}
        big = b'{"messages": [{"role": "user", "content": "' + b"a" * 20_000 + b'"}]}'
        assert httpx.post(f"{url}/generate", content=big, headers=headers).status_code == 413
        chunks = (big[i : i + 4096] for i in range(0, len(big), 4096))
        assert httpx.post(f"{url}/generate", content=chunks, headers=headers).status_code == 413


def test_local_media_only_under_the_allowed_folder(checkpoint: Path, picture: Path, tmp_path: Path) -> None:
    allowed = tmp_path / "allowed"
    allowed.mkdir()
    (allowed / "in.png").write_bytes(picture.read_bytes())
    (allowed / "link.png").symlink_to(picture)
    with running(Settings(model=str(checkpoint), media_roots=(allowed,))) as url:
        for path, status in (
            (allowed / "in.png", 200),
            (allowed / "link.png", 400),
            (picture, 400),
            (allowed / ".." / "allowed" / ".." / picture.name, 400),
        ):
            content = [{"type": "image_url", "image_url": {"url": str(path)}}]
            body = {"messages": [{"role": "user", "content": content}], "max_tokens": 1}
            assert httpx.post(f"{url}/generate", json=body).status_code == status, path


def test_unknown_models_are_404_and_nothing_is_downloaded(checkpoint: Path) -> None:
    with running(Settings(allow_downloads=False)) as url:
        body = {"messages": [{"role": "user", "content": "a"}], "max_tokens": 1}
        assert httpx.post(f"{url}/generate", json=body).status_code == 400
        assert httpx.post(f"{url}/generate", json={**body, "model": "no/such"}).status_code == 404
        assert httpx.post(f"{url}/generate", json={**body, "model": str(checkpoint)}).status_code == 200
        assert httpx.get(f"{url}/models").json()["data"][0]["id"] == str(checkpoint)
        assert httpx.post(f"{url}/unload", json={"model": str(checkpoint)}).json()["unloaded"] == [str(checkpoint)]
        assert httpx.post(f"{url}/unload", json={"model": str(checkpoint)}).status_code == 404
        assert httpx.get(f"{url}/ready").status_code == 200
        assert "vlm_requests_total" in httpx.get(f"{url}/metrics").text


def test_documented_requests(server: Running, picture: Path) -> None:
    """The requests that existing users send, word for word but for names."""
    chart = {"type": "input_image", "image_url": str(picture)}
    system = {"role": "system", "content": "You are a helpful assistant."}
    user = {"role": "user", "content": [{"type": "text", "text": "Analyse this chart."}, chart]}
    body = {"model": server.model, "messages": [system, user], "stream": True, "max_tokens": 4}
    streamed = httpx.post(f"{server.url}/chat/completions", json=body).text
    assert streamed.endswith("data: [DONE]\n\n")
    content = [{"type": "input_text", "text": "What is in this image?"}, chart]
    body = {"model": server.model, "messages": [{"role": "user", "content": content}], "max_tokens": 4}
    reply = httpx.post(f"{server.url}/responses", json=body)
    assert reply.status_code == 200 and reply.json()["output"][-1]["content"][0]["text"]
