"""The module mlx_vlm as thin doors to vlm-runtime, for existing scripts."""

__version__ = "0.1.0"
