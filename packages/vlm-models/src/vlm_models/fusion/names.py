"""Names that converted checkpoints of Qwen's line have elsewhere in the MLX world, for writing."""

from __future__ import annotations

from ..core.weights import Rename, Rule, Unflatten


def conversion_names(channels: int, frames: int, patch: int) -> tuple[Rule, ...]:
    """From `visual.*` and `language_model.*`. channels, frames, patch: the shape of the patch convolution."""
    return (
        Rename("visual.*", "vision_tower.*"),
        Rename("language_model.embed_tokens.*", "language_model.model.embed_tokens.*"),
        Rename("language_model.layers.*", "language_model.model.layers.*"),
        Rename("language_model.norm.*", "language_model.model.norm.*"),
        Unflatten("vision_tower.patch_embed.proj.weight", (channels, frames, patch, patch)),
    )
