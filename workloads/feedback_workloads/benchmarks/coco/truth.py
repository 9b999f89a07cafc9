"""Which of COCO's classes are in a picture: those of its annotated instances, and those that its captions name."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

from feedback_workloads.benchmarks.coco.objects import Vocabulary
from feedback_workloads.benchmarks.english.words import Reduce
from feedback_workloads.contract import BadInput
from feedback_workloads.rows.json_files import Row, read_rows, read_text

Truth = Mapping[int, frozenset[str]]
"""Classes by COCO's number of the picture."""

WHAT: Final = (
    "a folder with COCO's instances_*.json and captions_*.json (2014, train and val), or a table of a picture a line "
    "(its number, a tab, its classes with commas between them)"
)


FILES: Final = ("instances_*.json*", "captions_*.json*")
"""What is read in a folder."""


def read_truth(source: Path, pictures: frozenset[int], vocabulary: Vocabulary, reduce: Reduce) -> Truth:
    """The classes in each of `pictures`; captions are read by `reduce`. BadInput where `source` lacks one of them."""
    truth = _of_annotations(source, pictures, vocabulary, reduce) if source.is_dir() else _of_table(source, pictures)
    if missing := pictures - truth.keys():
        raise BadInput(
            f"{source}: {len(missing)} of the {len(pictures)} pictures that were asked about are not in it, the first "
            f"is {min(missing)}; give {WHAT}, of the split that the answers are about"
        )
    return truth


def _of_table(file: Path, pictures: frozenset[int]) -> Truth:
    truth: dict[int, frozenset[str]] = {}
    for number, line in enumerate(read_text(file).splitlines(), 1):
        match line.split("\t"):
            case [picture, classes] if picture.isdecimal():
                if int(picture) in pictures:
                    truth[int(picture)] = frozenset(filter(None, classes.split(",")))
            case _:
                raise BadInput(f"{file}, line {number}: {line[:60]!r} is no picture with its classes; give {WHAT}")
    return truth


def _of_annotations(folder: Path, pictures: frozenset[int], vocabulary: Vocabulary, reduce: Reduce) -> Truth:
    truth: dict[int, set[str]] = defaultdict(set)
    for document in _documents(folder, "instances"):
        for row in document.rows("images"):
            if row.integer("id") in pictures:
                truth[row.integer("id")] |= set()  # a picture may have no instance
        names = {row.integer("id"): _class(row, vocabulary) for row in document.rows("categories")}
        for row in document.rows("annotations"):
            if (picture := row.integer("image_id")) in pictures:
                truth[picture].add(_name(row, names))
    captions = [
        row
        for document in _documents(folder, "captions")
        for row in document.rows("annotations")
        if row.integer("image_id") in pictures
    ]
    for row, words in zip(captions, reduce([row.text("caption") for row in captions]), strict=True):
        truth[row.integer("image_id")].update(vocabulary.named(words).classes)
    return {picture: frozenset(classes) for picture, classes in truth.items()}


def _documents(folder: Path, kind: str) -> Iterator[Row]:
    """One of COCO's two kinds of annotations; a file is a single object."""
    found = sorted(folder.glob(f"{kind}_*.json*"))
    if not found:
        raise BadInput(f"{folder}: there is no {kind}_*.json in it; give {WHAT}")
    for file in found:
        yield from read_rows(file)


def _name(instance: Row, names: Mapping[int, str]) -> str:
    category = instance.integer("category_id")
    if category not in names:
        raise BadInput(f"{instance.place}: there is no category {category} in that file; give COCO's own annotations")
    return names[category]


def _class(category: Row, vocabulary: Vocabulary) -> str:
    name = category.text("name")
    if name not in vocabulary.class_of:
        raise BadInput(f"{category.place}: {name!r} is none of COCO's 80 categories; give COCO's own annotations")
    return vocabulary.class_of[name]
