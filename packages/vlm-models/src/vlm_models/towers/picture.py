"""The tower that a nested vision_config names, for families that take several. One table: model_type -> architecture."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..core.config import expect
from .clip import Clip, ClipConfig
from .pixtral_vit import PixtralVit, PixtralVitConfig
from .siglip import Siglip, SiglipConfig

TowerConfig = ClipConfig | SiglipConfig | PixtralVitConfig
_KINDS: dict[str, type[ClipConfig] | type[SiglipConfig] | type[PixtralVitConfig]] = {
    "clip_vision_model": ClipConfig,
    "siglip_vision_model": SiglipConfig,
    "pixtral": PixtralVitConfig,
}


def tower_config(hf: Mapping[str, Any], *, kind: str | None = None) -> TowerConfig:
    """The tower of a vision_config, told apart by its model_type (or `kind` where it has none). Raises ConfigError."""
    return _KINDS[expect({"model_type": hf.get("model_type", kind)}, "model_type", *_KINDS)].from_hf(hf)


def tower(config: TowerConfig) -> Clip | Siglip | PixtralVit:
    """The tower of a configuration that `tower_config` made: pixels [n, C, H, W] -> states [n, tokens, dim]."""
    match config:
        case ClipConfig():
            return Clip(config)
        case SiglipConfig():
            return Siglip(config)
    return PixtralVit(config)
