"""A character tokenizer for tiny checkpoints.

Printable ASCII and newline are ids 0 to 95, special tokens follow in the order given, then the three roles of a chat (unless
named among them), each one token so that prompts stay short.
"""

from __future__ import annotations

from collections.abc import Sequence

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

ROLES = ("system", "user", "assistant")
CHARACTERS = [chr(code) for code in range(32, 127)] + ["\n"]


def character_tokenizer(special_tokens: Sequence[str], **roles: object) -> PreTrainedTokenizerFast:
    """A fast tokenizer with `special_tokens` at ids 96, 97... in order.

    Args:
        special_tokens: literal tokens; empty strings leave an id unused.
        roles: `eos_token`, `pad_token`, `image_token`... as PreTrainedTokenizerFast takes them.
    """
    vocabulary = {character: index for index, character in enumerate(CHARACTERS)}
    for index, token in enumerate(special_tokens):
        vocabulary[token or f"<unused{index}>"] = 96 + index
    for role in ROLES:
        vocabulary.setdefault(role, len(vocabulary))
    special = [token for token in special_tokens if token and token not in ROLES]
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="?"))
    backend.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    backend.decoder = decoders.Fuse()
    backend.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in special])
    backend.add_tokens([AddedToken(role, normalized=False) for role in ROLES])
    return PreTrainedTokenizerFast(tokenizer_object=backend, **roles)
