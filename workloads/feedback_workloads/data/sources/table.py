"""Any table whose columns are named by options."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

from feedback_workloads.contract import BadInput
from feedback_workloads.data.drafts import Draft, Drafts, Published, embedded, rejected, text
from feedback_workloads.data.records import TABLES, records
from feedback_workloads.data.trees import Tree
from feedback_workloads.rows.rejected import BadRow

MEANT: Final = {"id": "column of the id; without it rows are numbered", "image": "column of the picture"}
ASKED: Final = {"question": "column of the question"}
MORE: Final = {
    "reference": "column of an answer",
    "truth": "column of what a benchmark judges by",
    "split": "column of the split",
    "attribution": "column of who is to be named",
}
ANSWERS: Final = {"chosen": "column of the better answer", "rejected": "column of the worse one"}


@dataclass(frozen=True)
class Columns:
    """Which columns a row must have and which it may have beside, and what the table calls them."""

    needed: tuple[str, ...]
    more: tuple[str, ...]
    options: Mapping[str, str]

    def called(self, name: str) -> str:
        return self.options.get(name, name)

    def check(self, values: Mapping[str, Any], place: str) -> None:
        """Raise BadInput where a column that is named, or needed, is not in the first row."""
        for name in ("image", *self.needed, *self.options):
            if self.called(name) not in values:
                raise BadInput(
                    f"{place}: there is no column {self.called(name)!r} (its columns are {', '.join(values)}); "
                    f"name the one of the {name} with --option {name}=COLUMN"
                )

    def of(self, values: Mapping[str, Any]) -> dict[str, str | None]:
        """The texts of a row; what is wrong with one is told by what it is."""
        found = {name: values.get(self.called(name)) for name in (*self.needed, *self.more)}
        empty = {name for name in self.more if found[name] is None or found[name] == ""}
        return {name: None if name in empty else text(found, name) for name in found}


def rows(needed: tuple[str, ...], more: tuple[str, ...], tree: Tree, options: Mapping[str, str]) -> Drafts:
    """Each row; the columns are those that the options name, or that are called like them."""
    columns, checked = Columns(needed, more, options), False
    for at, (place, values) in enumerate(records(tree, tree.need("table", *TABLES)), 1):
        try:
            if isinstance(values, BadRow):
                raise values
            if not checked:
                columns.check(values, place)
                checked = True
            yield _draft(tree, columns, values, at)
        except BadRow as bad:
            yield rejected(place, bad)


def _draft(tree: Tree, columns: Columns, values: Mapping[str, Any], at: int) -> Draft:
    key = values.get(columns.called("id"), at)
    if key is None or not str(key).strip():
        raise BadRow("missing-id", "the row has no id")
    image = values.get(columns.called("image"))
    path = image.get("path") if isinstance(image, dict) else None
    return Draft(str(key), embedded(tree, image), path, columns.of(values))


TABLE = Published(
    title="a table",
    home="",
    licence="other",
    terms="those of whoever made the table",
    files="parquet, JSON, JSON lines, CSV or TSV, and the pictures that it names",
    kind="instructions",
    rows=partial(rows, tuple(ASKED), tuple(MORE)),
    options={**MEANT, **ASKED, **MORE},
)
PAIRS_TABLE = Published(
    title="a table of pairs",
    home="",
    licence="other",
    terms="those of whoever made the table",
    files="parquet, JSON, JSON lines, CSV or TSV, and the pictures that it names",
    kind="pairs",
    rows=partial(rows, (*ASKED, *ANSWERS), ()),
    options={**MEANT, **ASKED, **ANSWERS},
)
