"""Reference processors with the sizes that published checkpoints have, over the character tokenizer.

Keys are FAMILY or FAMILY/VARIANT. Each row: a maker, a prompt with one picture, and the token that stands for one feature.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from families import aya_vision as aya_family
from families import deepseek_ocr2 as deepseek_family
from families import florence2 as florence2_family
from families import (
    gemma3,
    gemma3n,
    gemma4,
    glm4v,
    idefics2,
    idefics3,
    internvl,
    llava,
    molmo2,
    paligemma,
    phi4_multimodal,
    pixtral,
    qwen2_vl,
)
from families import paddleocr_vl as paddle_family
from tokenizer import character_tokenizer
from transformers.models import (
    clip,
    deepseek_ocr2,
    florence2,
    gemma4_unified,
    got_ocr2,
    granite4_vision,
    llava_next,
    siglip,
)
from transformers.models import gemma3 as gemma3_reference
from transformers.models import gemma3n as gemma3n_reference
from transformers.models import gemma4 as gemma4_reference
from transformers.models import glm4v as glm4v_reference
from transformers.models import idefics2 as idefics2_reference
from transformers.models import idefics3 as idefics3_reference
from transformers.models import internvl as internvl_reference
from transformers.models import llava as llava_reference
from transformers.models import llava_onevision as onevision_reference
from transformers.models import molmo2 as molmo2_reference
from transformers.models import paligemma as paligemma_reference
from transformers.models import phi4_multimodal as phi4_reference
from transformers.models import pixtral as pixtral_reference
from transformers.models import qwen2_5_vl as qwen2_5_vl_reference
from transformers.models import qwen2_vl as qwen2_vl_reference
from transformers.models import qwen3_vl as qwen3_vl_reference
from transformers.models import smolvlm as smolvlm_reference

HALF = {"image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5]}
QWEN = {"shortest_edge": 3136, "longest_edge": 12845056}
QWEN3 = {"shortest_edge": 65536, "longest_edge": 16777216}
GRANITE = (
    [[384, 384 * n] for n in range(1, 11)]
    + [[768, 384 * n] for n in range(1, 6)]
    + [[1152, 384 * n] for n in (1, 2, 3)]
)
GRANITE += [
    [1536, 384],
    [1536, 768],
    [1920, 384],
    [1920, 768],
    [2304, 384],
    [2688, 384],
    [3072, 384],
    [3456, 384],
    [3840, 384],
]


def tokens(special: list[str], **roles: Any) -> Any:
    """A tokenizer of a family."""
    return character_tokenizer(special, **roles)


def qwen(kind: Any, videos: Any, size: dict[str, int], **changes: Any) -> Callable[[], Any]:
    """Qwen's processors."""
    tokenizer = tokens(qwen2_vl.SPECIAL, eos_token="<|im_end|>", pad_token="<|endoftext|>")
    return lambda: kind(qwen2_vl_reference.Qwen2VLImageProcessorPil(size=size, **changes), tokenizer, videos())


def llama(special: list[str] = llava.SPECIAL) -> Any:
    """A tokenizer with Llama's roles."""
    return tokens(special, bos_token="<s>", eos_token="</s>", unk_token="<unk>", pad_token="<pad>")


def clip_336() -> Any:
    """CLIP's processor of LLaVA 1.5."""
    return clip.CLIPImageProcessorPil(size={"shortest_edge": 336}, crop_size={"height": 336, "width": 336})


def next_336() -> Any:
    """LLaVA-NeXT's processor."""
    return llava_next.LlavaNextImageProcessorPil(size={"shortest_edge": 336}, crop_size={"height": 336, "width": 336})


def next_384() -> Any:
    """Granite Vision's processor."""
    side = {"height": 384, "width": 384}
    return llava_next.LlavaNextImageProcessorPil(
        size=side, crop_size=side, image_grid_pinpoints=GRANITE, do_center_crop=True, **HALF
    )


def gemma(names: dict[str, str], special: list[str]) -> Any:
    """A tokenizer with Gemma's roles."""
    return tokens(special, pad_token="<pad>", eos_token="<eos>", bos_token="<bos>", extra_special_tokens=names)


