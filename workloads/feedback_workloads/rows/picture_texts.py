"""Pictures that are spelled as text: base64, plain or as a data URL, as RLAIF-V's own files have them."""

from __future__ import annotations

import base64
import binascii
import re
from typing import Final
from urllib.parse import unquote

from feedback_workloads.rows.rejected import BadRow

PICTURE_LIMIT_BYTES: Final = 64 << 20
"""Largest picture file that is read; how many pixels it may have is decided where it is decoded."""

BEGINNINGS: Final = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"RIFF", b"GIF8", b"BM", b"II*\0", b"MM\0*")
"""What files of the formats begin with that are decoded: JPEG, PNG, WebP, GIF, BMP, TIFF."""

SHORTEST: Final = 48
"""Characters of base64 below which a text is a path: no picture is as small."""

_BASE64: Final = re.compile(r"[A-Za-z0-9+/_\-\s]+={0,2}\s*")
_DATA_URL: Final = re.compile(r"data:[^,]*;base64,", re.IGNORECASE)


def picture_in(text: str) -> bytes | None:
    """The encoded picture that a text spells in base64; None where it spells none, so that it may be a path.

    A JPEG in base64 begins like an absolute path (`/9j/`): what tells them apart is whether a picture comes out. Line
    breaks are let pass, and padding may be missing. Raises BadRow where the picture is too large, or a data URL broken.
    """
    url = _DATA_URL.match(text)
    spelled = text[url.end() :] if url else text
    if len(spelled) > 2 * PICTURE_LIMIT_BYTES:
        raise BadRow("picture-too-large", f"the picture has {len(spelled)} characters of base64")
    spelled = unquote(spelled) if url else spelled
    if not url and (len(spelled) < SHORTEST or not _begins_a_picture(spelled)):
        return None
    data = _decoded(spelled) if _BASE64.fullmatch(spelled) else None
    if data is None and url:
        raise BadRow("undecodable-picture", "the data URL of the picture is not base64")
    return data


def _begins_a_picture(spelled: str) -> bool:
    start = _decoded("".join(spelled[:SHORTEST].split())[:16])
    return start is not None and start.startswith(BEGINNINGS)


def _decoded(spelled: str) -> bytes | None:
    digits = "".join(spelled.split()).rstrip("=").replace("-", "+").replace("_", "/")
    try:
        return base64.b64decode(digits + "=" * (-len(digits) % 4), validate=True)
    except (binascii.Error, ValueError):  # ValueError: letters beyond ASCII
        return None
