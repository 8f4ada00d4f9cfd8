"""The engine: one step loop, its thread, and the doors to it."""
