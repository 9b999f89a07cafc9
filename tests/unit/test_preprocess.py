"""Decoding of pictures: what is refused and why, and what comes out."""

from __future__ import annotations

import struct
import zlib
from io import BytesIO
from types import SimpleNamespace

import pytest
from PIL import Image

from feedback_workloads.preprocess import MAX_PIXELS, Preprocessor, load_picture
from feedback_workloads.rows import BadRow


def encoded(picture: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    data = BytesIO()
    picture.save(data, kind, **options)
    return data.getvalue()


def png_header(width: int, height: int) -> bytes:
    """A PNG that claims a size and has no pixels."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"")


JPEG = encoded(Image.new("RGB", (640, 480), "red"), "JPEG")


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        pytest.param(b"", "undecodable-picture", id="nothing"),
        pytest.param(b"not a picture", "undecodable-picture", id="text"),
        pytest.param(JPEG[: len(JPEG) // 2], "undecodable-picture", id="truncated JPEG"),
        pytest.param(JPEG[:20], "undecodable-picture", id="truncated header"),
        pytest.param(png_header(640, 480), "undecodable-picture", id="PNG without pixels"),
        pytest.param(b"%!PS-Adobe-3.0 EPSF-3.0\n", "undecodable-picture", id="a program (EPS)"),
        pytest.param(png_header(5000, 4000), "picture-too-large", id="20 megapixels"),
        pytest.param(png_header(60000, 60000), "picture-too-large", id="3.6 gigapixels"),
    ],
)
def test_refused(data: bytes, reason: str) -> None:
    with pytest.raises(BadRow) as refused:
        load_picture(data)
    assert refused.value.reason == reason
    with pytest.raises(BadRow) as again:
        load_picture(bytes(bytearray(data)))
    assert again.value.detail == refused.value.detail, "the detail is kept in artifacts, so it must not vary"


def test_the_largest_size_is_not_refused_for_its_size() -> None:
    with pytest.raises(BadRow, match="undecodable"):
        load_picture(png_header(4096, MAX_PIXELS // 4096))


@pytest.mark.parametrize("mode", ["1", "L", "P", "LA", "RGBA", "CMYK", "I;16"])
def test_every_mode_becomes_rgb(mode: str) -> None:
    kind = "JPEG" if mode == "CMYK" else "PNG"
    assert load_picture(encoded(Image.new(mode, (4, 3)), kind)).mode == "RGB"


def test_upright_as_exif_says() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees
    picture = Image.new("RGB", (4, 2), "red")
    assert load_picture(encoded(picture, "JPEG", exif=exif)).size == (2, 4)


def preprocessor(pads: bool) -> Preprocessor:
    images = SimpleNamespace(image_mean=(1.0, 0.5, 0.0))
    tokenizer = SimpleNamespace(convert_tokens_to_ids=lambda token: 7)
    processor = SimpleNamespace(image_processor=images, tokenizer=tokenizer, image_token="<image>")
    return Preprocessor(processor, frozenset(), pads=pads)


def test_padded_to_a_square_where_the_processor_would_crop() -> None:
    wide = encoded(Image.new("RGB", (6, 2), "white"))
    square = preprocessor(pads=True).picture(wide)
    assert square.size == (6, 6)
    assert square.getpixel((0, 0)) == square.getpixel((5, 5)) == (255, 127, 0)
    assert square.getpixel((0, 2)) == square.getpixel((5, 3)) == (255, 255, 255)


@pytest.mark.parametrize(
    ("pads", "size"), [pytest.param(True, (5, 5), id="square"), pytest.param(False, (6, 2), id="not cropped")]
)
def test_left_as_it_is(pads: bool, size: tuple[int, int]) -> None:
    given = encoded(Image.new("RGB", size, "white"))
    assert preprocessor(pads).picture(given).size == size


def test_too_long_to_pad() -> None:
    strip = encoded(Image.new("L", (16000, 1)))
    with pytest.raises(BadRow, match="too long to pad"):
        preprocessor(pads=True).picture(strip)
