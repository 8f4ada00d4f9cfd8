"""Load vision-language models and generate with them: engine, caches, media, Python API."""

__version__ = "0.1.0"
