"""Florence-2's prompts, tasks and answers: task tokens become sentences, answers with places become boxes and polygons."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from ..core.family import TokenTable
from ..core.inputs import MediaItem, MediaKind, Prompt
from ..errors import PlaceholderError, ProcessingError
from .base import MediaOptions, Processing
from .image.fixed import FixedStrategy, reshaped

BINS = 1000
# task -> sentence, and how its answer is read
ALONE = {
    "<OCR>": "What is the text in the image?",
    "<OCR_WITH_REGION>": "What is the text in the image, with regions?",
    "<CAPTION>": "What does the image describe?",
    "<DETAILED_CAPTION>": "Describe in detail what is shown in the image.",
    "<MORE_DETAILED_CAPTION>": "Describe with a paragraph what is shown in the image.",
    "<OD>": "Locate the objects with category name in the image.",
    "<DENSE_REGION_CAPTION>": "Locate the objects in the image, with their descriptions.",
    "<REGION_PROPOSAL>": "Locate the region proposals in the image.",
}
WITH_INPUT = {
    "<CAPTION_TO_PHRASE_GROUNDING>": "Locate the phrases in the caption: {input}",
    "<REFERRING_EXPRESSION_SEGMENTATION>": "Locate {input} in the image with mask",
    "<REGION_TO_SEGMENTATION>": "What is the polygon mask of region {input}",
    "<OPEN_VOCABULARY_DETECTION>": "Locate {input} in the image.",
    "<REGION_TO_CATEGORY>": "What is the region {input}?",
    "<REGION_TO_DESCRIPTION>": "What does the region {input} describe?",
    "<REGION_TO_OCR>": "What text is in the region {input}?",
}
_BORDER = "\x00"
_PLACE = re.compile("<\x00?l\x00?o\x00?c\x00?_\x00?(?:\\d\x00?)+>")
_BOX = re.compile(r"<loc_(\d+)><loc_(\d+)><loc_(\d+)><loc_(\d+)>")
_QUAD = r"(.+?)" + r"<loc_(\d+)>" * 8
_LABEL = re.compile(r"^\s*(.*?)(?=</?od>|</?box>|</?bbox>|<loc_|<poly>)")


def sentence(text: str) -> str:
    """What the model is asked: a task's sentence, or the text itself. Raises ProcessingError for a task with a stray word."""
    plain = text.replace(_BORDER, "")
    for task, asked in ALONE.items():
        if task in plain:
            if plain.strip() != task:
                raise ProcessingError(f"the task {task} takes no words of its own; got {plain!r}")
            return asked
    for task, asked in WITH_INPUT.items():
        if task in text:
            return asked.format(input=text.replace(task, "").strip())
    return text


class FlorencePictures(Processing):
    """One picture, always in front of the text, then <s> sentence </s>. The encoder reads it all; the decoder starts alone."""

    unpack_names = frozenset({"pixel_values"})

    def __init__(
        self,
        image_token: int,
        strategy: FixedStrategy,
        count: Callable[[int, int], int],
        start: int,
        processor: Mapping[str, Any],
        table: TokenTable | None = None,
    ) -> None:
        """count: tokens of a picture of height x width pixels. start: the decoder's first token. processor:
        processor_config.json, which may tune how answers are read."""
        super().__init__(table)
        self.token_ids: dict[MediaKind, int] = {"image": image_token}
        self.strategy, self.count, self.start = strategy, count, start
        self.reading: Mapping[str, Any] = processor.get("post_processor_config") or {}

    def image(self, rgb: np.ndarray, options: MediaOptions) -> MediaItem:
        return self._item(self.strategy(reshaped(rgb, options)))

    def unpack(self, arrays: Mapping[str, np.ndarray]) -> list[MediaItem]:
        return [self._item(picture) for picture in arrays.get("pixel_values", ())]

    def _item(self, picture: np.ndarray) -> MediaItem:
        count = self.count(picture.shape[1], picture.shape[2])
        return MediaItem("image", {"pixels": picture[None]}, count)

    def placeholder(self, kind: MediaKind) -> str:
        return "<image>" if kind == "image" else super().placeholder(kind)

    @property
    def _knows_image(self) -> bool:
        """Whether the tokenizer has a token for features; the original repository's has none, and they are put in front."""
        return self.table is not None and self.table.id("<image>") is not None

    def expand(self, pieces: Sequence[str], items: Sequence[MediaItem]) -> list[str]:
        """The picture's run, then the sentence between <s> and </s>. Places (<loc_12>) are tokens wherever they stand."""
        self.in_order(pieces, items)
        text = _PLACE.sub(lambda match: match.group().replace(_BORDER, ""), _BORDER.join(pieces))
        body = sentence(re.sub(r"<image>|</?s>", "", text))
        run = "<image>" * items[0].num_tokens if items and self._knows_image else ""
        return f"{run}<s>{body}</s>".split(_BORDER)

    def in_order(self, pieces: Sequence[str], items: Sequence[MediaItem]) -> list[MediaItem]:
        """A prompt need not name its picture. Raises PlaceholderError for several, or for one that was not given."""
        named = sum(piece.count("<image>") for piece in pieces)
        if len(items) > 1 or named > len(items):
            raise PlaceholderError(f"Florence-2 takes one image; the prompt names {named} and {len(items)} were given")
        return list(items)

    def prompt(self, tokens: Sequence[int] | np.ndarray, items: Sequence[MediaItem]) -> Prompt:
        ids = np.asarray(tokens, dtype=np.int32)
        image = self.token_ids["image"]
        if items and not (ids == image).any():
            ids = np.concatenate([np.full(items[0].num_tokens, image, np.int32), ids])
        context = super().prompt(ids, items)
        return Prompt(np.array([self.start], np.int32), np.zeros((1, 1), np.int32), context=context)

    def parse(self, answer: str, task: str, width: int, height: int) -> Any:
        """An answer to `task` about a picture of that size: text, or a dictionary of boxes, polygons and labels in pixels.

        The keys are those of the reference: bboxes, labels, quad_boxes, polygons, bboxes_labels, polygons_labels."""
        text = re.sub(r"<pad>|</?s>", "", answer)
        size = (width, height)
        match task:
            case "<OD>" | "<DENSE_REGION_CAPTION>" | "<REGION_PROPOSAL>":
                pairs = list(boxes(text, size, labelled=task != "<REGION_PROPOSAL>"))
                return {"bboxes": [box for _, box in pairs], "labels": [label for label, _ in pairs]}
            case "<CAPTION_TO_PHRASE_GROUNDING>":
                banned = set(self.reading.get("phrase_grounding", {}).get("banned_grounding_tokens", ()))
                pairs = list(boxes(text, size, banned=banned))
                return {"bboxes": [box for _, box in pairs], "labels": [label for label, _ in pairs]}
            case "<OCR_WITH_REGION>":
                how = self.reading.get("ocr", {})
                quads = list(quad_boxes(text, size, how.get("PATTERN") or _QUAD, how.get("AREA_THRESHOLD", 0.0)))
                return {"quad_boxes": [quad for _, quad in quads], "labels": [label for label, _ in quads]}
            case "<REFERRING_EXPRESSION_SEGMENTATION>" | "<REGION_TO_SEGMENTATION>":
                found = list(polygons(text, size, labelled=False))
                return {"polygons": [shape for _, shape in found], "labels": [label for label, _ in found]}
            case "<OPEN_VOCABULARY_DETECTION>":
                outlines = list(polygons(text, size)) if "<poly>" in text else []
                pairs = [] if "<poly>" in text else list(boxes(text, size))
                return {
                    "bboxes": [box for _, box in pairs],
                    "bboxes_labels": [label for label, _ in pairs],
                    "polygons": [shape for _, shape in outlines],
                    "polygons_labels": [label for label, _ in outlines],
                }
        return text.strip()


