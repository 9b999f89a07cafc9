"""Pictures as they arrive: decoded once, in the one way that all stages and the server share.

A picture that is decoded in one way for sampling and in another for training makes the sampler's log-probabilities
meaningless as references.
"""

from __future__ import annotations

import base64
import hashlib
import math
import warnings
from io import BytesIO
from typing import Final

import numpy as np
from PIL import ExifTags, Image, UnidentifiedImageError

from feedback_workloads.rows.rejected import BadRow

MAX_PIXELS: Final = 16_777_216
"""A larger picture is refused before it is decoded, so that memory is bounded (4096 x 4096)."""

FORMATS: Final = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")
"""What is decoded. PIL knows more, among them EPS, which it hands to an interpreter of programs."""

TURNS: Final = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What turns a picture upright, by its EXIF orientation (EXIF 2.3, tag 0x0112); 1 is upright."""

DEEP_MODES: Final = frozenset({"I;16", "I;16L", "I;16B", "I", "F"})
"""Modes of one channel with more than 256 shades, which PIL would clip to 0 and 255 where it makes RGB of them."""


def load_picture(data: bytes) -> Image.Image:
    """Decode an encoded picture to RGB, upright as its EXIF orientation says, on white where it is transparent.

    Shades beyond 256 are scaled, not clipped.

    Raises BadRow `undecodable-picture` or `picture-too-large`; the size is read from the header, before any decoding.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            picture = Image.open(BytesIO(data), formats=FORMATS)
        if picture.width * picture.height > MAX_PIXELS:
            raise BadRow("picture-too-large", f"{picture.width} x {picture.height} pixels, more than {MAX_PIXELS}")
        picture.load()
        return _on_white(_in_256_shades(_upright(picture)))
    except BadRow:
        raise
    except Image.DecompressionBombError as error:
        raise BadRow("picture-too-large", str(error)) from error
    except UnidentifiedImageError as error:  # its own message has a memory address, which differs from run to run
        raise BadRow("undecodable-picture", f"{len(data)} bytes that are none of {', '.join(FORMATS)}") from error
    # PIL's decoders raise many kinds of errors on damaged data: OSError, SyntaxError, ValueError, struct.error, ...
    except Exception as error:
        raise BadRow("undecodable-picture", f"{type(error).__name__}: {error}") from error


def _upright(picture: Image.Image) -> Image.Image:
    """Turn a picture as its EXIF orientation says; where that cannot be read, leave it as its pixels are."""
    try:
        turn = TURNS.get(picture.getexif().get(ExifTags.Base.Orientation))
    except Exception:  # of as many kinds as those of damaged pixels, while the pixels themselves are sound
        return picture
    return picture if turn is None else picture.transpose(turn)


def _in_256_shades(picture: Image.Image) -> Image.Image:
    """A gray picture of 16 or 32 bits, or of floats, as a person would see it: black to white over its range.

    The range is that of the numbers' kind where they fit in it, 0 to 65535 of integers, 0 to 1 or 0 to 255 of floats;
    else from the least to the greatest number.
    """
    if picture.mode not in DEEP_MODES:
        return picture
    shades = np.nan_to_num(np.asarray(picture, dtype=np.float64), posinf=0, neginf=0)
    least, greatest = float(shades.min()), float(shades.max())
    ranges = (1.0, 255.0) if picture.mode == "F" else (65535.0,)
    white = next((white for white in ranges if least >= 0 and greatest <= white), None)
    if white is None:
        shades, white = shades - least, greatest - least or 1.0
    return Image.fromarray(np.rint(shades * (255 / white)).astype(np.uint8))


def _on_white(picture: Image.Image) -> Image.Image:
    """The picture in RGB, laid on white where it is transparent, as a page would show it."""
    if not picture.has_transparency_data:
        return picture.convert("RGB")
    white, layer = Image.new("RGB", picture.size, "white"), picture.convert("RGBA")
    white.paste(layer, mask=layer)
    return white


SENT_AS_IT_IS: Final = {"JPEG": "image/jpeg", "PNG": "image/png", "WEBP": "image/webp"}
"""Formats that APIs take, and how they call them."""


def data_url(data: bytes, longest_side: int | None = None) -> str:
    """An encoded picture as a `data:` URL, which shows what `load_picture` does, scaled down to the longest side.

    It is sent as it is where its own pixels are just those. Raises as `load_picture`.
    """
    picture = load_picture(data)
    own = Image.open(BytesIO(data))
    kind = own.format or ""
    scale = min(1.0, (longest_side or math.inf) / max(picture.size))
    if scale == 1.0 and own.mode == "RGB" and kind in SENT_AS_IT_IS and _upright(own) is own:
        return _data_url(SENT_AS_IT_IS[kind], data)
    if scale < 1.0:
        width, height = (max(1, round(side * scale)) for side in picture.size)
        picture = picture.resize((width, height), Image.Resampling.LANCZOS)
    encoded = BytesIO()
    if kind == "JPEG":
        picture.save(encoded, "JPEG", quality=95)
        return _data_url("image/jpeg", encoded.getvalue())
    picture.save(encoded, "PNG")
    return _data_url("image/png", encoded.getvalue())


def _data_url(kind: str, data: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


def picture_key(data: bytes) -> str:
    """A name for the content of an encoded picture."""
    return hashlib.sha256(data).hexdigest()
