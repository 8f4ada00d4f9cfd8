"""Write the frame of a new family file.

python tests/packaging/new_family.py NAME
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
EXEMPLAR = ROOT / "packages/vlm-models/src/vlm_models/families/qwen2_vl.py"


def main() -> int:
    if len(sys.argv) != 2 or not re.fullmatch(r"[a-z][a-z0-9_]*", sys.argv[1]):
        sys.stderr.write("usage: new_family.py NAME (lower case, digits, underscores)\n")
        return 2
    path = EXEMPLAR.with_name(f"{sys.argv[1]}.py")
    if path.exists():
        sys.stderr.write(f"{path.relative_to(ROOT)} exists already\n")
        return 2
    docstring = f'"""{sys.argv[1]}: what it is made of.\n\nReference: . Deviations: none.\n"""\n'
    body = re.sub(r'\A""".*?"""\n', docstring, EXEMPLAR.read_text(), flags=re.DOTALL)
    path.write_text(body.replace('name="qwen2_vl"', f'name="{sys.argv[1]}"'))
    print(
        f"{path.relative_to(ROOT)} written from the frame of {EXEMPLAR.name}; now change its parts and add a row to registry.py"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
