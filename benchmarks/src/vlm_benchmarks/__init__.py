"""Benchmarks of vision-language models: prompt TPS, generation TPS, time to first token, peak memory."""

__version__ = "0.1.0"
