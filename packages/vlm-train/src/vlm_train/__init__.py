"""Train and fine-tune vision-language models on MLX."""

__version__ = "0.1.0"
