"""Fetch and decode images, audio and video through one guarded door."""

from vlm_runtime.media.audio import Audio, load_audio
from vlm_runtime.media.image import Image, load_image
from vlm_runtime.media.policy import MediaPolicy
from vlm_runtime.media.video import EvenSampling, Video, load_video

__all__ = ["Audio", "EvenSampling", "Image", "MediaPolicy", "Video", "load_audio", "load_image", "load_video"]
