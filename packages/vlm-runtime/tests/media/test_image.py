from __future__ import annotations

import base64
import io
import struct
import zlib

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image as Pillow

from vlm_runtime.errors import FetchError, MediaError, MediaLimitError
from vlm_runtime.media.image import load_image
from vlm_runtime.media.policy import MediaPolicy


def test_every_source_gives_the_same_pixels_and_digest(tmp_path, gradient, encoded):
    content = encoded()
    path = tmp_path / "a picture.png"
    path.write_bytes(content)
    uri = "data:image/png;base64," + base64.b64encode(content).decode()
    sources = [str(path), path, content, bytearray(content), io.BytesIO(content), uri, Pillow.open(path), gradient]
    images = [load_image(source) for source in sources]
    assert all((image.rgb == gradient).all() for image in images)
    assert len({image.digest for image in images}) == 1
    assert load_image(gradient[:, ::-1]).digest != images[0].digest
    assert load_image(images[0]) is images[0]


def test_equal_bytes_of_another_shape_have_another_digest():
    flat = np.zeros((2, 6, 3), np.uint8)
    assert load_image(flat).digest != load_image(flat.reshape(3, 4, 3)).digest


def test_orientation_is_applied(gradient, encoded):
    exif = Pillow.Exif()
    exif[0x0112] = 6  # to be turned a quarter clockwise
    turned = load_image(encoded("PNG", exif=exif))
    assert (turned.rgb == np.rot90(gradient, -1)).all()


@pytest.mark.parametrize("mode", ["L", "LA", "RGBA", "P", "1", "CMYK", "YCbCr"])
def test_modes_equal_pillows_conversion(mode, gradient):
    picture = Pillow.fromarray(gradient).convert(mode)
    assert (load_image(picture).rgb == np.asarray(picture.convert("RGB"))).all()


def test_alpha_is_dropped_not_blended(encoded):
    picture = Pillow.new("RGBA", (2, 2), (10, 20, 30, 0))
    assert load_image(encoded("PNG", picture)).rgb[0, 0].tolist() == [10, 20, 30]


def test_palette_with_transparency(gradient, encoded):
    picture = Pillow.fromarray(gradient).quantize(16)
    content = encoded("PNG", picture, transparency=bytes(range(16)))
    assert (load_image(content).rgb == np.asarray(picture.convert("RGB"))).all()


def test_cmyk_jpeg(gradient, encoded):
    picture = Pillow.fromarray(gradient).convert("CMYK")
    image = load_image(encoded("JPEG", picture, quality=95))
    assert np.abs(image.rgb.astype(int) - gradient).mean() < 4


def test_sixteen_bit_grey_is_scaled(encoded):
    values = np.array([[0, 256, 32768, 65535]], np.uint16)
    image = load_image(encoded("PNG", Pillow.fromarray(values)))
    assert image.rgb[0, :, 0].tolist() == [0, 1, 128, 255]
    assert "16-bit" in image.note


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP"])
def test_first_frame_of_an_animation_is_taken_and_said(kind, encoded):
    frames = [Pillow.new("RGB", (8, 8), color) for color in ("red", "blue")]
    image = load_image(encoded(kind, frames[0], save_all=True, append_images=frames[1:]))
    assert image.rgb[4, 4, 0] > 200 and image.rgb[4, 4, 2] < 60
    assert "first frame" in image.note
    assert load_image(encoded(kind, frames[0])).note == ""


def test_smallest_image_is_an_image():
    assert load_image(np.zeros((1, 2, 3), np.uint8)).size == (1, 2)


def test_arrays_of_other_layouts(gradient):
    assert (load_image(gradient.transpose(2, 0, 1)).rgb == gradient).all()
    assert (load_image(gradient / np.float32(255)).rgb == gradient).all()
    assert (load_image(gradient[:, :, 0]).rgb == gradient[:, :, :1]).all()
    assert (load_image(gradient.astype(np.int64)).rgb == gradient).all()
    assert load_image(np.array([[True, False]])).rgb[0, :, 0].tolist() == [255, 0]


@pytest.mark.parametrize(
    "array",
    [
        np.zeros((2, 2, 2)), np.zeros((4,)), np.zeros((0, 4, 3), np.uint8), np.full((2, 2), 2.0),
        np.full((2, 2, 3), np.nan), np.full((2, 2, 3), 300), np.full((2, 2, 3), "x"),
    ],
)  # fmt: skip
def test_arrays_that_are_no_image(array):
    with pytest.raises(MediaError):
        load_image(array)


def test_changing_the_array_later_changes_nothing(gradient):
    array = gradient.copy()
    image = load_image(array)
    array[:] = 0
    assert (image.rgb == gradient).all()


def declared(width: int, height: int) -> bytes:
    """A PNG of a few bytes that declares a size."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    body = zlib.compress(b"\0" * 100)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", body) + chunk(b"IEND", b"")


@pytest.mark.parametrize("size", [(20000, 20000), (10000, 10000), (100_000, 1000)])
def test_declared_bombs_are_refused_before_decoding(size):
    with pytest.raises(MediaLimitError, match="pixels"):
        load_image(declared(*size))


def test_limits_are_the_policys(gradient, encoded):
    with pytest.raises(MediaLimitError, match="32x24"):
        load_image(encoded(), MediaPolicy(max_pixels=700))
    with pytest.raises(MediaLimitError, match="700"):
        load_image(gradient, MediaPolicy(max_pixels=700))
    with pytest.raises(MediaLimitError, match="bytes"):
        load_image(encoded(), MediaPolicy(max_bytes=50))


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "WEBP", "BMP", "TIFF"])
def test_truncated_files_are_named(kind, encoded):
    content = encoded(kind)
    with pytest.raises(MediaError, match=r"damaged|expected an image"):
        load_image(content[: len(content) * 2 // 3])


@pytest.mark.parametrize(
    ("content", "match"),
    [(b"hello", "something else"), (b"<!DOCTYPE html><p>", "HTML"), (b"<svg/>", "SVG"), (b"", "0 bytes")],
)
def test_not_an_image(content, match):
    with pytest.raises(MediaError, match=match):
        load_image(content)


def test_unknown_kinds_of_source():
    with pytest.raises(MediaError, match="got int"):
        load_image(3)
    with pytest.raises(FetchError, match="No such file"):
        load_image("no/such/file.png")
    with pytest.raises(MediaError, match="no comma"):
        load_image("data:image/png;base64")
    with pytest.raises(MediaError, match="base64"):
        load_image("data:image/png;base64,@@@@")


@given(data=st.data())
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_damaged_files_give_an_image_or_a_named_error(encoded, data):
    kind = data.draw(st.sampled_from(["PNG", "JPEG", "GIF", "WEBP", "BMP", "TIFF", "PPM", "ICO", "TGA", "QOI"]))
    content = bytearray(encoded(kind))
    for _ in range(data.draw(st.integers(1, 6))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    try:
        image = load_image(bytes(content), MediaPolicy(max_pixels=10_000))
    except MediaError as error:
        assert "\n" not in str(error)
    else:
        assert image.rgb.dtype == np.uint8 and image.rgb.ndim == 3
