"""Run kernel text without the device: Metal and CUDA dialects as C++ on the CPU, for tests.

Metal text cannot be compiled without a Mac; here its algorithm is executed with Metal's limits (32 KB of threadgroup
memory, 1024 threads, no double, no std::), barriers and SIMD-group operations included. A pass says: algorithm verified,
compilation unverified.
"""

from __future__ import annotations

from .kernel import compiler, cuda_kernel, metal_kernel

__all__ = ["compiler", "cuda_kernel", "metal_kernel"]
