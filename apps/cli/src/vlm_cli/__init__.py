"""The command vlm: generate with, serve, convert, train and measure vision-language models."""

from __future__ import annotations

__version__ = "0.1.0"
