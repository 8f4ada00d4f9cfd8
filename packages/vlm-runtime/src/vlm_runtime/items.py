"""Media from their sources to the form an encoder reads, each with a digest of its content and of the processing."""

from __future__ import annotations

import hashlib
import logging
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from .errors import MediaError
from .loading.rendered import MediaKind, MediaRef
from .options import MEDIA_OPTIONS, GenerateOptions

if TYPE_CHECKING:
    from vlm_models import MediaItem, MediaOptions, Processing

    from .processor import Processor


# what decoding did to a medium beyond reading it; front ends show it
log = logging.getLogger("vlm_runtime.media")


class ItemCache:
    """Processed media by digest, least recently used out first; turns about one picture resize it once."""

    def __init__(self, max_entries: int = 8, max_bytes: int = 256 << 20) -> None:
        self.max_entries, self.max_bytes = max_entries, max_bytes
        self._items: OrderedDict[str, MediaItem] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, digest: str, make: Callable[[], MediaItem]) -> MediaItem:
        """The item with this digest, made if it is not kept."""
        with self._lock:
            found = self._items.get(digest)
            if found is not None:
                self._items.move_to_end(digest)
                return found
        item = replace(make(), digest=digest)
        with self._lock:
            self._items[digest] = item
            while len(self._items) > self.max_entries or sum(map(_size, self._items.values())) > self.max_bytes:
                self._items.popitem(last=False)
        return item

    def clear(self) -> None:
        with self._lock:
            self._items.clear()


def read_items(processor: Processor, references: Sequence[MediaRef], options: GenerateOptions) -> list[MediaItem]:
    """Fetch, decode and process media, in order.

    Raises:
        MediaError, FetchError: a medium cannot be read, or is refused.
        ModalityError: the family does not take its kind.
        OptionError: an option is wrong.
    """
    items = []
    num_images = max(1, sum(reference.kind == "image" for reference in references))
    for number, reference in enumerate(references, 1):
        if reference.source is None:
            raise MediaError(f"{reference.kind} {number}: expected a path, URL, bytes or array, got nothing")
        processor.placeholder(reference.kind)  # names a kind that the family does not take before anything is opened
        own = {name: value for name, value in reference.options.items() if name in MEDIA_OPTIONS}
        given = replace(options, **own).media() if own else options.media()
        items.append(_read(processor, reference, options, replace(given, num_images=num_images)))
    return items


def _read(processor: Processor, reference: MediaRef, options: GenerateOptions, given: MediaOptions) -> MediaItem:
    processing: Processing = processor.processing
    policy = options.media_policy

    def keyed(content: str, make: Callable[[], MediaItem], *facts: Any) -> MediaItem:
        return processor.items.get(_digest(reference.kind, content, given, *facts), make)

    if reference.kind == "audio":
        from .media.audio import load_audio  # soundfile, paid only when there is audio

        audio = load_audio(reference.source, policy, sample_rate=processing.sample_rate)
        _tell("audio", audio.note)
        return keyed(audio.digest, lambda: processing.audio(audio.pcm, audio.rate, given))
    if reference.kind == "video":
        from .media.video import load_video  # as above

        video = load_video(reference.source, policy, sample=lambda total, rate: processing.sample(total, rate, given))
        _tell("video", video.note)
        lasting = replace(given, duration=video.duration)
        return keyed(video.digest, lambda: processing.video(video.frames, video.timestamps, lasting))
    from .media.image import load_image  # Pillow, paid only when there is an image

    image = load_image(reference.source, policy)
    _tell("image", image.note)
    return keyed(image.digest, lambda: processing.image(image.rgb, given))


def _tell(kind: MediaKind, note: str) -> None:
    if note:
        log.info("%s: %s", kind, note)


def _digest(kind: MediaKind, content: str, *facts: Any) -> str:
    return hashlib.sha256(f"{kind}:{content}:{facts!r}".encode()).hexdigest()


def _size(item: MediaItem) -> int:
    return sum(array.nbytes for array in item.arrays.values())