def pixels_of(bins: Sequence[str | int], size: tuple[int, int]) -> list[int]:
    """Alternating x and y bins as pixels: the middle of each bin, rounded down."""
    scale = np.resize(np.array([size[0] / BINS, size[1] / BINS], np.float32), len(bins))
    return ((np.array([int(b) for b in bins], np.float32) + np.float32(0.5)) * scale).astype(int).tolist()


def _phrases(text: str, unit: str, *, labelled: bool) -> Iterator[tuple[str, str]]:
    """(label, whole phrase) of each run of at least four units, with the words in front of it if `labelled`."""
    pattern = rf"[^<]+(?:{unit}){{4,}}" if labelled else rf"(?:{unit}){{4,}}"
    for phrase in re.findall(pattern, text):
        label = _LABEL.search(phrase)
        if label is not None:
            yield label.group().strip(), phrase


def boxes(
    text: str, size: tuple[int, int], *, labelled: bool = True, banned: set[str] | None = None
) -> Iterator[tuple[str, list[int]]]:
    """(label, [x1, y1, x2, y2]) of `label<loc_..><loc_..><loc_..><loc_..>...`."""
    for label, phrase in _phrases(text, r"<loc_\d+>", labelled=labelled):
        if banned and label in banned:
            continue
        for match in _BOX.finditer(phrase):
            yield label.encode("ascii", "ignore").decode("ascii"), pixels_of(match.groups(), size)


def quad_boxes(text: str, size: tuple[int, int], pattern: str, least: float) -> Iterator[tuple[str, list[int]]]:
    """(text, [x1, y1 .. x4, y4]) of lines of text; those smaller than `least` of the picture are left out."""
    for content, *bins in re.findall(pattern, text):
        quad = pixels_of(bins, size)
        x, y = quad[0::2], quad[1::2]
        area = 0.5 * abs(sum(x[i] * y[i + 1] - x[i + 1] * y[i] for i in range(3)))
        if least <= 0 or area >= size[0] * size[1] * least:
            yield content.strip(), quad


def polygons(text: str, size: tuple[int, int], *, labelled: bool = True) -> Iterator[tuple[str, list[list[int]]]]:
    """(label, [[x1, y1, x2, y2...]...]) of outlines, between <poly> and </poly> where there are several of them."""
    for label, phrase in _phrases(text, r"<loc_\d+>|<sep>|</?poly>", labelled=labelled):
        parts = re.findall(r"<poly>(.*?)</poly>", phrase) if "<poly>" in phrase and "</poly>" in phrase else [phrase]
        for part in parts:
            shapes = []
            for run in re.findall(r"((?:<loc_\d+>)+)(?:<sep>|$)", part):
                bins = re.findall(r"<loc_(\d+)>", run)
                shapes.append(pixels_of(bins[: len(bins) // 2 * 2], size))
            if shapes:
                yield label, shapes
