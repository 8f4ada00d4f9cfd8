"""A small vision-language model in ordinary Hugging Face layout, for trying things without a download."""

from __future__ import annotations

from pathlib import Path

__all__ = ["path"]
__version__ = "0.1.0"


def path() -> Path:
    """Folder of the demo checkpoint: config, tokenizer, chat template, preprocessor and weights."""
    return Path(__file__).resolve().parent / "model"
