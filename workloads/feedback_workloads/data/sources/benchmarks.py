"""Public benchmarks as rows by which the stage evaluation judges: CHAIR, POPE, AMBER and MMStar.

A picture's questions are all of one split: `selection`, where something is decided, or `report`. Which, follows from
the picture and the seed alone, so that the samplings of POPE, or two runs of this command, part pictures alike.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from functools import partial
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Final

from feedback_workloads.benchmarks.pope import QUESTIONS, SAMPLINGS
from feedback_workloads.contract import BadInput
from feedback_workloads.data.benchmark_pictures import coco_number
from feedback_workloads.data.drafts import Draft, Drafts, Published, embedded, number, rejected, text
from feedback_workloads.data.records import records
from feedback_workloads.data.trees import Tree
from feedback_workloads.rows.rejected import BadRow

if TYPE_CHECKING:
    from feedback_workloads.benchmarks.coco.truth import Truth

Options = Mapping[str, str]

SPLITTING: Final = {
    "seed": "decides which pictures are of which split (0)",
    "selection": "share of the pictures whose questions are of the split selection, from 0 to 1 (0.5)",
}
APPENDING: Final = {"append": "a sentence that is put behind each question, in a line of its own"}
WORDS: Final = ("pos", "singularize", "noun")


def split_of(picture: str | bytes, options: Options) -> str:
    """The split of a picture, told by its name or its bytes. Raises BadInput where an option is not a number of its."""
    seed, share = options.get("seed", "0"), options.get("selection", "0.5")
    if not re.fullmatch(r"0?\.\d+|[01](\.0*)?", share):
        raise BadInput(f"the option selection is {share!r}; give a share from 0 to 1, such as 0.5")
    known = picture if isinstance(picture, bytes) else picture.encode()
    drawn = int.from_bytes(hashlib.sha256(f"{seed} ".encode() + known).digest()[:8]) / 2**64
    return "selection" if drawn < float(share) else "report"


def chosen(options: Options, name: str, *values: str) -> str:
    """An option that is one of `values`, of which the first is the default. Raises BadInput."""
    given = options.get(name, values[0])
    if given not in values:
        raise BadInput(f"the option {name} is {given!r}; give one of {', '.join(values)}")
    return given


def _columns(question: str, truth: str, picture: str | bytes, options: Options) -> dict[str, str | None]:
    asked = f"{question.strip()}\n{options['append']}" if "append" in options else question.strip()
    return {"question": asked, "truth": truth, "split": split_of(picture, options)}


# ── POPE ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


def pope(tree: Tree, options: Options) -> Drafts:
    """Each question of the samplings that are there, or of the one that is named."""
    wanted = chosen(options, "sampling", "all", *SAMPLINGS)
    for name in tree.need("file of POPE's questions", "*pope*.json", "*pope*.json.gz"):
        sampling = QUESTIONS.fullmatch(PurePosixPath(name).name)
        if sampling is None or wanted not in ("all", sampling[1]):
            continue
        for place, row in records(tree, [name]):
            try:
                yield _of_pope(tree, _good(row), sampling[1], options)
            except BadRow as bad:
                yield rejected(place, bad)


def _of_pope(tree: Tree, row: Mapping[str, Any], sampling: str, options: Options) -> Draft:
    label, path = text(row, "label"), text(row, "image")
    if label not in ("yes", "no"):
        raise BadRow("bad-truth", f"the label is {label!r}, neither yes nor no")
    columns = _columns(text(row, "text"), label, path, options)
    return Draft(f"{sampling}-{number(row, 'question_id')}", partial(tree.picture, path), path, columns)


# ── AMBER ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def amber(tree: Tree, options: Options) -> Drafts:
    """Each question with its object of annotations.json; `append` stands behind those that ask for yes or no."""
    wanted = chosen(options, "part", "all", "generative", "discriminative")
    truths = {
        number(row, "id"): {name: value for name, value in row.items() if name != "id"}
        for _, row in records(tree, tree.need("truth of AMBER", "annotations.json", "annotations.json.gz"))
        if not isinstance(row, BadRow)
    }
    plain = {name: value for name, value in options.items() if name != "append"}
    for place, row in records(tree, tree.need("file of AMBER's questions", "query_all.json", "query_all.json.gz")):
        try:
            truth, path = truths.get(number(_good(row), "id")), text(_good(row), "image")
            if truth is None:
                raise BadRow("missing-truth", "annotations.json has no such id")
            generative = truth.get("type") == "generative"
            if wanted not in ("all", "generative" if generative else "discriminative"):
                continue
            said = plain if generative else options
            columns = _columns(text(_good(row), "query"), json.dumps(truth), path, said)
            yield Draft(str(number(_good(row), "id")), partial(tree.picture, path), path, columns)
        except BadRow as bad:
            yield rejected(place, bad)


# ── MMStar ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def mmstar(tree: Tree, options: Options) -> Drafts:
    """Each question, whose text has its options, with the letter of the right one."""
    for place, row in records(tree, tree.need("parquet file of MMStar", "*.parquet")):
        try:
            read = embedded(tree, _good(row).get("image"))
            picture, letter = read(), text(_good(row), "answer").strip()
            columns = _columns(text(_good(row), "question"), letter, picture, options)
            yield Draft(str(number(_good(row), "index")), read, None, columns)
        except BadRow as bad:
            yield rejected(place, bad)


# ── CHAIR ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def chair(tree: Tree, options: Options) -> Drafts:
    """Pictures of COCO, as many as are asked for, with the classes that are there by one of the rules of words."""
    words, many = chosen(options, "words", "noun", "pos", "singularize"), options.get("pictures", "500")
    if not many.isdecimal() or many == "0":
        raise BadInput(f"the option pictures is {many!r}; give a number of them, such as 500")
    found = {number: name for name in tree.find("*.jpg") if (number := coco_number(name)) is not None}
    if not found:
        raise BadInput("there is no picture that is named as COCO names it in what --from names; add val2014 to --from")
    seed = options.get("seed", "0")
    order = sorted(found, key=lambda picture: hashlib.sha256(f"{seed} {picture}".encode()).digest())
    drawn = sorted(order[: int(many)])
    truth = _classes(tree, frozenset(drawn), words)
    question = options.get("question", "Please describe this image in detail.")
    for picture in drawn:
        path = found[picture]
        columns = _columns(question, json.dumps(sorted(truth[picture])), str(picture), options)
        yield Draft(str(picture), partial(tree.picture, path), path, columns)


def _classes(tree: Tree, pictures: frozenset[int], words: str) -> Truth:
    """Classes in pictures: of a table, or of COCO's annotations. What reads them is in the extra `benchmarks`."""
    try:
        from feedback_workloads.benchmarks.coco.objects import chair_vocabulary
        from feedback_workloads.benchmarks.coco.truth import read_truth
        from feedback_workloads.benchmarks.english.tagging import nltk_parts
        from feedback_workloads.benchmarks.english.words import by_rule
    except ModuleNotFoundError as error:
        raise BadInput(
            f"CHAIR's words need the package {error.name}; run `pip install 'feedback-operator[benchmarks]'`"
        ) from error
    with TemporaryDirectory(prefix="feedback-truth-") as folder:
        source = Path(folder)
        tables = tree.find("*.tsv", "*.tsv.gz")
        for name in tables[:1] or tree.need("truth of COCO", "instances_*.json", "captions_*.json", "*.tsv"):
            (source / PurePosixPath(name).name).symlink_to(tree.local(name).absolute())
        table = source / PurePosixPath(tables[0]).name if tables else source
        return read_truth(table, pictures, chair_vocabulary(), by_rule(words, nltk_parts))


