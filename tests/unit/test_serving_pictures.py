"""How many pictures a request may have: as the model takes, and no more bytes and pixels than one picture alone."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Sequence
from io import BytesIO
from typing import Any

import pytest
from PIL import Image

from feedback_workloads.models.family import Rendering, Shown
from feedback_workloads.models.pictures import load_picture
from feedback_workloads.serving.errors import ApiError
from feedback_workloads.serving.intake.pictures import PictureHosts, Pictures
from feedback_workloads.serving.prompts import Prompts
from feedback_workloads.serving.protocol.parts import Conversation, PictureURL

TOKEN = 7


class Family:
    """Stands for a family: each part is a token."""

    thinks = False
    banned_ids = (TOKEN,)

    def __init__(self, most_pictures: int) -> None:
        self.most_pictures = most_pictures

    def show(self, pictures: Sequence[bytes]) -> tuple[Shown, ...]:
        return tuple(Shown(load_picture(data), "", 4) for data in pictures)

    def chat_ids(self, messages: Sequence[Any], rendering: Rendering) -> list[int]:
        return [TOKEN if part["type"] == "image" else 0 for message in messages for part in message["content"]]


def png(width: int, height: int) -> bytes:
    stream = BytesIO()
    Image.new("1", (width, height)).save(stream, "PNG")
    return stream.getvalue()


def asked(*pictures: bytes) -> Conversation:
    """One turn a picture."""
    turns = tuple({"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "?"}]} for _ in pictures)
    urls = [f"data:image/png;base64,{base64.b64encode(data).decode()}" for data in pictures]
    return Conversation(turns, tuple(PictureURL(url, f"messages[{n}]") for n, url in enumerate(urls)))


def prompt(conversation: Conversation, most_pictures: int, max_bytes: int = 1 << 20) -> Any:
    family: Any = Family(most_pictures)
    prompts = Prompts(family, 100, Pictures(PictureHosts.read([], []), max_bytes))

    async def ask() -> Any:
        arrived: Any = None  # of what is fetched
        return await prompts.prompt(await prompts.gather(conversation, arrived))

    return asyncio.run(ask())


def test_several_pictures() -> None:
    found = prompt(asked(png(8, 6), png(5, 9)), most_pictures=64)
    assert [one.size for one in found.pictures] == [(8, 6), (5, 9)]
    assert (list(found.ids), found.length) == ([TOKEN, 0, TOKEN, 0], 10)


@pytest.mark.parametrize(
    ("conversation", "most", "max_bytes", "param", "code", "message"),
    [
        pytest.param(asked(png(2, 2), png(2, 2)), 1, 1 << 20, "messages[1]", "too_many_pictures",
                     "2 pictures were sent; this model takes one", id="one is what it takes"),
        pytest.param(asked(*[png(2, 2)] * 65), 64, 1 << 20, "messages[64]", "too_many_pictures",
                     "65 pictures were sent; this model takes 64", id="of any"),
        pytest.param(asked(png(8, 6), png(8, 6)), 64, len(png(8, 6)) + 1, "messages[1]", "image_too_large",
                     "bytes together, more than", id="bytes"),
        pytest.param(asked(png(3000, 3000), png(3000, 3000)), 64, 1 << 20, "messages[1]", "image_too_large",
                     "18000000 pixels together, more than 16777216", id="pixels"),
        pytest.param(asked(png(8, 6), b"no picture"), 64, 1 << 20, "messages[1]", "invalid_image",
                     "cannot be decoded", id="the second is none"),
    ],
)  # fmt: skip
def test_too_much(conversation: Conversation, most: int, max_bytes: int, param: str, code: str, message: str) -> None:
    with pytest.raises(ApiError) as refused:
        prompt(conversation, most, max_bytes)
    assert (refused.value.status, refused.value.param, refused.value.code) == (400, param, code)
    assert message in str(refused.value.body())
