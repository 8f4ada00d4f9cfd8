"""Fetch a URL through one guarded door: public addresses only, pinned, with caps on size, time and redirects."""

from __future__ import annotations

import http.client
import socket
import ssl
import threading
import time
from typing import Protocol
from urllib.parse import SplitResult, quote, urljoin, urlsplit

from vlm_runtime.errors import FetchError, MediaError, MediaLimitError
from vlm_runtime.media.addresses import is_odd_number, is_public
from vlm_runtime.media.policy import MediaPolicy

_REDIRECTS = (301, 302, 303, 307, 308)
_CHUNK = 1 << 16
_SAFE = "/%:@!$&'()*+,;=~-._?"


class Network(Protocol):
    """How names become addresses and addresses connections; tests bring their own."""

    def resolve(self, host: str, port: int, timeout: float) -> list[str]:
        """Addresses of a host. Raises OSError."""

    def connect(self, address: str, port: int, timeout: float) -> socket.socket:
        """A TCP connection to an address. Raises OSError."""


class SystemNetwork:
    """The operating system's resolver and sockets."""

    def resolve(self, host: str, port: int, timeout: float) -> list[str]:
        found: list[str] = []
        failure: list[OSError] = []

        def look_up() -> None:
            try:
                rows = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
                found.extend(dict.fromkeys(str(row[4][0]) for row in rows))
            except OSError as error:
                failure.append(error)
            except UnicodeError as error:
                failure.append(OSError(str(error)))

        thread = threading.Thread(target=look_up, daemon=True)  # getaddrinfo takes no timeout
        thread.start()
        thread.join(timeout)
        if thread.is_alive():
            raise TimeoutError("name resolution")
        if failure:
            raise failure[0]
        return found

    def connect(self, address: str, port: int, timeout: float) -> socket.socket:
        return socket.create_connection((address, port), timeout=timeout)


def fetch(url: str, policy: MediaPolicy, network: Network | None = None) -> bytes:
    """Content of an http or https URL.

    Raises:
        FetchError: The URL, an address it leads to, a redirect or the answer is refused; or the fetch fails.
        MediaLimitError: The content is larger, or takes longer, than the policy allows.
    """
    if not policy.allow_urls:
        raise FetchError(f"{_shown(url)}: URLs are not allowed here; send the content as a data URI")
    network = network or SystemNetwork()
    deadline = time.monotonic() + policy.max_fetch_seconds
    for _ in range(policy.max_redirects + 1):
        answer = _get(url, policy, network, deadline)
        if isinstance(answer, bytes):
            return answer
        url = answer.location
    raise FetchError(f"{_shown(url)}: expected at most {policy.max_redirects} redirects, got more")


class _Redirect:
    def __init__(self, location: str) -> None:
        self.location = location


def _get(url: str, policy: MediaPolicy, network: Network, deadline: float) -> bytes | _Redirect:
    parts, host, port = _split(url)
    try:
        address = _checked_address(url, host, port, policy, network, deadline)
        stream = network.connect(address, port, _left(deadline))
        try:
            if parts.scheme == "https":
                context = ssl.create_default_context()
                stream = context.wrap_socket(stream, server_hostname=host, do_handshake_on_connect=False)
            return _exchange(url, parts, stream, policy, deadline)
        finally:
            stream.close()
    except MediaError:
        raise
    except (OSError, http.client.HTTPException, ValueError) as error:
        if time.monotonic() >= deadline or isinstance(error, TimeoutError):
            raise MediaLimitError(
                f"{_shown(url)}: expected an answer within {policy.max_fetch_seconds:g} s, got none or a part"
            ) from error
        raise FetchError(f"{_shown(url)}: cannot be fetched: {type(error).__name__}: {error}") from error


def _exchange(
    url: str, parts: SplitResult, stream: socket.socket, policy: MediaPolicy, deadline: float
) -> bytes | _Redirect:
    # A server that drips single bytes never trips a socket timeout: the timer ends the whole exchange.
    watchdog = threading.Timer(_left(deadline), _shut, (stream,))
    watchdog.daemon = True
    watchdog.start()
    try:
        stream.settimeout(_left(deadline))
        if isinstance(stream, ssl.SSLSocket):
            stream.do_handshake()
        connection = http.client.HTTPConnection(parts.netloc)
        connection.sock = stream
        target = quote(parts.path or "/", safe=_SAFE) + ("?" + quote(parts.query, safe=_SAFE) if parts.query else "")
        headers = {"Host": parts.netloc, "User-Agent": "vlm-runtime", "Accept-Encoding": "identity"}
        connection.request("GET", target, headers=headers)
        with connection.getresponse() as response:
            return _read(url, response, policy, deadline)
    finally:
        watchdog.cancel()


