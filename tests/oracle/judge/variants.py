"""The configurations that are judged: heads, ties, biases, feature layers, rotary kinds, windows, patches, experts, backbones."""

from __future__ import annotations

from gemma_like import gemma
from llava_like import idefics, llava, llava_next, llava_onevision, pixtral_like
from newer import newer
from others import internvl, others
from qwen_like import glm, qwen
from variant import Variant

VARIANTS: list[Variant] = [
    *llava(),
    *llava_next(),
    *llava_onevision(),
    *pixtral_like(),
    *idefics(),
    *qwen(),
    *glm(),
    *gemma(),
    *internvl(),
    *others(),
    *newer(),
]
