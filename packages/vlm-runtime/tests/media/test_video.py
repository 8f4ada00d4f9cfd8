from __future__ import annotations

import importlib.util
import io
import struct

import numpy as np
import pytest
from PIL import Image as Pillow

from vlm_runtime.errors import ExtraMissing, FetchError, MediaError, MediaLimitError, OptionError
from vlm_runtime.media import readers
from vlm_runtime.media.policy import MediaPolicy
from vlm_runtime.media.video import EvenSampling, load_video

needs_av = pytest.mark.skipif(not readers.is_installed("av"), reason="PyAV is not installed")
needs_decord = pytest.mark.skipif(not readers.is_installed("decord"), reason="decord is not installed")
COUNT, HEIGHT, WIDTH = 30, 64, 96


def picture(index: int) -> np.ndarray:
    """A smooth picture whose brightness and place of a bar tell its index."""
    frame = np.full((HEIGHT, WIDTH, 3), 40, np.uint8)
    frame[:, index * 3 : index * 3 + 6] = (200, 120, 60)
    frame[:16] = 8 * index
    return frame


def encode(kind: str = "mp4", codec: str = "libx264", count: int = COUNT, rate: int = 10, **options) -> bytes:
    import av

    buffer = io.BytesIO()
    stamps = options.pop("stamps", range(count))
    with av.open(buffer, "w", format=kind) as container:
        stream = container.add_stream(codec, rate=rate, options=options)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        for index, stamp in zip(range(count), stamps):
            frame = av.VideoFrame.from_ndarray(picture(index), format="rgb24")
            frame.pts = stamp
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return buffer.getvalue()


@pytest.fixture(scope="session")
def clip() -> bytes:
    return encode(g="10", bf="2")  # several groups of pictures, with B-frames


def index_of(frame: np.ndarray) -> int:
    return round(float(frame[:12].mean()) / 8)


@needs_av
@pytest.mark.parametrize(
    ("kind", "codec"),
    [("mp4", "libx264"), ("matroska", "libx264"), ("avi", "mpeg4"), ("webm", "libvpx"), ("mpegts", "libx264")],
)
def test_containers_give_the_frames_asked_for(kind, codec):
    content = encode(kind, codec, b="4M") if codec in ("mpeg4", "libvpx") else encode(kind, codec)
    video = load_video(content, sample=lambda total, rate: [0, 7, 8, 29], reader="av")
    assert video.frames.shape == (4, HEIGHT, WIDTH, 3) and video.total == COUNT
    assert [index_of(frame) for frame in video.frames] == [0, 7, 8, 29]
    assert video.fps == pytest.approx(10) and video.timestamps == pytest.approx((0.0, 0.7, 0.8, 2.9))
    assert video.indices == (0, 7, 8, 29) and video.duration == pytest.approx(3.0)


@needs_av
@needs_decord
@pytest.mark.parametrize("options", [{}, {"g": "10", "bf": "2"}, {"color_primaries": "bt709", "colorspace": "bt709"}])
def test_readers_give_equal_frames(options):
    content = encode(**options)
    rule = EvenSampling(fps=4)
    by_av, by_decord = (load_video(content, sample=rule, reader=reader) for reader in ("av", "decord"))
    assert by_av.indices == by_decord.indices and by_av.total == by_decord.total
    assert by_av.fps == pytest.approx(by_decord.fps)
    assert by_av.timestamps == pytest.approx(by_decord.timestamps)
    difference = np.abs(by_av.frames.astype(int) - by_decord.frames)
    assert difference.mean(axis=(1, 2, 3)).max() < 2


@needs_av
def test_local_files_are_not_read_into_memory(clip, tmp_path):
    path = tmp_path / "a.mp4"
    path.write_bytes(clip)
    assert load_video(path, MediaPolicy(max_bytes=100), sample=EvenSampling(max_frames=2)).total == COUNT
    with pytest.raises(MediaLimitError, match="at most 100 bytes"):
        load_video(path, MediaPolicy(max_file_bytes=100))
    path.write_bytes(b"")
    with pytest.raises(MediaError, match="0 bytes"):
        load_video(path)


@needs_av
def test_sources_and_digests(clip, tmp_path):
    path = tmp_path / "a.mp4"
    path.write_bytes(clip)
    rule = EvenSampling(max_frames=3)
    videos = [load_video(source, sample=rule) for source in (path, str(path), clip, io.BytesIO(clip))]
    assert len({video.digest for video in videos}) == 1
    assert load_video(clip, sample=EvenSampling(max_frames=4)).digest != videos[0].digest
    assert load_video(videos[0]) is videos[0]


@needs_av
def test_turned_videos_come_out_upright(clip):
    plain = load_video(clip, sample=EvenSampling(max_frames=3), reader="av")
    matrix = clip.index(b"tkhd") + 44
    quarter = struct.pack(
        ">9i", 0, 1 << 16, 0, -(1 << 16), 0, 0, 0, 0, 1 << 30
    )  # a quarter clockwise, as phones write it
    turned = load_video(clip[:matrix] + quarter + clip[matrix + 36 :], sample=EvenSampling(max_frames=3), reader="av")
    assert (turned.frames == np.rot90(plain.frames, -1, axes=(1, 2))).all()


@needs_av
def test_varying_frame_rates_give_the_files_times():
    stamps = [0, 1, 2, 3, 4, 20, 21, 22, 40, 60]
    video = load_video(encode("matroska", count=10, stamps=stamps))
    assert video.timestamps == pytest.approx([stamp / 10 for stamp in stamps], abs=2e-3)
    assert "varies" in video.note


