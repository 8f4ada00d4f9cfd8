"""Load vlm-models' golden format and hashed weights by path: the oracle's environment has no MLX to import them with."""

from __future__ import annotations

import importlib
import sys
import types
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
GOLDENS = ROOT / "packages/vlm-models/tests/goldens"

_package = types.ModuleType("vlm_testing")
_package.__path__ = [str(ROOT / "packages/vlm-models/src/vlm_models/testing")]
sys.modules["vlm_testing"] = _package

hashed = importlib.import_module("vlm_testing.hashed")
golden = importlib.import_module("vlm_testing.golden")
