"""Google Landmarks Dataset v2 (github.com/cvdfoundation/google-landmark): pictures of named places."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final
from urllib.parse import unquote

from feedback_workloads.data.drafts import Draft, Drafts, Published, question_about, rejected, text
from feedback_workloads.data.lookups import Lookup
from feedback_workloads.data.records import separated
from feedback_workloads.data.trees import Tree
from feedback_workloads.rows.rejected import BadRow

CLEAN: Final = "train_clean.csv"
TRAIN: Final = "train.csv"
CATEGORIES: Final = ("train_label_to_category.csv", "train_label_to_hierarchical.csv")
ATTRIBUTION: Final = "train_attribution.csv"

_NAME: Final = re.compile(r"[0-9a-f]{16}")


def rows(tree: Tree, _: Mapping[str, str]) -> Drafts:
    """A question about each picture; the landmark's name as reference, who took it as attribution, where known.

    Pictures are those of the clean list where it is there, else all of train.csv.
    """
    names = tree.find(CLEAN) or tree.need("list of pictures", TRAIN)
    with TemporaryDirectory(prefix="feedback-landmarks-") as scratch:
        called = Lookup(Path(scratch) / "categories", _categories(tree))
        taken = Lookup(Path(scratch) / "attribution", _attributions(tree))
        for name in names:
            for row, values in enumerate(separated(tree, name), 2):
                try:
                    if isinstance(values, BadRow):
                        raise values
                    landmark = text(values, "landmark_id")
                    for picture in _pictures(values):
                        yield _draft(tree, picture, called.one(landmark), taken.one(picture))
                except BadRow as bad:
                    yield rejected(f"{name}:{row}", bad)


def _pictures(values: Mapping[str, Any]) -> list[str]:
    """The names of a row's pictures; of a row without a good one nothing is taken."""
    names = text(values, "images" if "images" in values else "id").split()
    if wrong := next((name for name in names if not _NAME.fullmatch(name)), None):
        raise BadRow("wrong-type", f"{wrong[:40]!r} is no name of a picture, which has 16 hexadecimal digits")
    return names


def _draft(tree: Tree, picture: str, category: str | None, taken: str | None) -> Draft:
    path = f"{picture[0]}/{picture[1]}/{picture[2]}/{picture}.jpg"
    columns = {"question": question_about(picture), "reference": category, "attribution": taken}
    return Draft(picture, partial(tree.picture, path), path, columns)


def _categories(tree: Tree) -> Iterator[tuple[str, str]]:
    """Landmark and name, of `http://commons.wikimedia.org/wiki/Category:Name_With_Underscores`."""
    for name in tree.find(*CATEGORIES):
        for values in separated(tree, name):
            if not isinstance(values, BadRow) and (category := values.get("category")):
                yield values["landmark_id"], unquote(category.partition("Category:")[2]).replace("_", " ")


def _attributions(tree: Tree) -> Iterator[tuple[str, str]]:
    for name in tree.find(ATTRIBUTION):
        for values in separated(tree, name):
            if not isinstance(values, BadRow):
                yield values["id"], ", ".join(filter(None, (values.get(it) for it in ("title", "author", "license"))))


LANDMARKS = Published(
    title="Google Landmarks v2",
    home="https://github.com/cvdfoundation/google-landmark",
    licence="cc-by-4.0",
    terms="annotations CC BY 4.0; pictures CC BY, whose authors the column attribution names",
    files="train.csv or train_clean.csv, train_label_to_category.csv, train_attribution.csv, images_*.tar",
    kind="instructions",
    rows=rows,
)