GEMMA3_NAMES = {"boi_token": "<start_of_image>", "eoi_token": "<end_of_image>", "image_token": "<image_soft_token>"}
INTERNVL_NAMES = {"start_image_token": "<img>", "end_image_token": "</img>", "context_image_token": "<IMG_CONTEXT>"}
INTERNVL_NAMES["video_token"] = "<video>"


def qwen3() -> Callable[[], Any]:
    """Qwen3-VL and Qwen3.5."""
    return qwen(
        qwen3_vl_reference.Qwen3VLProcessor, qwen3_vl_reference.Qwen3VLVideoProcessor, QWEN3, patch_size=16, **HALF
    )


def glm() -> Any:
    """GLM-4V and GLM-OCR."""
    size = {"shortest_edge": 12544, "longest_edge": 9633792}
    pictures = glm4v_reference.Glm4vImageProcessorPil(size=size)
    tokenizer = tokens(glm4v.SPECIAL, eos_token="<|endoftext|>", pad_token="<|endoftext|>")
    return glm4v_reference.Glm4vProcessor(pictures, tokenizer, glm4v_reference.Glm4vVideoProcessor())


def mistral(patch: int, merge: int, side: int) -> Callable[[], Any]:
    """Pixtral and Mistral 3."""
    cell = {"height": patch * merge, "width": patch * merge}
    make = pixtral_reference.PixtralImageProcessorPil
    return lambda: pixtral_reference.PixtralProcessor(
        make(size={"longest_edge": side}, patch_size=cell), llama(pixtral.SPECIAL), patch, merge
    )


def smolvlm() -> Any:
    """SmolVLM2-2.2B."""
    side = {"longest_edge": 384}
    pictures = smolvlm_reference.SmolVLMImageProcessorPil(size={"longest_edge": 1536}, max_image_size=side)
    videos = smolvlm_reference.SmolVLMVideoProcessor(
        size=side, max_image_size=side, video_sampling={"fps": 1, "max_frames": 64, "video_size": side}
    )
    return smolvlm_reference.SmolVLMProcessor(pictures, llama(TILES), videos, image_seq_len=81)


TILES = idefics3.SPECIAL[:8] + [f"<row_{r}_col_{c}>" for r in range(1, 7) for c in range(1, 7)]


def onevision() -> Any:
    """LLaVA-OneVision."""
    tokenizer = tokens(
        ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<image>", "<video>"],
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
    )
    pictures = onevision_reference.LlavaOnevisionImageProcessorPil(**HALF)
    videos = onevision_reference.LlavaOnevisionVideoProcessor(**HALF)
    return onevision_reference.LlavaOnevisionProcessor(pictures, tokenizer, videos, 729, "full")


def intern() -> Any:
    """InternVL 3."""
    tokenizer = tokens(
        internvl.SPECIAL, eos_token="<|im_end|>", pad_token="<|endoftext|>", extra_special_tokens=INTERNVL_NAMES
    )
    side = {"height": 448, "width": 448}
    mean, std = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
    pictures = got_ocr2.GotOcr2ImageProcessorPil(size=side, crop_to_patches=True, image_mean=mean, image_std=std)
    videos = internvl_reference.InternVLVideoProcessor(size=side, image_mean=mean, image_std=std)
    return internvl_reference.InternVLProcessor(pictures, tokenizer, videos, image_seq_length=256)


def gemma_4(reference: Any, prefix: str) -> Callable[[], Any]:
    """Gemma 4, and unified."""
    tokenizer = gemma(gemma4.NAMES, gemma4.SPECIAL)
    make = getattr(reference, f"{prefix}ImageProcessorPil", None) or getattr(reference, f"{prefix}ImageProcessor")
    sounds, videos = getattr(reference, f"{prefix}AudioFeatureExtractor"), getattr(reference, f"{prefix}VideoProcessor")
    return lambda: getattr(reference, f"{prefix}Processor")(sounds(), make(), tokenizer, videos())


