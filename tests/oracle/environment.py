"""Let torchvision import beside a CPU torch build.

A torchvision wheel built for another torch flavour registers its compiled operators only when its library loads; declaring
the two operators that its Python modules look up is enough for transforms, which is all the oracle uses.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")

import torch

_DECLARED = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)


def prepare() -> None:
    """Declare torchvision's operators where its library did not load, and use one thread. Call before transformers."""
    torch.set_num_threads(1)
    torch.set_grad_enabled(False)
    try:
        import torchvision
    except RuntimeError:
        library = torch.library.Library("torchvision", "DEF")
        for schema in _DECLARED:
            library.define(schema)
        _LIBRARIES.append(library)
        import torchvision  # noqa: F401


_LIBRARIES: list[torch.library.Library] = []
