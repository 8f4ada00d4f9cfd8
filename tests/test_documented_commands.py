"""Commands and Python that the documentation shows, run as they stand."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted(ROOT.glob("docs/*.md")), *sorted(ROOT.glob("*/*/README.md"))]
# these start something that does not end, need another machine, or are this test itself
LEFT_OUT = re.compile(r"pytest|vlm (serve|chat|ui)|pip install|uv sync|make |recipes|oracle|cuda|cibuildwheel")


def commands() -> list[tuple[str, str]]:
    found = []
    for page in PAGES:
        for block in re.findall(r"```sh\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL):
            joined = block.replace("\\\n", " ")
            for line in joined.splitlines():
                line = line.split(" && ")[-1].strip()
                if line.startswith(("vlm ", "uv run vlm ", "python -m vlm_")) and not LEFT_OUT.search(line):
                    found.append((page.relative_to(ROOT).as_posix(), line.removeprefix("uv run ")))
    return list(dict.fromkeys(found))


def is_runnable(line: str) -> bool:
    """Whether every model and file it names is here: examples about other checkpoints are for the reader."""
    words = shlex.split(line)
    for option, value in pairwise(words):
        if option == "--model" and value != "demo":
            return False
        if option in ("--image", "--audio", "--video") and not (ROOT / value).exists():
            return False
        if option == "--hf-path" and value != "demo":
            return False
    return not any(word.isupper() for word in words)


RUNNABLE = [(page, line) for page, line in commands() if is_runnable(line)]


@pytest.mark.parametrize("page", dict.fromkeys(page for page, _ in RUNNABLE))
def test_documented_commands_run_in_order(page: str) -> None:
    for line in [line for where, line in RUNNABLE if where == page]:
        words = shlex.split(line)
        words = ["-m", "vlm_cli.main", *words[1:]] if words[0] == "vlm" else words[1:]
        done = subprocess.run([sys.executable, *words], cwd=ROOT, capture_output=True, text=True, timeout=240)
        assert done.returncode == 0, (line, done.stderr)
        assert done.stdout.strip(), line


def test_the_readme_is_covered() -> None:
    assert sum(page == "README.md" for page, _ in RUNNABLE) >= 7


def test_first_answer_is_right() -> None:
    words = ["generate", "--image", "docs/images/shapes.png", "--prompt", "How many circles are there?"]
    done = subprocess.run(
        [sys.executable, "-m", "vlm_cli.main", *words], cwd=ROOT, capture_output=True, text=True, timeout=240
    )
    assert done.stdout.strip() == "2", done.stderr


def test_readme_python_runs() -> None:
    (block,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    done = subprocess.run([sys.executable, "-c", block], cwd=ROOT, capture_output=True, text=True, timeout=240)
    assert done.stdout.strip() == "2", done.stderr
