"""The command vlm: generate, chat, serve, convert, train and measure vision-language models."""

__version__ = "0.1.0"
