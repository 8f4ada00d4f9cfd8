"""Fetch and decode images, audio and video through one guarded door."""
