"""A small vision-language model in ordinary Hugging Face layout, for trying things without a download."""

__version__ = "0.1.0"
