"""Operations and kernels for vision-language models on MLX: quantized matmul, attention, TurboQuant."""

__version__ = "0.1.0"
