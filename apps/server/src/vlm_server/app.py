"""The application: routes, guards, errors, metrics."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from fastapi import APIRouter, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.middleware.cors import CORSMiddleware
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, Response

from vlm_kernels.errors import VlmError
from vlm_runtime import cached_models

from . import messages, responses
from .chat import chat
from .errors import ApiError, as_api_error, from_validation
from .fields import ChatBody, CountBody, MessagesBody, ResponsesBody, UnloadBody
from .guard import BodyGuard, KeyGuard, is_anthropic
from .metrics import Metrics
from .residents import Residents
from .settings import Settings

WORKERS = 64

log = logging.getLogger("vlm_server")


def create_app(settings: Settings) -> FastAPI:
    """The server as an ASGI application. Raises SettingsError for settings it refuses."""
    registry = CollectorRegistry()
    residents = Residents(settings)
    store = responses.ResponseStore(settings.stored_responses)
    metrics = Metrics(registry, residents)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        # the default executor has few threads: some slow URLs would hold up everyone
        asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(WORKERS, "vlm-worker"))
        if settings.model is not None:
            (await residents.acquire(settings.model)).leave()
        sweeping = asyncio.create_task(residents.sweep())
        app.state.is_ready = True
        yield
        app.state.is_ready = False
        sweeping.cancel()
        await residents.close()

    app = FastAPI(title="vlm server", lifespan=lifespan)
    app.state.is_ready, app.state.residents = False, residents
    router = _routes(residents, store, registry)
    app.include_router(router)
    app.include_router(router, prefix="/v1", include_in_schema=False)
    _handle_errors(app)
    app.middleware("http")(_timed(metrics))
    if settings.cors_origins:
        app.add_middleware(
            CORSMiddleware, allow_origins=list(settings.cors_origins), allow_methods=["*"], allow_headers=["*"]
        )
    app.add_middleware(BodyGuard, max_bytes=settings.max_body_bytes)
    if settings.api_key is not None:
        app.add_middleware(KeyGuard, api_key=settings.api_key)
    return app


def _routes(residents: Residents, store: responses.ResponseStore, registry: CollectorRegistry) -> APIRouter:
    router = APIRouter()
    allows_adapters = residents.settings.allow_request_adapters

    def checked(adapter_path: str | None) -> None:
        if adapter_path is not None and not allows_adapters:
            raise ApiError(400, "adapter_path: this server does not let requests name adapters", param="adapter_path")

    @router.post("/chat/completions")
    async def chat_completions(body: ChatBody, request: Request) -> Response:
        checked(body.adapter_path)
        return await chat(body, request, residents)

    @router.post("/generate")
    async def generate(body: ChatBody, request: Request) -> Response:
        checked(body.adapter_path)
        return await chat(body, request, residents)

    @router.post("/responses")
    async def create_response(body: ResponsesBody, request: Request) -> Response:
        checked(body.adapter_path)
        return await responses.respond(body, request, residents, store)

    @router.post("/messages")
    async def create_message(body: MessagesBody, request: Request) -> Response:
        checked(body.adapter_path)
        return await messages.answer(body, request, residents)

    @router.post("/messages/count_tokens")
    async def count_tokens(body: CountBody) -> Response:
        checked(body.adapter_path)
        return await messages.count(body, residents)

    @router.get("/models")
    async def models() -> dict[str, Any]:
        rows = [_model(r.name, r.created, is_resident=True) for r in residents.all]
        names = {row["id"] for row in rows}
        rows += [_model(name, 0, is_resident=False) for name, _ in cached_models() if name not in names]
        return {"object": "list", "data": rows}

    @router.get("/models/{name:path}")
    async def model(name: str) -> dict[str, Any]:
        for row in (await models())["data"]:
            if row["id"] == name:
                return dict(row)
        raise ApiError(404, f"model: {name} is not here", param="model", code="model_not_found")

    @router.get("/health")
    async def health() -> dict[str, Any]:
        names = [resident.name for resident in residents.all]
        if residents.settings.api_key is not None:
            # whoever has no key learns what a model is called, not where it lies
            names = [Path(name).name if Path(name).is_absolute() else name for name in names]
        return {"status": "ok", "models": names}

    @router.get("/ready")
    async def ready(request: Request) -> Response:
        is_ready = bool(request.app.state.is_ready)
        return JSONResponse({"status": "ready" if is_ready else "starting"}, 200 if is_ready else 503)

    @router.post("/unload")
    async def unload(body: UnloadBody | None = None) -> dict[str, Any]:
        return {"status": "ok", "unloaded": await residents.unload(body.model if body else None)}

    @router.get("/metrics")
    async def show_metrics() -> Response:
        return Response(generate_latest(registry), media_type=CONTENT_TYPE_LATEST)

    return router


def _model(name: str, created: int, *, is_resident: bool) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": created, "owned_by": "local", "resident": is_resident}


def _handle_errors(app: FastAPI) -> None:
    def told(request: Request, error: ApiError) -> Response:
        return JSONResponse(error.body(is_anthropic=is_anthropic(request.url.path)), error.status)

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> Response:
        return told(request, from_validation(error.errors()))

    @app.exception_handler(VlmError)
    async def named(request: Request, error: VlmError) -> Response:
        return told(request, as_api_error(error))

    @app.exception_handler(HTTPException)
    async def http(request: Request, error: HTTPException) -> Response:
        return told(request, ApiError(error.status_code, str(error.detail)))

    @app.exception_handler(Exception)
    async def unforeseen(request: Request, error: Exception) -> Response:
        log.exception("a request failed", exc_info=error)
        return told(request, as_api_error(error))


def _timed(metrics: Metrics) -> Callable[[Request, Callable[[Request], Awaitable[Response]]], Awaitable[Response]]:
    async def timed(request: Request, call: Callable[[Request], Awaitable[Response]]) -> Response:
        started = time.perf_counter()
        response = await call(request)
        seconds = time.perf_counter() - started
        route = request.scope.get("route")
        path = getattr(route, "path", "unknown").removeprefix("/v1")
        metrics.requests.labels(request.method, path, str(response.status_code)).inc()
        metrics.seconds.labels(path).observe(seconds)
        log.info("%s %s %d %.3fs", request.method, path, response.status_code, seconds)
        return response

    return timed
