"""Names of variants, the table, and the memory benchmark on a tiny geometry."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from vlm_benchmarks import conversion
from vlm_benchmarks.quality.weights import options_of, table


def test_variants_are_read_from_their_names() -> None:
    assert options_of("4") == {"quantize": True, "q_bits": 4}
    assert options_of("3-g128-gptq") == {"quantize": True, "q_bits": 3, "q_group_size": 128, "q_method": "gptq"}
    assert options_of("nvfp4") == {"quantize": True, "q_mode": "nvfp4"}
    with pytest.raises(ValueError, match="expected BITS"):
        options_of("4-awq")


def test_the_table_sums_what_was_right() -> None:
    full = {"variant": "full", "items": 2, "right": {"count": 2, "read": 1}}
    packed = {"variant": "4", "items": 2, "right": {"count": 1, "read": 1}, "bytes": 1e6, "kl": 0.5, "top1": 0.75}
    text = table([full, packed])
    assert "| KL, nats per position | - | 0.5000 |" in text
    assert "| count, of 2 | 2 | 1 |" in text
    assert "| all, of 4 | 3 (75.00 %) | 2 (50.00 %) |" in text


def test_peak_memory_of_a_conversion_is_measured_in_a_process_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    arguments = [str(tmp_path / "work"), "--geometry", "tiny", "--shard-gb", "0.01", "--keep"]
    monkeypatch.setattr(sys, "argv", ["conversion", *arguments])
    conversion.main()
    result = json.loads(capsys.readouterr().out)
    assert len(list((tmp_path / "work/original").glob("*.safetensors"))) > 1
    assert result["bytes_out"] < result["bytes_in"] and result["resident"] >= result["resident_before"] > 0
    assert (tmp_path / "work/converted/config.json").is_file()