def gemma_3n() -> Any:
    """Gemma 3n."""
    pictures = siglip.SiglipImageProcessorPil(size={"height": 768, "width": 768}, do_normalize=False, resample=2)
    sounds = gemma3n_reference.Gemma3nAudioFeatureExtractor()
    return gemma3n_reference.Gemma3nProcessor(sounds, pictures, gemma(gemma3n.NAMES, gemma3n.SPECIAL))


def florence() -> Any:
    """Florence-2."""
    tokenizer = tokens(
        florence2_family.SPECIAL,
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        unk_token="<unk>",
        extra_special_tokens={"image_token": "<image>"},
    )
    side = {"height": 768, "width": 768}
    mean, std = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
    pictures = clip.CLIPImageProcessorPil(
        size=side, crop_size=side, do_center_crop=False, image_mean=mean, image_std=std, image_seq_length=577
    )
    return florence2.Florence2Processor(pictures, tokenizer)


def phi() -> Any:
    """Phi-4 Multimodal."""
    tokenizer = tokens(
        phi4_multimodal.SPECIAL,
        eos_token="<|endoftext|>",
        pad_token="<|endoftext|>",
        extra_special_tokens={"image_token": "<|image|>", "audio_token": "<|audio|>"},
    )
    pictures = phi4_reference.Phi4MultimodalImageProcessor()
    return phi4_reference.Phi4MultimodalProcessor(pictures, phi4_reference.Phi4MultimodalFeatureExtractor(), tokenizer)


def molmo() -> Any:
    """Molmo2."""
    tokenizer = tokens(
        molmo2.SPECIAL,
        eos_token="<|im_end|>",
        bos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        extra_special_tokens={"image_token": "<|image|>", "video_token": "<|video|>"},
    )
    videos = molmo2_reference.Molmo2VideoProcessor(**HALF)
    return molmo2_reference.Molmo2Processor(molmo2_reference.Molmo2ImageProcessor(**HALF), videos, tokenizer)


def pali() -> Any:
    """PaliGemma 224."""
    tokenizer = tokens(
        paligemma.SPECIAL,
        pad_token="<pad>",
        eos_token="<eos>",
        bos_token="<bos>",
        unk_token="<unk>",
        extra_special_tokens={"image_token": "<image>"},
    )
    pictures = siglip.SiglipImageProcessorPil(size={"height": 224, "width": 224}, image_seq_length=256)
    return paligemma_reference.PaliGemmaProcessor(pictures, tokenizer)


def granite4() -> Any:
    """Granite 4.0 Vision with 16-pixel patches, half the side."""
    return granite4_vision.Granite4VisionProcessor(next_384(), llama(), 16, "full", downsample_rate="4/8")


def deepseek() -> Any:
    """DeepSeek-OCR-2."""
    tokenizer = tokens(deepseek_family.SPECIAL, bos_token="<bos>", eos_token="<eos>", pad_token="<pad>")
    return deepseek_ocr2.DeepseekOcr2Processor(deepseek_ocr2.DeepseekOcr2ImageProcessorPil(), tokenizer)


def aya() -> Any:
    """Aya Vision 8b: tiles of 364 pixels, up to 12."""
    pictures = aya_family.GotOcr2ImageProcessorPil(size={"height": 364, "width": 364}, max_patches=12)
    return aya_family.AyaVisionProcessor(
        pictures, llama(aya_family.SPECIAL), patch_size=14, img_size=364, downsample_factor=2
    )


def paddle() -> Any:
    """PaddleOCR-VL."""
    names = {"image_token": "<|IMAGE_PLACEHOLDER|>"}
    tokenizer = tokens(paddle_family.SPECIAL, eos_token="</s>", pad_token="<unk>", extra_special_tokens=names)
    size = {"shortest_edge": 147384, "longest_edge": 2822400}
    return paddle_family.PaddleOCRVLProcessor(paddle_family.PaddleOCRVLImageProcessorPil(size=size), tokenizer)


