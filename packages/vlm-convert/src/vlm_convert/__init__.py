"""Convert, quantize and verify vision-language checkpoints on MLX."""

from __future__ import annotations

from vlm_kernels import QQLinear

from .convert import Conversion, convert
from .errors import ConvertError, RecipeError
from .plan import Plan
from .verify import Comparison, verify

__version__ = "0.1.0"

__all__ = ["Comparison", "Conversion", "ConvertError", "Plan", "QQLinear", "RecipeError", "convert", "verify"]
