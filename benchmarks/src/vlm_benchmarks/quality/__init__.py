"""What quantizing a key-value cache costs in accuracy: distortion, inner products, attention; TurboQuant beside uniform.

`python -m vlm_benchmarks.quality FOLDER` writes `kv-quality.json`, `kv-quality.md` and `kv-quality.png`.
"""

from __future__ import annotations

from .attention import attention_rows
from .distortion import distortion_rows, inner_product_rows
from .report import plot, tables

__all__ = ["attention_rows", "distortion_rows", "inner_product_rows", "plot", "tables"]
