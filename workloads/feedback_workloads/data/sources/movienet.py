"""MovieNet (movienet.github.io): keyframes of films, with tags of the place and of what is done in a scene."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import PurePosixPath
from typing import Any, Final

from feedback_workloads.data.drafts import Draft, Drafts, Published, question_about, rejected
from feedback_workloads.data.records import value
from feedback_workloads.data.trees import Tree
from feedback_workloads.rows.rejected import BadRow

FILMS: Final = "tt[0-9]*.json"
FRAME: Final = 1
"""The middle one of a shot's three keyframes."""


def rows(tree: Tree, _: Mapping[str, str]) -> Drafts:
    """A question about the keyframe in the middle of each scene, with the scene's tags as reference."""
    for name in tree.need("annotation of a film", FILMS):
        film = PurePosixPath(name).stem
        scenes = value(tree, name, "scene")
        if not scenes:
            yield rejected(name, BadRow("no-scenes", "the film has no scenes"))
            continue
        for at, scene in enumerate(scenes, 1):
            try:
                yield _draft(tree, f"{film}-{at}", film, scene)
            except BadRow as bad:
                yield rejected(f"{name}:{at}", bad)


def _draft(tree: Tree, id: str, film: str, scene: Mapping[str, Any]) -> Draft:
    shots = scene.get("shot")
    if not isinstance(shots, list) or not shots or not all(isinstance(shot, int) for shot in shots):
        raise BadRow("wrong-type", f"the shots of the scene are {shots!r}, not their first and last number")
    path = f"{film}/shot_{(shots[0] + shots[-1]) // 2:04}_img_{FRAME}.jpg"
    tags = [*_tags(scene.get("place_tag")), *_tags(scene.get("action_tag"))]
    columns = {"question": question_about(id), "reference": ", ".join(tags) or None}
    return Draft(id, partial(tree.picture, path), path, columns)


def _tags(found: object) -> Iterator[str]:
    """The tags of a field: a list, a word, or a list that is spelled as Python spells it."""
    if isinstance(found, str) and found.startswith("["):
        try:
            found = ast.literal_eval(found)
        except (ValueError, SyntaxError, RecursionError, MemoryError) as error:
            raise BadRow("wrong-type", f"the tags {str(found)[:80]!r} are no list") from error
    many: list[object] = found if isinstance(found, list) else [found]
    yield from (str(tag) for tag in many if tag)


MOVIENET = Published(
    title="MovieNet",
    home="https://movienet.github.io",
    licence="other",
    terms="research use only, by an agreement with its authors; the films are their owners'",
    files="annotation/tt….json and the keyframes tt…/shot_0000_img_1.jpg",
    kind="instructions",
    rows=rows,
)