def test_even_sampling():
    assert EvenSampling()(4, 10.0).tolist() == [0, 1, 2, 3]
    assert EvenSampling(fps=1)(30, 10.0).tolist() == [0, 14, 29]
    assert EvenSampling(fps=100)(3, 10.0).tolist() == [0, 1, 2]
    assert EvenSampling(fps=0.01)(30, 10.0).tolist() == [0]
    assert EvenSampling(max_frames=2)(30, 10.0).tolist() == [0, 29]
    for options in ({"fps": 0}, {"fps": -1.0}, {"fps": float("nan")}, {"max_frames": 0}):
        with pytest.raises(OptionError):
            EvenSampling(**options)


def test_rules_must_name_frames_that_exist():
    content = animation()
    for indices in ([], [3, 1], [-1], [6]):
        with pytest.raises(OptionError, match="ascending frame numbers"):
            load_video(content, sample=lambda total, rate, indices=indices: indices)


def animation(kind: str = "GIF", count: int = 6) -> bytes:
    buffer = io.BytesIO()
    frames = [Pillow.fromarray(picture(index)) for index in range(count)]
    frames[0].save(buffer, kind, save_all=True, append_images=frames[1:], duration=200)
    return buffer.getvalue()


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP"])
def test_animations(kind):
    video = load_video(animation(kind), sample=lambda total, rate: [0, 5])
    assert [index_of(frame) for frame in video.frames] == [0, 5]
    assert video.fps == pytest.approx(5.0) and video.timestamps == pytest.approx((0.0, 1.0)) and video.total == 6


def test_pictures_as_frames(tmp_path):
    for index in range(3):
        Pillow.fromarray(picture(index)).save(tmp_path / f"frame_{index:03d}.png")
    (tmp_path / "notes.txt").write_text("not a picture")
    paths = sorted(tmp_path.glob("*.png"))
    array = np.stack([picture(index) for index in range(3)])
    videos = [load_video(source, frame_rate=2.0) for source in (tmp_path, str(tmp_path), paths, array, list(array))]
    assert all((video.frames == array).all() for video in videos)
    assert {video.timestamps for video in videos} == {(0.0, 0.5, 1.0)}
    assert len({video.digest for video in videos}) == 1
    assert "one a second" in load_video(paths).note
    with pytest.raises(MediaError, match="frame 1: expected 96x64"):
        load_video([array[0], array[1][:10]])
    for nothing in ([], array[0]):
        with pytest.raises(MediaError, match="expected frames"):
            load_video(nothing)
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(MediaError, match="found none"):
        load_video(empty)
    with pytest.raises(OptionError, match="frame_rate"):
        load_video(animation(), frame_rate=2.0)


def test_folders_obey_the_policy(tmp_path):
    policy = MediaPolicy.for_server(is_loopback=False, roots=(tmp_path / "allowed",))
    with pytest.raises(FetchError, match="outside"):
        load_video(tmp_path, policy)


@needs_av
def test_limits_are_the_policys(clip):
    for limits, match in (
        ({"max_pixels": 1000}, "pixels a frame"),
        ({"max_video_frames": 20}, "20 frames"),
        ({"max_video_seconds": 2.0}, "2 s of video"),
        ({"max_sampled_frames": 10}, "10 frames to be taken"),
        ({"max_sampled_pixels": 100_000}, "pixels in the frames taken"),
        ({"max_decode_seconds": 1e-9}, "took longer"),
        ({"max_bytes": 100}, "bytes"),
    ):
        with pytest.raises(MediaLimitError, match=match):
            load_video(clip, MediaPolicy(**limits))
    with pytest.raises(MediaLimitError, match="3 frames to be taken"):
        load_video([picture(0)] * 4, MediaPolicy(max_sampled_frames=3))
    with pytest.raises(MediaLimitError, match="5 frames"):
        load_video(animation(), MediaPolicy(max_video_frames=5))


@needs_av
@pytest.mark.parametrize(
    "content",
    [
        b"#EXTM3U\n#EXTINF:1,\nfile:///etc/passwd\n", b"ffconcat version 1.0\nfile /etc/passwd\n", b"hello",
        b"\0\0\0\x18ftypmp42" + b"\0" * 300, b"<html>",
    ],
)  # fmt: skip
def test_playlists_and_other_files_are_refused(content):
    with pytest.raises(MediaError, match="expected a video"):
        load_video(content)


@needs_av
def test_truncated_and_damaged_files_are_named(clip):
    with pytest.raises(MediaError):
        load_video(clip[: len(clip) // 2])
    transport = encode("mpegts", "libx264")
    random = np.random.default_rng(0)
    for _ in range(20):
        broken = bytearray(transport)
        for place in random.integers(400, len(broken), 200):
            broken[place] = random.integers(256)
        try:
            video = load_video(bytes(broken), sample=EvenSampling(max_frames=4))
        except MediaError as error:
            assert "\n" not in str(error)
        else:
            assert len(video.frames) == len(video.indices)


@needs_av
def test_sound_alone_is_no_video():
    import av

    buffer = io.BytesIO()
    with av.open(buffer, "w", format="matroska") as container:
        stream = container.add_stream("pcm_s16le", rate=8000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), format="s16", layout="mono")
        frame.rate = 8000
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    with pytest.raises(MediaError, match="without a video track"):
        load_video(buffer.getvalue(), reader="av")


def test_without_a_reader_the_extra_is_named(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ExtraMissing, match=r"vlm-runtime\[video\]"):
        load_video(b"\0\0\0\x18ftypmp42")
    with pytest.raises(ExtraMissing, match=r"vlm-runtime\[video\]"):
        load_video(b"\0\0\0\x18ftypmp42", reader="decord")
    with pytest.raises(MediaError, match="expected one of"):
        load_video(b"\0\0\0\x18ftypmp42", reader="opencv")
    assert load_video(animation()).total == 6
