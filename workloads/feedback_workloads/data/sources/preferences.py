"""Pairs that others made: RLHF-V's, which people corrected, and RLAIF-V's, in each form in which they are published."""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Iterator, Mapping
from typing import Any, Final

from feedback_workloads.data.drafts import Draft, Drafts, Published, embedded, parsed, rejected, text
from feedback_workloads.data.records import records, separated
from feedback_workloads.data.trees import Tree
from feedback_workloads.rows.rejected import BadRow

TEXTS: Final = ("question", "chosen", "rejected")
ORIGIN: Final = ("ds_name", "origin_dataset", "origin_split", "image_path")
"""What else a row says, in the order of the published columns; `idx` is its id."""
TSV_COLUMNS: Final = ("ds_name", "image", "text", "origin_dataset", "origin_split", "idx", "image_path")
"""The first release's TSV has no line of names."""
ENCODED: Final = ("text", "origin_split")
"""Those of them that are base64; the picture is, too."""


def rows(tree: Tree, _: Mapping[str, str]) -> Drafts:
    """Pairs of parquet, JSON lines or the first release's TSV, with log-probabilities where they are there."""
    for place, values in _records(tree):
        try:
            if isinstance(values, BadRow):
                raise values
            yield _draft(tree, values)
        except BadRow as bad:
            yield rejected(place, bad)


def _records(tree: Tree) -> Iterator[tuple[str, Mapping[str, Any] | BadRow]]:
    for name in tree.need("table", "*.parquet", "*.jsonl", "*.tsv"):
        if name.endswith(".tsv"):
            yield from (
                (f"{name}:{row}", values if isinstance(values, BadRow) else _decoded(values))
                for row, values in enumerate(separated(tree, name, TSV_COLUMNS), 1)
            )
        else:
            yield from records(tree, [name])


def _decoded(values: Mapping[str, Any]) -> Mapping[str, Any] | BadRow:
    """A row of the first release, whose `text` is a list, as later ones have it."""
    try:
        plain = {name: base64.b64decode(values[name], validate=True).decode() for name in ENCODED}
        said = json.loads(plain["text"])
        asked = said if isinstance(said, dict) else dict(zip(TEXTS, said, strict=True))
    except (binascii.Error, ValueError, TypeError) as error:
        return BadRow("not-base64", f"the texts are no JSON in base64: {error}")
    return {**values, **plain, "text": json.dumps(asked)}


def _draft(tree: Tree, values: Mapping[str, Any]) -> Draft:
    said = parsed(values, "text") if values.get("text") is not None else values
    if not isinstance(said, dict):
        raise BadRow("wrong-type", "the field 'text' is no JSON object")
    pair = {name: text(said, name) for name in TEXTS}
    if pair["chosen"] == pair["rejected"]:
        raise BadRow("no-difference", "chosen and rejected are the same")
    key, image = values.get("idx"), values.get("image")
    if key is None or not str(key).strip():
        raise BadRow("missing-id", "the row has no idx")
    path = values.get("image_path") or None
    origin = {name: values[name] for name in ORIGIN if values.get(name) is not None}
    return Draft(
        str(key),
        embedded(tree, image, *([path] if path else [])),
        path,
        {
            **pair,
            "logps": _logps(said.get("logps", values.get("logps"))),
            "origin": json.dumps({**origin, "idx": key}, ensure_ascii=False),
        },
    )


def _logps(found: object) -> str | None:
    """Six values as JSON: sum, mean and one a token, of chosen and of rejected; published bare or below `logps`."""
    if found is None or found == "":
        return None
    try:
        values = json.loads(found) if isinstance(found, str) else found
    except ValueError as error:
        raise BadRow("wrong-logps", f"the log-probabilities are no JSON: {error}") from error
    if isinstance(values, dict):
        values = values.get("logps")
    if not isinstance(values, list) or len(values) != 6 or not all(map(_fits, values, (0, 0, 1) * 2)):
        raise BadRow("wrong-logps", "the log-probabilities are not sum, mean and a list, of chosen and of rejected")
    return found if isinstance(found, str) else json.dumps(values)


def _fits(value: object, many: int) -> bool:
    return isinstance(value, list) if many else isinstance(value, int | float)


RLHF_V = Published(
    title="RLHF-V",
    home="https://huggingface.co/datasets/openbmb/RLHF-V-Dataset",
    licence="cc-by-nc-4.0",
    terms="CC BY-NC 4.0",
    files="its parquet file (hf://datasets/openbmb/RLHF-V-Dataset), or the TSV of its first release",
    kind="pairs",
    rows=rows,
)
RLAIF_V = Published(
    title="RLAIF-V",
    home="https://huggingface.co/datasets/openbmb/RLAIF-V-Dataset",
    licence="cc-by-nc-4.0",
    terms="CC BY-NC 4.0",
    files="its parquet files (hf://datasets/openbmb/RLAIF-V-Dataset), or those with log-probabilities that it makes",
    kind="pairs",
    rows=rows,
)
