"""Vision-language model architectures and torch-free processing on MLX."""

__version__ = "0.1.0"
