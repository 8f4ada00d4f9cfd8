from __future__ import annotations

import os

import pytest

from vlm_runtime.errors import FetchError, MediaError, MediaLimitError, OptionError
from vlm_runtime.media.policy import MediaPolicy
from vlm_runtime.media.source import read_source


@pytest.fixture
def folders(tmp_path):
    inside, outside = tmp_path / "allowed", tmp_path / "secret"
    inside.mkdir()
    outside.mkdir()
    (inside / "a.bin").write_bytes(b"inside")
    (outside / "b.bin").write_bytes(b"outside")
    (inside / "link.bin").symlink_to(outside / "b.bin")
    (inside / "folder").symlink_to(outside)
    return inside, outside


def test_allowed_folder_holds(folders):
    inside, outside = folders
    policy = MediaPolicy.for_server(is_loopback=False, roots=(inside,))
    assert read_source(str(inside / "a.bin"), policy) == b"inside"
    assert read_source(f"{inside}/../allowed/a.bin", policy) == b"inside"
    escapes = [
        outside / "b.bin", inside / "link.bin", inside / "folder" / "b.bin", f"{inside}/../secret/b.bin",
        f"{inside}/folder/../b.bin", f"{inside}x", "/etc/passwd", "~/a.bin", "",
    ]  # fmt: skip
    for escape in escapes:
        with pytest.raises(FetchError, match=r"outside|cannot be opened"):
            read_source(str(escape), policy)


def test_refusal_does_not_tell_whether_a_file_exists(folders):
    inside, outside = folders
    policy = MediaPolicy.for_server(is_loopback=False, roots=(inside,))
    messages = []
    for name in ("b.bin", "c.bin"):
        with pytest.raises(FetchError) as error:
            read_source(str(outside / name), policy)
        messages.append(str(error.value).replace(name, ""))
    assert messages[0] == messages[1]


def test_server_without_folders(folders):
    inside, _ = folders
    with pytest.raises(FetchError, match="not allowed"):
        read_source(inside / "a.bin", MediaPolicy.for_server(is_loopback=False))
    assert read_source(inside / "a.bin", MediaPolicy.for_server(is_loopback=True)) == b"inside"


def test_only_regular_files_are_opened(tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    for source in (pipe, tmp_path, "/dev/zero"):
        with pytest.raises(FetchError, match=r"expected a file|cannot be opened"):
            read_source(source, MediaPolicy())
    with pytest.raises(FetchError):
        read_source("a\0b", MediaPolicy())


def test_file_urls_are_refused():
    for url in ("file:///etc/passwd", "FILE:///etc/passwd", "ftp://host/a", "gopher://host"):
        with pytest.raises(FetchError, match="expected http or https"):
            read_source(url, MediaPolicy())


def test_data_uris(tmp_path):
    assert read_source("data:,a%20b", MediaPolicy()) == b"a b"
    assert read_source("DATA:text/plain;base64,aGk", MediaPolicy()) == b"hi"
    assert read_source("data:audio/wav;base64,aG\nk=", MediaPolicy()) == b"hi"
    for uri in ("data:;base64,aGkhaGkhaGkh", "data:,123456789"):
        with pytest.raises(MediaLimitError):
            read_source(uri, MediaPolicy(max_bytes=8))


def test_open_files_and_bytes_obey_the_size_limit(tmp_path):
    policy = MediaPolicy(max_bytes=8)
    path = tmp_path / "a"
    path.write_bytes(b"123456789")
    for source in (path, b"123456789", path.open("rb")):
        with pytest.raises(MediaLimitError):
            read_source(source, policy)
        if hasattr(source, "close"):
            source.close()
    with path.open() as text, pytest.raises(MediaError, match="binary"):
        read_source(text, policy)


def test_messages_are_one_printable_line():
    with pytest.raises(FetchError) as error:
        read_source("a\r\nb\x1b[31m" + "x" * 1000, MediaPolicy())
    assert str(error.value).isprintable() and len(str(error.value)) < 400


def test_policy_checks_itself():
    with pytest.raises(OptionError, match="local_files"):
        MediaPolicy(local_files="some")
    with pytest.raises(OptionError, match="max_pixels"):
        MediaPolicy(max_pixels=0)
