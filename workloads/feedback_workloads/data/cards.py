"""Dataset cards: what a data set is made of, for people and for the hub, which reads the lines at the top."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from huggingface_hub import DatasetCardData

SIZES: Final = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"))


@dataclass(frozen=True)
class Origin:
    """One source of a data set: its name here, what it is called, its page, its licence, what else holds, its rows."""

    name: str
    title: str
    home: str
    licence: str
    terms: str
    rows: int


@dataclass(frozen=True)
class Card:
    """README.md of a data set; `notes` are its sentences, `folders` the parts of it, empty where it is in one."""

    title: str
    origins: Sequence[Origin]
    notes: Sequence[str]
    folders: Sequence[str] = ()

    def text(self, counts: Mapping[str, int]) -> str:
        """The card; `counts` has `rows`, `rejected` and `rejected_<reason>`."""
        reasons = {name.removeprefix("rejected_"): many for name, many in sorted(counts.items()) if "rejected_" in name}
        lines = [
            "---",
            self._front(counts["rows"]).to_yaml(),
            "---",
            "",
            f"# {self.title}",
            "",
            *[line for note in self.notes for line in (note, "")],
            "| source | rows | licence |",
            "| --- | --- | --- |",
            *(f"| {_named(origin)} | {origin.rows:,} | {origin.terms} |" for origin in self.origins),
            "",
            f"Rows: {counts['rows']:,}. Left out: {counts['rejected']:,}" + (":" if reasons else "."),
            "",
        ]
        if reasons:
            lines += ["| reason | rows |", "| --- | --- |"]
            lines += [*(f"| {name} | {many:,} |" for name, many in reasons.items()), ""]
        return "\n".join(lines)

    def _front(self, rows: int) -> DatasetCardData:
        """What the hub reads."""
        licences = sorted({origin.licence for origin in self.origins})
        return DatasetCardData(
            license=licences[0] if len(licences) == 1 else "other",
            task_categories=["visual-question-answering"],
            size_categories=[size(rows)],
            configs=[
                {"config_name": folder or "default", "data_files": f"{folder}/*.parquet" if folder else "*.parquet"}
                for folder in self.folders or [""]
            ],
        )


def size(rows: int) -> str:
    """The hub's word for a number of rows."""
    return next((word for limit, word in SIZES if rows < limit), "1M<n<10M")


def _named(origin: Origin) -> str:
    page = f"[{origin.title}]({origin.home})" if origin.home else origin.title
    return f"{page} (`{origin.name}`)"
