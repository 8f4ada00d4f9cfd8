"""Build every distribution, install each wheel alone outside the workspace, import it and run its command.

    python tests/packaging/check_wheels.py [DISTRIBUTION ...]

Siblings come from the wheels just built, everything else from the index in the versions of uv.lock.
Checks that nothing heavy comes along.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[2]
MODULES = {"vlm-compat": "mlx_vlm"}
FORBIDDEN = ("torch", "torchvision", "opencv-python", "datasets", "pandas", "scipy")
ONLY_IN = {"fastapi": {"vlm-server"}, "gradio": {"vlm-ui"}}
LEFT_OUT = ("VIRTUAL_ENV", "PYTHONPATH", "UV_PROJECT_ENVIRONMENT")
UNLISTED = {"vlm-cli", "vlm-compat"}  # may bring what their parts bring
COMMANDS = {"vlm-cli": [["vlm", "--version"], ["vlm", "--help"], ["vlm", "doctor"]]}


def projects() -> dict[str, Path]:
    """Name -> folder of every member."""
    paths = [
        *ROOT.glob("packages/*/pyproject.toml"),
        *ROOT.glob("apps/*/pyproject.toml"),
        ROOT / "benchmarks/pyproject.toml",
    ]
    return {tomllib.loads(path.read_text())["project"]["name"]: path.parent for path in sorted(paths)}


def siblings(name: str, members: dict[str, Path]) -> set[str]:
    """The distribution and every member it needs."""
    found: set[str] = set()
    waiting = [name]
    while waiting:
        current = waiting.pop()
        if current in found:
            continue
        found.add(current)
        needs = tomllib.loads((members[current] / "pyproject.toml").read_text())["project"]["dependencies"]
        waiting += [
            member for member in members for need in needs if need.split(">")[0].split("[")[0].strip() == member
        ]
    return found


def run(*command: str | Path) -> str:
    environment = {k: v for k, v in os.environ.items() if k not in LEFT_OUT}
    done = subprocess.run(
        [str(part) for part in command], capture_output=True, text=True, env=environment, cwd=tempfile.gettempdir()
    )
    if done.returncode:
        sys.exit(f"{' '.join(map(str, command))} exited {done.returncode}:\n{done.stdout}{done.stderr}")
    return done.stdout


def check(name: str, wheels: dict[str, Path], members: dict[str, Path], folder: Path) -> None:
    venv = folder / name
    run("uv", "venv", "--quiet", "--python", sys.executable, venv)
    parts = sorted(siblings(name, members))
    has_backend = "cpu" in tomllib.loads((members[name] / "pyproject.toml").read_text())["project"].get(
        "optional-dependencies", {}
    )
    wanted = [f"{part}{'[cpu]' if part == name and has_backend else ''} @ {wheels[part].as_uri()}" for part in parts]
    python = venv / "bin" / "python"
    run("uv", "pip", "install", "--quiet", "--constraint", folder / "locked.txt", "--python", python, *wanted)
    run("uv", "pip", "check", "--python", python)
    module = MODULES.get(name, name.replace("-", "_"))
    run(python, "-I", "-c", f"import {module}; assert {module}.__version__")
    brought = {line.split("==")[0] for line in run("uv", "pip", "freeze", "--python", python).splitlines()}
    heavy = brought & set(FORBIDDEN)
    heavy |= {extra for extra, homes in ONLY_IN.items() if extra in brought and name not in homes | UNLISTED}
    if heavy:
        sys.exit(f"{name} brings {', '.join(sorted(heavy))}")
    if name == "vlm-runtime":
        readme = (members[name] / "README.md").read_text()
        missing = sorted(
            part for part in brought if not part.startswith("vlm-") and f"`{part.split(' @')[0]}`" not in readme
        )
        if missing:
            sys.exit(f"the README of vlm-runtime does not list what it brings: {', '.join(missing)}")
    for command, *arguments in COMMANDS.get(name, []):
        run(venv / "bin" / command, *arguments)
    print(f"{name}: {len(brought)} distributions, imports {module}")


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("names", nargs="*", metavar="DISTRIBUTION")
    members = projects()
    names = parser.parse_args().names or sorted(members)
    with tempfile.TemporaryDirectory() as folder:
        locked = run(
            "uv",
            "export",
            "--quiet",
            "--frozen",
            "--no-hashes",
            "--no-emit-workspace",
            "--all-packages",
            "--project",
            ROOT,
        )
        (Path(folder) / "locked.txt").write_text(locked)
        wheels = {}
        for name in sorted(set().union(*(siblings(name, members) for name in names))):
            dist = Path(folder) / "dist" / name
            run(
                "uv",
                "build",
                "--quiet",
                "--wheel",
                "--package",
                name,
                "--no-sources",
                "--directory",
                ROOT,
                "--out-dir",
                dist,
            )
            (wheels[name],) = dist.glob("*.whl")
        for name in names:
            check(name, wheels, members, Path(folder))
    print(f"{len(names)} passed, 0 failed")
    return 0


if __name__ == "__main__":
    sys.exit(main())
