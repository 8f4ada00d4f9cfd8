"""Kernels against stock MLX and against the machine's roof, as ratios within one run: `python -m vlm_benchmarks.kernels`."""