IMAGE_QWEN = ("<|vision_start|><|image_pad|><|vision_end|>", "<|image_pad|>")
IMAGE = ("<image>\nIt", "<image>")
IMAGE_GLM = ("<|begin_of_image|><|image|><|end_of_image|>", "<|image|>")
QWEN2 = (qwen2_vl_reference.Qwen2VLProcessor, qwen2_vl_reference.Qwen2VLVideoProcessor, QWEN)
QWEN25 = (qwen2_5_vl_reference.Qwen2_5_VLProcessor, qwen2_vl_reference.Qwen2VLVideoProcessor, QWEN)
IDEFICS2 = idefics2_reference.Idefics2ImageProcessorPil
IDEFICS3 = idefics3_reference.Idefics3ImageProcessorPil
SPLIT = {"size": {"longest_edge": 980, "shortest_edge": 378}, "do_image_splitting": True}

TABLE: dict[str, tuple[Callable[[], Any], str, str]] = {
    "qwen2_vl": (qwen(*QWEN2), *IMAGE_QWEN),
    "qwen2_5_vl": (qwen(*QWEN25), *IMAGE_QWEN),
    "qwen3_vl": (qwen3(), *IMAGE_QWEN),
    "qwen3_5": (qwen3(), *IMAGE_QWEN),
    "llava": (
        lambda: llava_reference.LlavaProcessor(clip_336(), llama(), 14, "default", num_additional_image_tokens=1),
        *IMAGE,
    ),
    "llava_next": (
        lambda: llava_next.LlavaNextProcessor(next_336(), llama(), 14, "default", num_additional_image_tokens=1),
        *IMAGE,
    ),
    "llava_next/granite": (lambda: llava_next.LlavaNextProcessor(next_384(), llama(), 14, "full"), *IMAGE),
    "gemma3": (
        lambda: gemma3_reference.Gemma3Processor(
            gemma3_reference.Gemma3ImageProcessorPil(size={"height": 896, "width": 896}, **HALF),
            gemma(GEMMA3_NAMES, gemma3.SPECIAL),
        ),
        "<start_of_image>",
        "<image_soft_token>",
    ),
    "paligemma": (pali, "<image>it", "<image>"),
    "idefics2": (
        lambda: idefics2_reference.Idefics2Processor(IDEFICS2(**SPLIT), llama(idefics2.SPECIAL)),
        *IMAGE,
    ),
    "idefics3": (
        lambda: idefics3_reference.Idefics3Processor(
            IDEFICS3(size={"longest_edge": 1456}, max_image_size={"longest_edge": 364}), llama(TILES), 169
        ),
        *IMAGE,
    ),
    "smolvlm": (smolvlm, *IMAGE),
    "pixtral": (mistral(16, 1, 1024), "[IMG]it", "[IMG]"),
    "mistral3": (mistral(14, 2, 1540), "[IMG]it", "[IMG]"),
    "llava_onevision": (onevision, *IMAGE),
    "internvl": (intern, "<IMG_CONTEXT>\nIt", "<IMG_CONTEXT>"),
    "glm4v": (glm, *IMAGE_GLM),
    "glm_ocr": (glm, *IMAGE_GLM),
    "gemma3n": (gemma_3n, "<image_soft_token>", "<image_soft_token>"),
    "gemma4": (gemma_4(gemma4_reference, "Gemma4"), "<|image|>", "<|image|>"),
    "gemma4_unified": (gemma_4(gemma4_unified, "Gemma4Unified"), "<|image|>", "<|image|>"),
    "florence2": (florence, "<CAPTION>", "<image>"),
    "granite4_vision": (granite4, *IMAGE),
    "deepseek_ocr2": (deepseek, *IMAGE),
    "phi4_multimodal": (phi, "<|image|>it", "<|image|>"),
    "aya_vision": (aya, "<image>\nIt", "<|IMG_PATCH|>"),
    "paddleocr_vl": (paddle, "<|IMAGE_START|><|IMAGE_PLACEHOLDER|><|IMAGE_END|>", "<|IMAGE_PLACEHOLDER|>"),
    "molmo2": (molmo, "<|image|>it", "<im_patch>"),
}
