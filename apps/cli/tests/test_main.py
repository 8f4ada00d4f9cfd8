"""The command group: what it lists, how it fails."""

from __future__ import annotations

import subprocess
import sys

import pytest

from vlm_cli import __version__
from vlm_cli.main import main
from vlm_cli.table import COMMANDS, Row


def run(*arguments: str) -> int:
    with pytest.raises(SystemExit) as done:
        main(list(arguments))
    return int(done.value.code or 0)


def test_help_lists_every_command_without_importing_it(capsys: pytest.CaptureFixture[str]) -> None:
    code = "import sys; from vlm_cli.main import main\ntry: main(['--help'])\nexcept SystemExit: pass\n"
    code += "print(sorted(m for m in ('mlx', 'numpy', 'vlm_runtime', 'rich', 'transformers') if m in sys.modules))"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.rstrip().endswith("[]")
    for name in COMMANDS:
        assert f"\n  {name}" in out


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--version") == 0
    assert __version__ in capsys.readouterr().out


def test_a_command_of_an_absent_distribution_names_it(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(COMMANDS, "fly", Row("Fly.", "vlm_absent.cli", "fly", "vlm-absent"))
    assert run("fly") == 2
    assert "pip install vlm-absent" in capsys.readouterr().err


def test_unknown_command_and_option_are_usage_errors(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("fly") == 2
    assert run("generate", "--fly") == 2
    assert run("generate") == 2
    assert "nothing to answer" in capsys.readouterr().err


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_scripts(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("completion", shell) == 0
    assert "_VLM_COMPLETE" in capsys.readouterr().out


def test_doctor_names_backend_and_kernels(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("doctor") == 0
    out = capsys.readouterr().out
    assert "device" in out and "kernels" in out


def test_models_lists_supported_types(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("models", "--supported") == 0
    assert "qwen2_vl" in capsys.readouterr().out
