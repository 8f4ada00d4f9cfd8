"""The demo model's vocabulary: 256 bytes, special tokens, whole words.

There are no merges. A piece of text that the pre-tokenizer cuts out and that stands in the vocabulary as a whole is one
token; everything else is spelled in bytes, so that text read from a picture costs one token a character.
"""

from __future__ import annotations

from functools import cache

VOCABULARY_SIZE = 1024  # rows of the embedding; the tokens end earlier and leave room for more words

END_OF_TEXT = "<|endoftext|>"
TURN_START = "<|im_start|>"
TURN_END = "<|im_end|>"
VISION_START = "<|vision_start|>"
VISION_END = "<|vision_end|>"
IMAGE = "<|image_pad|>"
VIDEO = "<|video_pad|>"
THINK_START = "<think>"
THINK_END = "</think>"

SPECIAL = (END_OF_TEXT, TURN_START, TURN_END, VISION_START, VISION_END, "<|vision_pad|>", IMAGE, VIDEO)
MARKERS = (THINK_START, THINK_END)  # tokens of their own, but part of the visible text, as in later Qwen tokenizers

ROLES = ("system", "user", "assistant")

# Each stands in three forms: " word", "word" and "Word".
# fmt: off
WORDS = """
a about add after all also am an and answer any anything are as at be bar bars bigger biggest black blue both bottom
but by can center centre change changed chart circle circles color colors colour colours column compare contain
contains contents corner count describe difference different do does drawing each eight empty equal everything exactly
fewer find first five four from give given go gray green grey hello help here hi highest how i image images in is it
its item items json just know larger largest left less letters like line lines list located long lowest made many me
model more most moved my name new nine no none nothing not now number numbers object objects of on one only or orange
other out over part picture pictures place plus position positions price prices purple read receipt recoloured red
removed result right same say says second see seven shape shapes shortest show shown shows simple six size small
smaller smallest solve some square squares star stars sum system table tallest tell text than thanks thank that the
them there these thing things think this three to top total transcribe triangle triangles two up value was what where
which white who word words write written yellow yes you your zero zeros
""".split()  # noqa: SIM905 - a list of words reads better as text
# fmt: on

# Pieces of JSON as the pre-tokenizer cuts them.
PIECES = ('{"', '":', ' [{"', ' {"', "},", "}],", '",', '"},', '"}],', ' "', '"}', "}]", "\n\n", " (", ").", " =")

# Words found useful later; they come last, so that no id changes.
MORE_WORDS = ("added", "turned", "became", "lead", "carry", "dollars", "JSON", "cents", "week", "day")


@cache
def byte_characters() -> tuple[str, ...]:
    """Printable stand-ins for bytes 0 to 255, in byte order (the alphabet of byte-level BPE, GPT-2, 2019)."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    stand_ins = iter(range(256, 512))
    return tuple(chr(byte) if byte in printable else chr(next(stand_ins)) for byte in range(256))


def spell(text: str) -> str:
    """`text` as the byte-level alphabet writes it: UTF-8, one character a byte."""
    alphabet = byte_characters()
    return "".join(alphabet[byte] for byte in text.encode())


@cache
def tokens() -> tuple[str, ...]:
    """Every token in id order, as it stands in tokenizer.json.

    Raises:
        ValueError: the words do not fit into `VOCABULARY_SIZE`.
    """
    ordered = [*byte_characters(), *SPECIAL, *MARKERS]
    texts = [*ROLES, *(form for word in WORDS for form in (" " + word, word, word.capitalize())), *PIECES]
    texts += [form for word in MORE_WORDS for form in (" " + word, word)]
    ordered += [spell(text) for text in texts]
    unique = list(dict.fromkeys(ordered))
    if len(unique) > VOCABULARY_SIZE:
        raise ValueError(f"expected at most {VOCABULARY_SIZE} tokens, got {len(unique)}; drop some words")
    return tuple(unique)
