"""The truth about a picture in a column of a data set: some of COCO's classes."""

from __future__ import annotations

import json

from feedback_workloads.rows.rejected import BadRow


def classes_in(truth: str, classes: frozenset[str]) -> frozenset[str]:
    """What a text in a column `truth` has, a JSON list of some of the `classes`; BadRow where it is none."""
    try:
        names = json.loads(truth)
    except ValueError as error:
        raise BadRow("bad-truth", f"the truth {truth[:80]!r} is not JSON; give a list of COCO class names") from error
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise BadRow("bad-truth", f"the truth {truth[:80]!r} is not a list of texts; give a list of COCO class names")
    if unknown := set(names) - classes:
        raise BadRow("bad-truth", f"the truth names {min(unknown)!r}, which is none of COCO's 80 classes; correct it")
    return frozenset(names)
