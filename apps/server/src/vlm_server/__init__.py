"""HTTP serving of vision-language models: OpenAI and Anthropic compatible."""

from __future__ import annotations

from .app import create_app
from .settings import Settings, SettingsError

__version__ = "0.1.0"

__all__ = ["Settings", "SettingsError", "create_app"]
