"""From whatever names a medium to its encoded bytes: path, URL, data URI, bytes, open file."""

from __future__ import annotations

import base64
import binascii
import io
import os
import re
import stat
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import unquote_to_bytes

from vlm_runtime.errors import FetchError, MediaError, MediaLimitError
from vlm_runtime.media.fetch import Network, fetch
from vlm_runtime.media.policy import MediaPolicy

_HEAD = 512
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")


@dataclass(frozen=True)
class Content:
    """An encoded medium that can be opened several times; a large file is not read into memory.

    Attributes:
        name: For messages.
        open: Opens it for reading from the start.
        head: Its first bytes.
        size: Its length in bytes.
    """

    name: str
    open: Callable[[], BinaryIO]
    head: bytes
    size: int


def open_source(source: Any, policy: MediaPolicy, network: Network | None = None) -> Content:
    """A medium as a file: a local one as it lies, up to `max_file_bytes`; any other as `read_source` gives it.

    Raises:
        FetchError, MediaLimitError, MediaError: As `read_source`.
    """
    if not is_local(source):
        content = read_source(source, policy, network)
        return Content(shown(source), lambda: io.BytesIO(content), content[:_HEAD], len(content))
    limits = replace(policy, max_bytes=policy.max_file_bytes)
    with open_local(source, limits) as file:
        head, size = file.read(_HEAD), os.fstat(file.fileno()).st_size
    if not head:
        raise MediaError(f"{shown(source)}: expected media content, got nothing (0 bytes)")
    return Content(shown(source), lambda: open_local(source, limits), head, size)


def read_source(source: Any, policy: MediaPolicy, network: Network | None = None) -> bytes:
    """Encoded content of a medium.

    Args:
        source: Path, http(s) URL, data URI, bytes or an open binary file.
        policy: What may be opened.
        network: Replaces the operating system's, in tests.

    Raises:
        FetchError: The policy refuses the source, or it cannot be reached.
        MediaLimitError: It is larger than the policy allows.
        MediaError: It is of no known kind, or empty.
    """
    if isinstance(source, bytes | bytearray | memoryview):
        content = bytes(source)
        if len(content) > policy.max_bytes:
            raise _too_large("bytes", policy)
    elif isinstance(source, io.IOBase):
        content = source.read(policy.max_bytes + 1)
        if not isinstance(content, bytes):
            raise MediaError("open file: expected one in binary mode, got text")
        if len(content) > policy.max_bytes:
            raise _too_large("open file", policy)
    elif isinstance(source, str) and source[:5].lower() == "data:":
        content = _data_uri(source, policy)
    elif isinstance(source, str) and _SCHEME.match(source):
        content = fetch(source, policy, network)
    elif isinstance(source, str | os.PathLike):
        content = _file(open_local(source, policy), policy)
    else:
        raise MediaError(f"expected a path, URL, data URI or bytes, got {type(source).__name__}")
    if not content:
        raise MediaError(f"{shown(source)}: expected media content, got nothing (0 bytes)")
    return content


def is_local(source: Any) -> bool:
    """Whether a source names a local file."""
    if isinstance(source, str):
        return source[:5].lower() != "data:" and not _SCHEME.match(source)
    return isinstance(source, os.PathLike)


def local_path(source: str | os.PathLike[str], policy: MediaPolicy) -> Path:
    """The real path of a local source, if the policy allows it; it need not exist.

    Raises:
        FetchError: The policy refuses it. The message does not tell whether it exists.
    """
    name = os.fspath(source)
    if policy.local_files == "none":
        raise FetchError(f"{shown(name)}: local files are not allowed here; send the content as a data URI")
    try:
        path = Path(os.path.realpath(os.path.expanduser(name) if policy.local_files == "any" else name))
    except (ValueError, OSError) as error:
        raise FetchError(f"{shown(name)}: expected a path, got: {error}") from error
    if policy.local_files == "roots" and not any(path.is_relative_to(os.path.realpath(root)) for root in policy.roots):
        raise FetchError(f"{shown(name)}: expected a file under an allowed folder; this one is outside")
    return path


def open_local(source: str | os.PathLike[str], policy: MediaPolicy) -> io.BufferedReader:
    """Open a local file for reading.

    Raises:
        FetchError: The policy refuses it, or it is missing, unreadable or not a regular file.
        MediaLimitError: It is larger than the policy allows.
    """
    path = local_path(source, policy)
    # O_NOFOLLOW: the path is real already, so a link here was put in its place since. O_NONBLOCK: a pipe must not hang.
    flags = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    try:
        descriptor = os.open(path, flags)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise FetchError(f"{shown(source)}: cannot be opened: {reason}") from error
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode):
        os.close(descriptor)
        raise FetchError(f"{shown(source)}: expected a file, got a folder or device")
    if status.st_size > policy.max_bytes:
        os.close(descriptor)
        raise _too_large(shown(source), policy)
    return os.fdopen(descriptor, "rb")


def shown(source: Any) -> str:
    """A source for a message: short and on one line."""
    if isinstance(source, str | os.PathLike):
        text = os.fspath(source)
        text = text.split(",", 1)[0][:40] if text[:5].lower() == "data:" else text[:200]
        return "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in str(text))
    return type(source).__name__


def _file(file: io.BufferedReader, policy: MediaPolicy) -> bytes:
    with file:
        content = file.read(policy.max_bytes + 1)
    if len(content) > policy.max_bytes:
        raise _too_large("file", policy)
    return content


def _data_uri(uri: str, policy: MediaPolicy) -> bytes:
    header, comma, payload = uri[5:].partition(",")
    if not comma:
        raise MediaError("data URI: expected data:<type>;base64,<content>, got no comma")
    if not header.lower().endswith(";base64"):
        if len(payload) > 3 * policy.max_bytes:
            raise _too_large("data URI", policy)
        content = unquote_to_bytes(payload)
    else:
        if len(payload) * 3 // 4 > policy.max_bytes + 3:
            raise _too_large("data URI", policy)
        try:
            compact = "".join(payload.split())
            content = base64.b64decode(compact + "=" * (-len(compact) % 4), validate=True)
        except (binascii.Error, ValueError) as error:
            raise MediaError(f"data URI: expected base64 content, got: {error}") from error
    if len(content) > policy.max_bytes:
        raise _too_large("data URI", policy)
    return content


def _too_large(name: str, policy: MediaPolicy) -> MediaLimitError:
    return MediaLimitError(f"{name}: expected at most {policy.max_bytes} bytes, got more")
