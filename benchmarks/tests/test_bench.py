"""The bench command: a tiny run, comparison, plot."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from vlm_benchmarks.cli import bench
from vlm_benchmarks.compare import compare, name_of


def result(tps: float, memory: float, geometry: str = "tiny") -> dict:
    work = {"geometry": geometry, "bits": 4, "mode": "affine", "image": [56, 56], "prompt_tokens": 8, "generate": 4}
    return {
        "workload": work,
        "prompt_tps": tps,
        "generation_tps": tps,
        "time_to_first_token": 1 / tps,
        "peak_memory_bytes": memory,
    }


@pytest.mark.parametrize("bits", [[], ["--bits", "4"]])
def test_measures_a_tiny_geometry(tmp_path: Path, bits: list[str]) -> None:
    out = tmp_path / "now.json"
    arguments = [
        "--geometry",
        "tiny",
        *bits,
        "--prompt-tokens",
        "8",
        "--image",
        "56x56",
        "--generate",
        "4",
        "--repeat",
        "1",
    ]
    done = CliRunner().invoke(bench, [*arguments, "--out", str(out)], catch_exceptions=False)
    assert done.exit_code == 0
    (measured,) = json.loads(out.read_text())
    assert measured["prompt_tokens"] == 8 + measured["image_tokens"] == 8 + 4
    assert measured["prompt_tps"] > 0 and measured["generation_tps"] > 0 and measured["peak_memory_bytes"] > 0
    assert measured["machine"]["cores"] >= 1


def test_compare_flags_what_got_worse_beyond_the_tolerance() -> None:
    rows = compare([result(100, 50)], [result(90, 51)], 0.05)
    assert {row.measure for row in rows if row.is_regression} == {"prompt_tps", "generation_tps", "time_to_first_token"}
    assert not any(row.is_regression for row in compare([result(100, 50)], [result(110, 40)], 0.05))


def test_compare_exits_1_on_a_regression_and_2_without_common_workloads(tmp_path: Path) -> None:
    files = {name: tmp_path / f"{name}.json" for name in ("a", "b", "c")}
    for path, value in zip(files.values(), ([result(100, 50)], [result(50, 50)], [result(9, 9, "other")]), strict=True):
        path.write_text(json.dumps(value))
    runner = CliRunner()
    assert runner.invoke(bench, ["compare", str(files["a"]), str(files["b"])]).exit_code == 1
    assert runner.invoke(bench, ["compare", str(files["b"]), str(files["a"])]).exit_code == 0
    assert runner.invoke(bench, ["compare", str(files["a"]), str(files["c"])]).exit_code == 2


def test_plot_writes_a_picture(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text(json.dumps([result(100, 50)]))
    done = CliRunner().invoke(bench, ["plot", str(path), "--out", str(tmp_path / "a.png")], catch_exceptions=False)
    assert done.exit_code == 0
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")


def test_names_tell_workloads_apart() -> None:
    assert name_of(result(1, 1)) != name_of(result(1, 1, "other"))


def test_measures_requests_together_and_behind_a_long_prompt(tmp_path: Path) -> None:
    out = tmp_path / "now.json"
    sizes = ["--rows", "1", "--rows", "3", "--prompt-tokens", "8", "--generate", "6", "--long-prompt", "96"]
    arguments = ["throughput", "--geometry", "tiny", "--layers", "1", "--repeat", "1", "--chunk-tokens", "32", *sizes]
    done = CliRunner().invoke(bench, [*arguments, "--out", str(out)], catch_exceptions=False)
    assert done.exit_code == 0
    (measured,) = json.loads(out.read_text())
    assert set(measured["rows"]) == {"1", "3"} and measured["rows"]["1"]["speedup"] == 1
    assert all(row["decode_tps"] > 0 and row["time_to_first_token"] > 0 for row in measured["rows"].values())
    assert 0 < measured["behind"]["short_behind"] < measured["behind"]["long_behind"]


def test_turns_about_one_picture_are_served_from_caches(tmp_path: Path) -> None:
    out = tmp_path / "now.json"
    sizes = ["--image", "280x280", "--turns", "4", "--generate", "4", "--question", "4", "--dtype", "float32"]
    done = CliRunner().invoke(bench, ["turns", "--geometry", "tiny", *sizes, "--out", str(out)], catch_exceptions=False)
    assert done.exit_code == 0
    (measured,) = json.loads(out.read_text())
    assert measured["same_answers"] and measured["image_tokens"] == 100
    modes = measured["modes"]
    assert max(mode["speedup"] for mode in modes.values()) > 1
    for name, cached in (("no cache", 0), ("vision cache", 0), ("vision and prefix cache", 100)):
        assert all(turn["cached_tokens"] >= cached for turn in modes[name]["turns"][1:])
        assert modes[name]["turns"][0]["cached_tokens"] == 0
