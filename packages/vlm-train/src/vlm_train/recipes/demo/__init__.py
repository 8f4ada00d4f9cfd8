"""The recipe of the embedded demo model: a Qwen2-VL checkpoint trained from nothing on drawn pictures.

Everything here except the trainer runs on Pillow and numpy alone, so that pictures can be drawn on many cores.
"""
