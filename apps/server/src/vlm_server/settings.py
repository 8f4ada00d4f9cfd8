"""What a server is started with, checked before anything is opened."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vlm_kernels.errors import VlmError

MEBI = 1 << 20


class SettingsError(VlmError, ValueError):
    """The server was asked to start in a way it refuses."""


@dataclass(frozen=True)
class Settings:
    """model: loaded at the start and used where a request names none. api_key: asked of every route but /health.

    allow_downloads: whether a request may fetch a model from the hub; None: only on a loopback bind.
    media_roots: folders whose files clients may name; empty: any readable file on a loopback bind, none elsewhere.
    options: generation options for requests that do not set them (kv_bits...). max_resident_bytes: weights of all loaded
    models together; None: no limit. pinned: models that stay once they are loaded. model_ttl: seconds after which an unused
    model goes; None: never. drain_seconds: how long an unload waits for answers in flight.
    """

    model: str | None = None
    adapter_path: str | None = None
    trust_remote_code: bool = False
    host: str = "127.0.0.1"
    port: int = 8080
    api_key: str | None = None
    no_auth: bool = False
    allow_downloads: bool | None = None
    media_roots: tuple[Path, ...] = ()
    allow_urls: bool = True
    allow_request_adapters: bool = False
    cors_origins: tuple[str, ...] = ()
    max_body_bytes: int = 64 * MEBI
    max_resident_bytes: int | None = None
    pinned: tuple[str, ...] = ()
    model_ttl: float | None = None
    drain_seconds: float = 30.0
    stored_responses: int = 256
    options: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.api_key is not None and not self.api_key.strip():
            raise SettingsError("api_key: expected a non-empty key")
        if not self.is_loopback and self.api_key is None and not self.no_auth:
            raise SettingsError(
                f"host {self.host} can be reached from other machines; give --api-key, or --no-auth to go without"
            )
        if self.model_ttl is not None and self.model_ttl <= 0:
            raise SettingsError(f"model_ttl: expected seconds above 0, got {self.model_ttl:g}")
        if not 0 <= self.port <= 65535:
            raise SettingsError(f"port: expected 0 to 65535, got {self.port}")

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can connect."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False

    @property
    def downloads(self) -> bool:
        return self.is_loopback if self.allow_downloads is None else self.allow_downloads
