"""The model card of a converted checkpoint: what was done, with which versions."""

from __future__ import annotations

from importlib.metadata import version

from .plan import Plan


def model_card(source: str, family: str, plan: Plan, quality: str | None = None) -> str:
    """Markdown with the hub's front matter. quality: measured loss against the source, if it was measured."""
    base = f"base_model: {source}\n" if "/" in source and not source.startswith(("/", ".")) else ""
    lines = "\n".join(f"- {line.strip()}" for line in plan.lines())
    measured = f"\n## Measured against the source\n\n```\n{quality}\n```\n" if quality else ""
    return f"""---
library_name: mlx
pipeline_tag: image-text-to-text
{base}tags:
- mlx
---
# {source}, converted for MLX

Family `{family}`, converted with vlm-convert {version("vlm-convert")} on MLX {version("mlx")}.

{lines}
{measured}
```
vlm generate --model THIS_REPO --image picture.jpg --prompt "Describe the image."
```
"""
