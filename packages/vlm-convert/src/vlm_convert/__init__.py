"""Convert, quantize and verify vision-language checkpoints on MLX."""

__version__ = "0.1.0"
