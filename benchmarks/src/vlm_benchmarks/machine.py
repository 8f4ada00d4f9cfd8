"""What a result was measured on."""

from __future__ import annotations

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import mlx.core as mx

from vlm_kernels import backends

PACKAGES = ("mlx", "vlm-kernels", "vlm-models", "vlm-runtime")


def machine() -> dict[str, Any]:
    """Processor, device, cores this process may use, memory, versions, kernels."""
    device = mx.default_device()
    info = mx.device_info(device)
    return {
        "system": platform.platform(),
        "python": platform.python_version(),
        "device": str(device),
        "device_name": str(info.get("device_name", platform.processor())),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "versions": {name: _version(name) for name in PACKAGES},
        "kernels": str(backends().native),
    }


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
