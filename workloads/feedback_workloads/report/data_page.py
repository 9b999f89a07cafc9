"""data.html: what is in a data set, and some of its rows with their pictures. All of it is untrusted text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from feedback_workloads.report.page import picture, template


@dataclass(frozen=True)
class Example:
    """A row: its encoded pictures, and its texts by what they are, the question among them."""

    id: str
    images: Sequence[bytes]
    texts: Mapping[str, str]


def render(uri: str, numbers: Mapping[str, str], examples: Sequence[Example]) -> str:
    """The whole page; `numbers` is what is told of the data set, by name."""
    return template("data.html").render(
        uri=uri,
        numbers=numbers,
        examples=[
            {
                "id": one.id,
                "pictures": [picture(image) for image in one.images],
                "question": one.texts["question"],
                "texts": {name: text for name, text in one.texts.items() if name != "question"},
            }
            for one in examples
        ],
    )
