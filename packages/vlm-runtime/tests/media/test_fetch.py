from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vlm_runtime.errors import FetchError, MediaError, MediaLimitError
from vlm_runtime.media.addresses import is_odd_number, is_public
from vlm_runtime.media.fetch import fetch
from vlm_runtime.media.image import load_image
from vlm_runtime.media.policy import MediaPolicy

POLICY = MediaPolicy(max_fetch_seconds=2.0, max_bytes=100_000, max_redirects=3)
NOT_PUBLIC = [
    "127.0.0.1", "127.8.8.8", "10.0.0.1", "172.16.0.1", "192.168.1.1", "169.254.169.254", "0.0.0.0", "100.64.0.1",
    "224.0.0.1", "240.0.0.1", "255.255.255.255", "192.0.2.1", "::1", "::", "fe80::1", "fe80::1%eth0", "fc00::1", "ff02::1",
    "::ffff:127.0.0.1", "::ffff:169.254.169.254", "::127.0.0.1", "64:ff9b::7f00:1", "2002:7f00:1::", "2001:db8::1",
]  # fmt: skip


@pytest.mark.parametrize("address", NOT_PUBLIC)
def test_addresses_that_are_not_public(address):
    assert not is_public(address)


@pytest.mark.parametrize(
    "address", ["93.184.216.34", "8.8.8.8", "2606:4700::1111", "::ffff:8.8.8.8", "64:ff9b::808:808"]
)
def test_addresses_that_are_public(address):
    assert is_public(address)


@pytest.mark.parametrize(
    "host", ["2130706433", "0x7f000001", "0x7f.1", "127.1", "0177.0.0.1", "127.0.0.01", "1.2.3.4."]
)
def test_odd_spellings_of_addresses(host):
    assert is_odd_number(host)


@pytest.mark.parametrize("host", ["127.0.0.1", "example.org", "1.2.3.example", "a1", "::1"])
def test_names_and_plain_addresses(host):
    assert not is_odd_number(host)


INSIDE = [
    *(address for address in NOT_PUBLIC if ":" not in address), "2130706433", "0x7f.1", "127.1", "0177.0.0.1", "localhost",
    "[::1]", "[::ffff:127.0.0.1]", "[fe80::1]", "[::ffff:a9fe:a9fe]", "①②⑦.0.0.1",
]  # fmt: skip


@pytest.mark.parametrize("host", INSIDE)
def test_hosts_inside_are_refused_without_a_connection(host, names):
    with pytest.raises(FetchError):
        fetch(f"http://{host}/a", POLICY, names)
    assert names.connected == []


def test_content_arrives_from_the_checked_address(server, names):
    server.reply(b"content")
    assert fetch("http://public.test:8080/a b".replace(" ", "%20") + "?q=1#part", POLICY, names) == b"content"
    assert names.connected == ["93.184.216.34"]
    request = server.requests[0].decode()
    assert request.startswith("GET /a%20b?q=1 HTTP/1.1\r\n")
    assert "\r\nHost: public.test:8080\r\n" in request
    assert "#" not in request


def test_an_image_by_url(server, names, gradient, encoded):
    server.reply(encoded())
    assert (load_image("http://public.test/a.png", POLICY, network=names).rgb == gradient).all()


def test_a_host_with_one_address_inside_is_refused(names):
    names.addresses["mixed.test"] = ["93.184.216.34", "127.0.0.1"]
    with pytest.raises(FetchError, match="not on the public internet"):
        fetch("http://mixed.test/", POLICY, names)
    assert names.connected == []


def test_private_hosts_can_be_allowed(server):
    server.reply(b"mine")
    policy = MediaPolicy(allow_private_hosts=True)
    assert fetch(f"http://127.0.0.1:{server.port}/", policy) == b"mine"


def test_urls_can_be_forbidden(names):
    with pytest.raises(FetchError, match="not allowed"):
        fetch("http://public.test/", MediaPolicy(allow_urls=False), names)


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_redirects_are_followed_within_the_public(status, server, names):
    server.redirect("/b", f"{status} Moved")
    server.reply(b"there")
    assert fetch("http://public.test/a", POLICY, names) == b"there"
    assert server.requests[1].startswith(b"GET /b ")


@pytest.mark.parametrize(
    "target",
    ["http://127.0.0.1/", "http://169.254.169.254/latest/meta-data/", "http://[::1]/", "http://2130706433/",
     "http://localhost:22/", "file:///etc/passwd", "//127.0.0.1/x", "ftp://public.test/", "data:,x", "http://u:p@public.test/"],
)  # fmt: skip
def test_redirects_inside_are_refused(target, server, names):
    server.redirect(target)
    with pytest.raises(FetchError):
        fetch("http://public.test/a", POLICY, names)
    assert names.connected == ["93.184.216.34"]