def _read(url: str, response: http.client.HTTPResponse, policy: MediaPolicy, deadline: float) -> bytes | _Redirect:
    if response.status in _REDIRECTS:
        location = response.getheader("Location")
        if not location:
            raise FetchError(f"{_shown(url)}: redirect {response.status} without a location")
        return _Redirect(urljoin(url, location))
    if response.status != 200:
        raise FetchError(f"{_shown(url)}: expected status 200, got {response.status}")
    if response.getheader("Content-Encoding", "identity").lower() != "identity":
        raise FetchError(f"{_shown(url)}: expected plain content, got Content-Encoding; use another host")
    too_large = MediaLimitError(f"{_shown(url)}: expected at most {policy.max_bytes} bytes, got more")
    if response.length is not None and response.length > policy.max_bytes:
        raise too_large
    content = bytearray()
    while chunk := response.read(_CHUNK):
        content += chunk
        if len(content) > policy.max_bytes:
            raise too_large
        _left(deadline)
    if time.monotonic() >= deadline:
        raise TimeoutError("deadline")
    if response.length:
        raise FetchError(f"{_shown(url)}: the answer is truncated, {response.length} bytes are missing; try again")
    return bytes(content)


def _split(url: str) -> tuple[SplitResult, str, int]:
    if any(ord(letter) <= 0x20 or letter in "\\\x7f" for letter in url):
        raise FetchError(f"{_shown(url)}: expected a URL without blanks, control characters or backslashes")
    try:
        parts = urlsplit(url)
        port = parts.port or (443 if parts.scheme == "https" else 80)
    except ValueError as error:
        raise FetchError(f"{_shown(url)}: expected a URL, got: {error}") from error
    if parts.scheme not in ("http", "https"):
        raise FetchError(f"{_shown(url)}: expected http or https, got {parts.scheme or 'no scheme'}")
    if parts.username is not None or parts.password is not None:
        raise FetchError(f"{parts.hostname}: expected a URL without user name and password")
    if not parts.hostname or is_odd_number(parts.hostname):
        raise FetchError(f"{_shown(url)}: expected a host name or a plain address, got {parts.hostname!r}")
    try:
        host = parts.hostname if ":" in parts.hostname else parts.hostname.encode("idna").decode("ascii")
    except UnicodeError as error:
        raise FetchError(f"{_shown(url)}: expected a host name, got {parts.hostname!r}") from error
    netloc = f"[{host}]" if ":" in host else host
    return parts._replace(netloc=netloc if parts.port is None else f"{netloc}:{parts.port}"), host, port


def _checked_address(url: str, host: str, port: int, policy: MediaPolicy, network: Network, deadline: float) -> str:
    try:
        addresses = network.resolve(host, port, _left(deadline))
    except TimeoutError as error:
        raise MediaLimitError(f"{_shown(url)}: the host's name is not resolved in time") from error
    except OSError as error:
        raise FetchError(f"{_shown(url)}: host {host!r} cannot be resolved") from error
    if not addresses:
        raise FetchError(f"{_shown(url)}: host {host!r} has no address")
    if not policy.allow_private_hosts and not all(is_public(address) for address in addresses):
        raise FetchError(f"{_shown(url)}: host {host!r} is not on the public internet; such hosts are refused")
    return addresses[0]


def _left(deadline: float) -> float:
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError("deadline")
    return left


def _shut(stream: socket.socket) -> None:
    try:
        socket.socket.shutdown(stream, socket.SHUT_RDWR)  # TLS's own shutdown would race with the reader
    except OSError:  # already closed: the fetch ended as the timer fired
        return


def _shown(url: str) -> str:
    """The URL for a message: without its query, which may hold a signature, and on one line."""
    return ascii(url.split("?", 1)[0][:200])[1:-1]
