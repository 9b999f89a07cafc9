"""`feedback data convert`: a public data set, as it is published, to rows of ours."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

from PIL import Image

from feedback_workloads.contract import BadInput
from feedback_workloads.data.cards import Card
from feedback_workloads.data.drafts import Draft, Published
from feedback_workloads.data.sources import source
from feedback_workloads.data.trees import open_tree
from feedback_workloads.data.writing import DataSetWriter
from feedback_workloads.models.pictures import FORMATS, MAX_PIXELS
from feedback_workloads.rows.rejected import BadRow, Rejected
from feedback_workloads.rows.schemas import INSTRUCTIONS, PREFERENCES
from feedback_workloads.storage.artifacts import ArtifactStore

SCHEMAS: Final = {"instructions": INSTRUCTIONS, "pairs": PREFERENCES}
_NAME: Final = re.compile(r"[a-z0-9][a-z0-9.-]{0,39}")


def convert(
    store: ArtifactStore, name: str, *, given: Sequence[str], to: str, options: Mapping[str, str], called: str | None
) -> dict[str, int]:
    """Write the source `name`, whose files stand at the URIs `given`, to the folder `to`; return the counts.

    Ids begin with `called`, by default the source's name. Rows that cannot be used are counted by reason and kept in
    `_rejected.jsonl`. Raises BadInput, naming file or option, where nothing can be read.
    """
    published, prefix = source(name), called or name
    if not _NAME.fullmatch(prefix):
        raise BadInput(f"the name {prefix!r} is not one for ids; give up to 40 of a-z, 0-9, '.' and '-'")
    if unknown := next((key for key in options if key not in published.options), None):
        known = ", ".join(published.options) or "none"
        raise BadInput(f"there is no option {unknown!r} of the source {name}; its options: {known}")
    with TemporaryDirectory(prefix="feedback-data-") as folder:
        scratch = Path(folder)
        schema = SCHEMAS[published.kind]
        writer = DataSetWriter(store, to, schema, scratch)
        taken: set[str] = set()
        for draft in published.rows(open_tree(store, given, scratch), options):
            try:
                if isinstance(draft, Rejected):
                    writer.reject(draft)
                elif draft.id in taken:
                    raise BadRow("duplicate-id", f"the id {draft.id!r} is taken by an earlier row")
                else:
                    taken.add(draft.id)
                    writer.write(_row(draft, prefix, schema.names))
            except BadRow as bad:
                writer.reject(Rejected(f"{prefix}-{draft.id}", None, bad.reason, bad.detail))
        if not writer.counts["rows"]:
            raise BadInput(_why_empty(name, published, writer.counts))
        origin = published.origin(prefix, writer.counts["rows"])
        about = f"Made of {published.title} by `feedback data convert {name}`."
        config = {"source": name, "from": list(given), "options": dict(options), "origins": [vars(origin)]}
        writer.finish("convert", config, Card(published.title, [origin], [about]).text(writer.counts))
        return dict(writer.counts)


def _row(draft: Draft, prefix: str, names: Sequence[str]) -> dict[str, Any]:
    data = draft.picture()
    check_picture(data)
    given = {
        "id": f"{prefix}-{draft.id}",
        "image": {"bytes": data, "path": draft.path},
        "source": prefix,
        **draft.columns,
    }
    return {name: given.get(name) for name in names}


def check_picture(data: bytes) -> None:
    """Raise BadRow where the head of an encoded picture says that it is none, or too large; pixels are not decoded."""
    try:
        with Image.open(BytesIO(data), formats=FORMATS) as picture:
            pixels = picture.width * picture.height
    except Exception as error:  # of as many kinds as there are kinds of damage
        raise BadRow("undecodable-picture", f"{len(data)} bytes that are none of {', '.join(FORMATS)}") from error
    if pixels > MAX_PIXELS:
        raise BadRow("picture-too-large", f"{pixels} pixels, more than {MAX_PIXELS}")


def _why_empty(name: str, published: Published, counts: Mapping[str, int]) -> str:
    reasons = {key.removeprefix("rejected_"): many for key, many in counts.items() if key.startswith("rejected_")}
    most = max(reasons, key=lambda reason: reasons[reason], default=None)
    why = f"all {counts['rejected']} rows were left out, most as {most}" if most else "there is no row in it"
    return f"nothing of the source {name} can be used: {why}; it needs {published.files}"