def test_redirects_have_an_end(server, names):
    for _ in range(10):
        server.redirect("/again")
    with pytest.raises(FetchError, match="at most 3 redirects"):
        fetch("http://public.test/a", POLICY, names)
    assert len(server.requests) == 4


def test_a_redirect_without_target_and_other_states(server, names):
    server.reply(b"", "302 Found")
    with pytest.raises(FetchError, match="without a location"):
        fetch("http://public.test/", POLICY, names)
    for status in ("404 Not Found", "500 Oops", "204 No Content", "206 Partial Content"):
        server.reply(b"", status)
        with pytest.raises(FetchError, match=status[:3]):
            fetch("http://public.test/", POLICY, names)


def test_declared_and_streamed_sizes_are_capped(server, names):
    server.reply(b"x", length=10**9)
    with pytest.raises(MediaLimitError, match="at most 100000 bytes"):
        fetch("http://public.test/", POLICY, names)

    def endless(connection):
        connection.sendall(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n")
        for _ in range(1000):
            connection.sendall(b"x" * 65536)

    server.replies.append(endless)
    with pytest.raises(MediaLimitError, match="at most 100000 bytes"):
        fetch("http://public.test/", POLICY, names)


def test_a_lying_length_is_noticed(server, names):
    server.reply(b"short", length=50)
    with pytest.raises(FetchError, match="truncated"):
        fetch("http://public.test/", POLICY, names)
    server.reply(b"longer than said", length=6)
    assert fetch("http://public.test/", POLICY, names) == b"longer"


def test_compressed_answers_are_refused(server, names):
    server.reply(b"x", "200 OK", "Content-Encoding: gzip")
    with pytest.raises(FetchError, match="Content-Encoding"):
        fetch("http://public.test/", POLICY, names)


@pytest.mark.parametrize("phase", ["silence", "header", "body"])
def test_slow_servers_are_cut_off(phase, server, names):
    def drip(connection):
        if phase == "silence":
            time.sleep(2)
            return
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n" + (b"\r\n" if phase == "body" else b"X: "))
        for _ in range(40):
            connection.sendall(b"x")
            time.sleep(0.05)

    server.replies.append(drip)
    start = time.monotonic()
    with pytest.raises(MediaLimitError, match=r"within 0\.5 s"):
        fetch("http://public.test/", MediaPolicy(max_fetch_seconds=0.5), names)
    assert time.monotonic() - start < 1.5


def test_garbage_answers_are_named(server, names):
    for garbage in (b"", b"\0\1\2", b"HTTP/1.1 nonsense\r\n\r\n", b"HTTP/1.1 200 OK\r\n" + b"A: b\r\n" * 500 + b"\r\n"):
        server.replies.append(garbage)
        with pytest.raises(FetchError, match="cannot be fetched"):
            fetch("http://public.test/", POLICY, names)


@pytest.mark.parametrize(
    "url",
    ["http://public.test/a\r\nX: y", "http://public.test/a b", "http://pub\tlic.test/", "http://public.test\\@127.0.0.1/",
     "http://user:pw@public.test/", "http://", "http://:80/", "http://public.test:99999/", "http://[::1/", "http://a..b/",
     "http://" + "a" * 300 + "/"],
)  # fmt: skip
def test_malformed_urls_are_refused(url, names):
    with pytest.raises(FetchError):
        fetch(url, POLICY, names)
    assert names.connected == []


def test_messages_hide_queries_and_stay_on_one_line(server, names):
    server.reply(b"", "403 No")
    with pytest.raises(FetchError) as error:
        fetch("http://public.test/a?signature=secret", POLICY, names)
    assert "secret" not in str(error.value) and "\n" not in str(error.value)


def test_untrusted_certificates_are_refused(server, names):
    server.replies.append(b"this is not TLS")
    with pytest.raises(FetchError, match="cannot be fetched"):
        fetch("https://public.test/", POLICY, names)


@given(st.text(max_size=60))
def test_any_text_is_refused_by_name(text):
    class Nowhere:
        def resolve(self, host, port, timeout):
            return ["127.0.0.1"]

        def connect(self, address, port, timeout):
            raise AssertionError("the door was open")

    with pytest.raises(MediaError):
        fetch("http://" + text, POLICY, Nowhere())
