"""Size per package, file and function, and the budget they must keep.

    python tests/packaging/size_report.py [--top N]

Counts lines that are neither blank nor comment nor docstring. Exits 1 where a file or a function is over its budget.
"""

from __future__ import annotations

import argparse
import ast
import io
import sys
import tokenize
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
FILE_LINES, FUNCTION_LINES, MODELS_LINES = 450, 90, 16_000


@dataclass(frozen=True)
class Size:
    lines: int
    name: str


def code_lines(source: str) -> set[int]:
    """Numbers of the lines that hold code."""
    skipped = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER}
    lines: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type not in skipped:
            lines.update(range(token.start[0], token.end[0] + 1))
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            lines -= set(range(node.lineno, (node.end_lineno or node.lineno) + 1))
    return lines


def measure(path: Path) -> tuple[Size, list[Size]]:
    """A file and its functions."""
    source = path.read_text(encoding="utf-8")
    lines = code_lines(source)
    name = str(path.relative_to(ROOT))
    functions = [
        Size(len(lines & set(range(node.lineno, (node.end_lineno or node.lineno) + 1))), f"{name}:{node.name}")
        for node in ast.walk(ast.parse(source))
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
    ]
    return Size(len(lines), name), functions


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--top", type=int, default=12, help="how many files and functions to list")
    top = parser.parse_args().top
    files: list[Size] = []
    functions: list[Size] = []
    for path in sorted([*ROOT.glob("*/*/src/**/*.py"), *ROOT.glob("benchmarks/src/**/*.py")]):
        size, inner = measure(path)
        files.append(size)
        functions += inner
    packages: Counter[str] = Counter()
    for size in files:
        packages[size.name.split("/src/")[0]] += size.lines
    for name, lines in sorted(packages.items()):
        print(f"{lines:7d}  {name}")
    print(f"{sum(packages.values()):7d}  all\n")
    for title, sizes in (("largest files", files), ("largest functions", functions)):
        print(title)
        for size in sorted(sizes, key=lambda s: -s.lines)[:top]:
            print(f"{size.lines:7d}  {size.name}")
    over = [s for s in files if s.lines > FILE_LINES] + [s for s in functions if s.lines > FUNCTION_LINES]
    for size in over:
        print(f"over budget: {size.name} has {size.lines} lines", file=sys.stderr)
    models = packages["packages/vlm-models"]
    if models > MODELS_LINES:
        print(f"over budget: vlm-models has {models} lines of {MODELS_LINES}", file=sys.stderr)
    return 1 if over or models > MODELS_LINES else 0


if __name__ == "__main__":
    sys.exit(main())
