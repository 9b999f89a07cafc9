"""Decoding of pictures: what is refused and why, and what comes out."""

from __future__ import annotations

import struct
import zlib
from io import BytesIO
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image, ImageOps

from feedback_workloads.models.llava import Llava
from feedback_workloads.models.pictures import MAX_PIXELS, load_picture
from feedback_workloads.rows.rejected import BadRow


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


RAMP = np.linspace(0, 65535, 256).round()[None].repeat(2, axis=0)
"""Shades from black to white, 257 apart of 65535."""


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(encoded(Image.fromarray(RAMP.astype(np.uint16))), id="PNG of 16 bits"),
        pytest.param(encoded(Image.fromarray(RAMP.astype(">u2")), "TIFF"), id="TIFF of 16 bits, big-endian"),
        pytest.param(encoded(Image.fromarray(RAMP.astype(np.int32)), "TIFF"), id="TIFF of 32 bits, 16 of them used"),
        pytest.param(encoded(Image.fromarray((RAMP * 5 - 9).astype(np.int32)), "TIFF"), id="TIFF of 32 bits"),
        pytest.param(encoded(Image.fromarray((RAMP / 65535).astype(np.float32)), "TIFF"), id="floats to 1"),
        pytest.param(encoded(Image.fromarray((RAMP / 257).astype(np.float32)), "TIFF"), id="floats to 255"),
        pytest.param(encoded(Image.fromarray((RAMP - 4000).astype(np.float32)), "TIFF"), id="floats of any range"),
    ],
)
def test_shades_beyond_256_are_scaled_and_not_clipped(data: bytes) -> None:
    assert [load_picture(data).getpixel((x, 0)) for x in range(256)] == [(x, x, x) for x in range(256)]


def test_a_picture_of_one_shade_and_of_what_is_no_number() -> None:
    shades = np.full((2, 2), 5000, np.float32)
    assert load_picture(encoded(Image.fromarray(shades), "TIFF")).size == (2, 2)
    shades[0, 0] = np.nan
    assert load_picture(encoded(Image.fromarray(shades), "TIFF")).getpixel((1, 1)) == (255, 255, 255)


def glyph(mode: str) -> Image.Image:
    """Eight black pixels on a transparent ground of black, four times as many; half transparent at its foot."""
    picture = Image.new("LA", (8, 5), (0, 0))
    picture.paste((0, 255), (3, 0, 5, 4))
    picture.paste((0, 128), (3, 4, 5, 5))
    return picture.convert("RGBA").quantize() if mode == "P" else picture.convert(mode)


def one_colour_transparent(mode: str) -> bytes:
    """The same glyph in a mode without alpha, one colour of which stands for what is transparent (tRNS)."""
    picture = Image.new("L", (8, 5), 9)
    picture.paste(0, (3, 0, 5, 4))
    return encoded(picture.convert(mode), transparency=9 if mode == "L" else (9, 9, 9))


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(encoded(glyph("RGBA")), id="PNG, RGBA"),
        pytest.param(encoded(glyph("LA")), id="PNG, LA"),
        pytest.param(encoded(glyph("P")), id="PNG, palette"),
        pytest.param(one_colour_transparent("L"), id="PNG, one gray transparent"),
        pytest.param(one_colour_transparent("RGB"), id="PNG, one colour transparent"),
        pytest.param(encoded(glyph("RGBA"), "WEBP", lossless=True), id="WebP"),
        pytest.param(encoded(glyph("RGBA"), "TIFF"), id="TIFF"),
        pytest.param(encoded(glyph("RGBA"), "GIF"), id="GIF"),
        pytest.param(encoded(glyph("RGBA"), "PNG", save_all=True, append_images=[glyph("RGBA")]), id="APNG"),
    ],
)
def test_a_black_glyph_on_a_transparent_ground_is_not_black_on_black(data: bytes) -> None:
    picture = load_picture(data)
    assert picture.mode == "RGB"
    assert {picture.getpixel((x, y)) for x in (0, 2, 5, 7) for y in range(4)} == {(255, 255, 255)}
    assert {picture.getpixel((x, y)) for x in (3, 4) for y in range(4)} == {(0, 0, 0)}


def test_what_is_half_transparent_is_half_white() -> None:
    assert load_picture(encoded(glyph("RGBA"))).getpixel((3, 4)) == (127, 127, 127)