def _good(row: Mapping[str, Any] | BadRow) -> Mapping[str, Any]:
    if isinstance(row, BadRow):
        raise row
    return row


POPE: Final = Published(
    title="POPE",
    home="https://github.com/RUCAIBox/POPE",
    licence="mit",
    terms="questions MIT; pictures as of MSCOCO",
    files="coco_pope_*.json and the pictures of val2014",
    kind="instructions",
    rows=pope,
    options={"sampling": "all, random, popular or adversarial", **SPLITTING, **APPENDING},
)
AMBER: Final = Published(
    title="AMBER",
    home="https://github.com/junyangwang0410/AMBER",
    licence="apache-2.0",
    terms="questions and truth Apache-2.0; pictures by the link in its README",
    files="annotations.json, query_all.json and the pictures AMBER_*.jpg",
    kind="instructions",
    rows=amber,
    options={"part": "all, generative or discriminative", **SPLITTING, **APPENDING},
)
MMSTAR: Final = Published(
    title="MMStar",
    home="https://huggingface.co/datasets/Lin-Chen/MMStar",
    licence="other",
    terms="without a licence",
    files="mmstar.parquet",
    kind="instructions",
    rows=mmstar,
    options={**SPLITTING, **APPENDING},
)
CHAIR: Final = Published(
    title="CHAIR on MSCOCO",
    home="https://github.com/LisaAnne/Hallucination",
    licence="cc-by-4.0",
    terms="annotations CC BY 4.0; each picture has a Flickr licence of its own",
    files="COCO's instances_*.json and captions_*.json, or a table of classes, and pictures of COCO",
    kind="instructions",
    rows=chair,
    options={
        "words": "noun, pos or singularize: as spec.evaluation.benchmarks[].words is to be",
        "pictures": "how many are drawn (500)",
        "question": "what is asked (Please describe this image in detail.)",
        **SPLITTING,
    },
)
