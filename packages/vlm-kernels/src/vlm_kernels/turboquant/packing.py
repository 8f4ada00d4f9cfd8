"""Codes to 32-bit words and back.

A code is cut into fields of 4, 2 and 1 bits (lowest first), and each field of a vector is stored on its own, so that 3
bits take 3 bits. Within a field of size s, the codes of octet n (coordinates 8n..8n+7) keep the pitch of a nibble:

    coordinate 8n + j, field of size s:   word n*s // 4,   bit 4*j + s * (n % (4/s))

so that one shift and one mask give eight codes in eight nibbles, whatever the number of bits.

    s = 4:  word n   = | 7:4 | 6:4 | ... | 0:4 |                one octet
    s = 2:  word n/2 = two octets, the odd one in the upper half of each nibble
    s = 1:  word n/4 = four octets, one bit of each nibble each
"""

from __future__ import annotations

import mlx.core as mx

from .spec import field_sizes, num_field_words


def pack(codes: mx.array, bits: int) -> mx.array:
    """uint32 codes [..., D] to words [..., W]."""
    head_size = codes.shape[-1]
    nibble_shift = mx.array([4 * j for j in range(8)], mx.uint32)
    words, low = [], 0
    for size in field_sizes(bits):
        field = (codes >> low) & ((1 << size) - 1)
        octets = (field.reshape(*codes.shape[:-1], head_size // 8, 8) << nibble_shift).sum(axis=-1)
        per_word = 4 // size
        num_words = num_field_words(size, head_size)
        padding = num_words * per_word - head_size // 8
        if padding:
            octets = mx.concatenate([octets, mx.zeros((*octets.shape[:-1], padding), mx.uint32)], axis=-1)
        octet_shift = mx.array([size * i for i in range(per_word)], mx.uint32)
        words.append((octets.reshape(*codes.shape[:-1], num_words, per_word) << octet_shift).sum(axis=-1))
        low += size
    return mx.concatenate(words, axis=-1).astype(mx.uint32)


def unpack(words: mx.array, bits: int, head_size: int) -> mx.array:
    """Words [..., W] to uint32 codes [..., D]."""
    nibble_shift = mx.array([4 * j for j in range(8)], mx.uint32)
    codes, low, first = None, 0, 0
    for size in field_sizes(bits):
        num_words = num_field_words(size, head_size)
        octet_shift = mx.array([size * i for i in range(4 // size)], mx.uint32)
        field_words = words[..., first : first + num_words]
        octets = (field_words[..., None] >> octet_shift).reshape(*words.shape[:-1], -1)[..., : head_size // 8]
        field = ((octets[..., None] >> nibble_shift) & ((1 << size) - 1)).reshape(*words.shape[:-1], head_size)
        field = field << low
        codes = field if codes is None else codes | field
        low += size
        first += num_words
    assert codes is not None
    return codes
