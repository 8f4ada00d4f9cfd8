"""Run kernel text without the device: Metal and CUDA dialects as C++ on the CPU, for tests.

Metal text cannot be compiled without a Mac; here its algorithm is executed with Metal's limits (32 KB of threadgroup
memory, 1024 threads, no double, no std::), barriers and SIMD-group operations included. `address_space_kernel` checks the
address spaces, which C++ does not know. A pass of both says: algorithm verified, compilation unverified.
"""

from __future__ import annotations

from .address_spaces import address_space_kernel, front_end
from .kernel import compiler, cuda_kernel, metal_kernel

__all__ = ["address_space_kernel", "compiler", "cuda_kernel", "front_end", "metal_kernel"]
