from __future__ import annotations

import pytest

from vlm_kernels.errors import KernelError
from vlm_kernels.turboquant import Spec, split_bits


@pytest.mark.parametrize(("bits", "split"), [(1, (1, 1)), (3.5, (3, 4)), (4, (4, 4)), (7.5, (7, 8)), (8, (8, 8))])
def test_keys_get_the_lower_bits(bits, split):
    assert split_bits(bits) == split


@pytest.mark.parametrize("bits", [0, 0.5, 8.5, 9, 3.25, 3.7, float("nan"), float("inf"), True, "3", None])
def test_other_numbers_of_bits_are_named_errors(bits):
    with pytest.raises(KernelError, match="bits"):
        split_bits(bits)


@pytest.mark.parametrize("fields", [{"bits": 0}, {"bits": 9}, {"bits": 3.5}, {"bits": True}])
def test_a_spec_takes_whole_bits_only(fields):
    with pytest.raises(KernelError, match="whole bits"):
        Spec(head_size=64, **fields)


@pytest.mark.parametrize("head_size", [0, 4, 65, 100, 520, 64.0])
def test_head_sizes_that_cannot_be_packed_are_named_errors(head_size):
    with pytest.raises(KernelError, match="head size"):
        Spec(3, head_size)


def test_another_format_version_is_a_named_error():
    with pytest.raises(KernelError, match="another version"):
        Spec(3, 64, version=0)


def test_bytes_of_a_token_at_three_and_a_half_bits():
    key_bits, value_bits = split_bits(3.5)
    num_bytes = Spec(key_bits, 128).num_bytes + Spec(value_bits, 128).num_bytes
    assert num_bytes == 116
    assert num_bytes / (2 * 128 * 2) <= 0.235


@pytest.mark.parametrize("bits", range(1, 9))
@pytest.mark.parametrize("head_size", [64, 96, 128, 160, 192, 256, 512])
def test_packing_is_tight(bits, head_size):
    assert Spec(bits, head_size).num_words == head_size * bits / 32