def test_an_opaque_picture_keeps_its_pixels() -> None:
    noise = Image.effect_noise((16, 16), 200).convert("RGB")
    assert load_picture(encoded(noise)).tobytes() == noise.tobytes()
    assert load_picture(encoded(noise.convert("RGBA"))).tobytes() == noise.tobytes()


TURNED = Image.effect_noise((6, 4), 200).convert("RGB")
ORIENTATION = 0x0112


@pytest.mark.parametrize("orientation", range(10))
def test_upright_as_exif_says(orientation: int) -> None:
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    data = encoded(TURNED, "PNG", exif=exif)
    upright = ImageOps.exif_transpose(Image.open(BytesIO(data)))
    assert load_picture(data).tobytes() == upright.tobytes()
    assert load_picture(data).size == ((4, 6) if 5 <= orientation <= 8 else (6, 4))


def jpeg_with_exif(*tags: tuple[int, int, int, bytes], claimed: int | None = None) -> bytes:
    """A JPEG of 40 x 20 pixels with these tags (number, type, count, value) in its EXIF, whether they are sound or not.

    `claimed` is how many it says that there are.
    """
    number_of_tags = struct.pack("<H", len(tags) if claimed is None else claimed)
    entries = b"".join(struct.pack("<HHI", number, kind, count) + value for number, kind, count, value in tags)
    exif = b"Exif\0\0II*\0\x08\0\0\0" + number_of_tags + entries + bytes(4)
    plain = encoded(Image.new("RGB", (40, 20), "red"), "JPEG")
    return plain[:2] + b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif + plain[2:]


BY_A_QUARTER = (ORIENTATION, 3, 1, struct.pack("<HH", 6, 0))


@pytest.mark.parametrize(
    ("data", "size"),
    [
        pytest.param(jpeg_with_exif(BY_A_QUARTER), (20, 40), id="sound"),
        pytest.param(jpeg_with_exif(BY_A_QUARTER, (0x11A, 2, 4, b"72x\0")), (20, 40), id="resolution as text"),
        pytest.param(
            jpeg_with_exif(BY_A_QUARTER, (0x128, 4, 1, struct.pack("<I", 70000))), (20, 40), id="unit too large"
        ),
        pytest.param(jpeg_with_exif((ORIENTATION, 2, 4, b"six\0")), (40, 20), id="orientation as text"),
        pytest.param(
            jpeg_with_exif((ORIENTATION, 3, 9, struct.pack("<I", 1 << 30))), (40, 20), id="orientation nowhere"
        ),
        pytest.param(jpeg_with_exif((ORIENTATION, 99, 1, bytes(4))), (40, 20), id="type unknown"),
        pytest.param(jpeg_with_exif(BY_A_QUARTER, claimed=9), (20, 40), id="cut short"),
        pytest.param(jpeg_with_exif().replace(b"II*", b"no!"), (40, 20), id="no EXIF"),
    ],
)
def test_a_sound_picture_is_not_lost_for_its_metadata(data: bytes, size: tuple[int, int]) -> None:
    assert load_picture(data).size == size


def llava(crops: bool) -> Llava:
    """A LLaVA-1.5 of which nothing is there but how its processor treats pictures."""
    family = Llava(Path("model"), {"model_type": "llava"})
    family.processor = SimpleNamespace(
        image_processor=SimpleNamespace(image_mean=(1.0, 0.5, 0.0), do_center_crop=crops)
    )
    return family


def test_padded_to_a_square_where_the_processor_would_crop() -> None:
    wide = encoded(Image.new("RGB", (6, 2), "white"))
    square = llava(crops=True).picture(wide)
    assert square.size == (6, 6)
    assert square.getpixel((0, 0)) == square.getpixel((5, 5)) == (255, 127, 0)
    assert square.getpixel((0, 2)) == square.getpixel((5, 3)) == (255, 255, 255)


@pytest.mark.parametrize(
    ("crops", "size"), [pytest.param(True, (5, 5), id="square"), pytest.param(False, (6, 2), id="not cropped")]
)
def test_left_as_it_is(crops: bool, size: tuple[int, int]) -> None:
    given = encoded(Image.new("RGB", size, "white"))
    assert llava(crops).picture(given).size == size


def test_too_long_to_pad() -> None:
    strip = encoded(Image.new("L", (16000, 1)))
    with pytest.raises(BadRow, match="too long to pad"):
        llava(crops=True).picture(strip)
