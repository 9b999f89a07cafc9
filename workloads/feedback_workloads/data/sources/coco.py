"""MSCOCO (cocodataset.org): pictures, each with captions and the classes of the objects in it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

from feedback_workloads.data.drafts import Draft, Drafts, Published, number, question_about, rejected, text
from feedback_workloads.data.lookups import Lookup
from feedback_workloads.data.records import items
from feedback_workloads.data.trees import Tree
from feedback_workloads.rows.rejected import BadRow

CAPTIONS: Final = "captions_*.json"
INSTANCES: Final = "instances_*.json"


def rows(tree: Tree, _: Mapping[str, str]) -> Drafts:
    """A question for a description of each picture; its captions as reference, its classes as truth where known.

    Classes are those of annotated instances, crowds too. An empty list says that nothing is annotated.
    """
    captions, instances = tree.need("file of captions", CAPTIONS), tree.find(INSTANCES)
    with TemporaryDirectory(prefix="feedback-coco-") as scratch:
        said = Lookup(Path(scratch) / "captions", _captions(tree, captions))
        shown = Lookup(Path(scratch) / "classes", _classes(tree, instances))
        for name in captions:
            known = any(_split(name) == _split(other) for other in instances)
            licences = {row["id"]: row["name"] for row in items(tree, name, "licenses.item")}
            for row, image in enumerate(items(tree, name, "images.item"), 1):
                try:
                    yield _draft(tree, image, said, shown if known else None, licences)
                except BadRow as bad:
                    yield rejected(f"{name}:{row}", bad)


def _draft(
    tree: Tree, image: Mapping[str, Any], said: Lookup, shown: Lookup | None, licences: Mapping[int, str]
) -> Draft:
    key, path = number(image, "id"), text(image, "file_name")
    id = str(key)
    captions = [" ".join(str(caption).split()) for caption in said.all(key)]
    licence, page = licences.get(image.get("license", -1)), image.get("flickr_url") or image.get("coco_url")
    return Draft(
        id,
        partial(tree.picture, path),
        path,
        {
            "question": question_about(id),
            "reference": "\n".join(filter(None, captions)) or None,
            "truth": json.dumps(sorted(set(shown.all(key)))) if shown else None,
            "attribution": ", ".join(filter(None, (page, licence))) or None,
        },
    )


def picture_names(subset: str, key: int) -> tuple[str, str]:
    """How a picture is called in the archives of 2014 and in those of 2017."""
    return f"COCO_{subset}_{key:012}.jpg", f"{key:012}.jpg"


def _captions(tree: Tree, names: list[str]) -> Iterator[tuple[int, str]]:
    for name in names:
        for one in items(tree, name, "annotations.item"):
            yield one["image_id"], one["caption"]


def _classes(tree: Tree, names: list[str]) -> Iterator[tuple[int, str]]:
    for name in names:
        classes = {one["id"]: one["name"] for one in items(tree, name, "categories.item")}
        for one in items(tree, name, "annotations.item"):
            yield one["image_id"], classes[one["category_id"]]


def _split(name: str) -> str:
    """`train2014` of `annotations/captions_train2014.json`."""
    return Path(name).name.split(".")[0].partition("_")[2]


COCO = Published(
    title="MSCOCO",
    home="https://cocodataset.org/#download",
    licence="cc-by-4.0",
    terms="annotations CC BY 4.0; each picture under the Flickr licence that its row names",
    files="annotations_trainval2014.zip (or 2017) and the archives or folders of pictures",
    kind="instructions",
    rows=rows,
)
