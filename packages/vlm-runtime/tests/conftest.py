"""Small tokenizers, trained on a few lines when first asked for."""

from __future__ import annotations

import json

import pytest
import tokenizers
from tokenizers import AddedToken, decoders, models, normalizers, pre_tokenizers, processors, trainers

from vlm_runtime.loading.tokenizer import Tokenizer

LINES = [
    "Describe the image. How many circles are there?",
    "The star is red; the square is blue, the triangle is green.",
    "Grüße aus Köln, 東京の天気は晴れです, привет мир 🙂🙃",
    '{"name": "get_weather", "arguments": {"city": "Paris"}}',
    "one two three four five six seven eight nine ten",
]
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>"]
TOOLS = ["<tool_call>", "</tool_call>", "<think>", "</think>"]
CHATML = """{%- if tools %}<|im_start|>system
# Tools{% for tool in tools %}

{{ tool | tojson }}{% endfor %}<|im_end|>
{% endif %}{% for message in messages %}<|im_start|>{{ message.role }}
{% if message.content is string %}{{ message.content }}{% else %}{% for part in message.content %}
{%- if part.type == 'image' %}<|vision_start|><|image_pad|><|vision_end|>
{%- elif part.type == 'text' %}{{ part.text }}{% endif %}{% endfor %}{% endif %}
{%- for call in message.tool_calls or [] %}
<tool_call>
{"name": "{{ call.function.name }}", "arguments": {{ call.function.arguments | tojson }}}
</tool_call>{% endfor %}<|im_end|>
{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant
{% if enable_thinking is defined and enable_thinking is false %}<think>

</think>

{% endif %}{% endif %}"""


def byte_level_backend() -> tokenizers.Tokenizer:
    """As Qwen, GPT-2 and Llama 3 have it."""
    backend = tokenizers.Tokenizer(models.BPE())
    backend.normalizer = normalizers.NFC()
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    backend.train_from_iterator(LINES * 3, trainer)
    backend.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL])
    backend.add_tokens([AddedToken(token, special=False, normalized=False) for token in TOOLS])
    return backend


def byte_fallback_backend(prepend: str = "normalizer") -> tokenizers.Tokenizer:
    """As Llama 2 (a blank put before every stretch) or, with `prepend="none"`, Gemma has it."""
    pieces = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁"]
    letters = sorted({letter for line in LINES if line.isascii() for letter in line if letter != " "})
    pieces += letters
    merges = []
    for left, right in (("t", "h"), ("th", "e"), ("▁", "the"), ("▁", "a"), ("i", "s"), ("▁", "is"), ("r", "e")):
        merges.append((left, right))
        pieces.append(left + right)
    for left, right in (("<", "s"), ("<s", ">")):  # a vocabulary that could spell a control token
        merges.append((left, right))
        pieces += [] if left + right in pieces else [left + right]
    pieces += [letter for letter in "<>/s|" if letter not in pieces]
    backend = tokenizers.Tokenizer(
        models.BPE({p: i for i, p in enumerate(pieces)}, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True)
    )
    prefix = [normalizers.Prepend("▁")] if prepend == "normalizer" else []
    backend.normalizer = normalizers.Sequence([*prefix, normalizers.Replace(" ", "▁")])
    tail = [decoders.Strip(" ", 1, 0)] if prefix else []
    backend.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), *tail])
    backend.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    backend.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in ("<unk>", "<s>", "</s>")])
    backend.add_special_tokens([AddedToken("<image>", special=True, normalized=False)])
    return backend


def unigram_backend(scheme: str = "first") -> tokenizers.Tokenizer:
    """As T5 and XGLM have it: Metaspace before a unigram model whose pieces include the control tokens."""
    letters = sorted({letter for line in LINES for letter in line if letter != " "})
    pieces = [("<unk>", 0.0), ("<s>", 0.0), ("</s>", 0.0), ("▁", -3.0), ("▁the", -2.0), ("▁is", -2.5), ("ar", -4.0)]
    pieces += [(letter, -6.0) for letter in letters]
    pieces += [(letter, -6.0) for letter in "<>/s" if letter not in letters]
    backend = tokenizers.Tokenizer(models.Unigram(pieces, unk_id=0, byte_fallback=False))
    backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme)
    backend.decoder = decoders.Metaspace(prepend_scheme=scheme)
    backend.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in ("<unk>", "<s>", "</s>")])
    return backend


@pytest.fixture(scope="session")
def chatml() -> Tokenizer:
    """Byte-level tokenizer with ChatML roles, image placeholders, thinking, tools and a template."""
    config = {"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>", "bos_token": None}
    return Tokenizer(byte_level_backend(), config, {"default": CHATML})


@pytest.fixture(scope="session")
def llama() -> Tokenizer:
    config = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    return Tokenizer(byte_fallback_backend(), config)


@pytest.fixture(scope="session")
def gemma() -> Tokenizer:
    config = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    return Tokenizer(byte_fallback_backend("none"), config)


@pytest.fixture(scope="session")
def unigram() -> Tokenizer:
    config = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    return Tokenizer(unigram_backend(), config)


@pytest.fixture(params=["chatml", "llama", "gemma", "unigram"])
def any_tokenizer(request: pytest.FixtureRequest) -> Tokenizer:
    return request.getfixturevalue(request.param)


@pytest.fixture
def checkpoint_folder(tmp_path):
    """A folder with the tokenizer files of a ChatML checkpoint."""
    byte_level_backend().save(str(tmp_path / "tokenizer.json"))
    config = {"eos_token": {"content": "<|im_end|>"}, "pad_token": "<|endoftext|>", "chat_template": CHATML}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    return tmp_path
