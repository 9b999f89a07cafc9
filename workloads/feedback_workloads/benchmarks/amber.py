"""AMBER (Wang et al., arXiv 2311.07397): descriptions of 1,004 pictures, and 14,216 questions that ask for yes or no.

Answers are a JSON list of rows with `id` and `response`, of any part of the benchmark; to a yes-or-no question only
"Yes" and "No", exactly, can be right. The truth is the folder `data` of the authors' repository.

Numbers are rounded as the authors round them, to a tenth of a percent, and F1 is computed from rounded precision and
recall, of which "No" is the positive class. `AMBER` is the paper's score, (1 - CHAIR + F1) / 2.

The authors also take two words for one whose vectors in spaCy's en_core_web_lg have a cosine above 0.8. Such pairs can
be named in a file `similar.txt` beside the truth, two words a line. Without it a word is like itself alone, which gave
all four published numbers where that could be tried.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import as_file, files
from pathlib import Path
from typing import ClassVar, Final

from feedback_workloads.benchmarks.english.tagging import Tagger, nltk_parts
from feedback_workloads.benchmarks.english.words import nouns
from feedback_workloads.benchmarks.official import Option, Scores, Share, Shares
from feedback_workloads.contract import BadInput
from feedback_workloads.method.judgement import Closed, Judgement
from feedback_workloads.rows.json_files import Row, read_rows, read_text
from feedback_workloads.rows.rejected import BadRow

COUNTERS: Final[Mapping[str, str]] = {
    "discriminative-hallucination": "Existence",
    "discriminative-attribute-state": "State",
    "discriminative-attribute-number": "Number",
    "discriminative-attribute-action": "Action",
    "discriminative-relation": "Relation",
    "relation": "Relation",
}
"""By which of the authors' counters the types of yes-or-no questions are counted."""
HEADINGS: Final[Mapping[str, tuple[str, ...]]] = {
    "Existence": ("Existence",),
    "Attribute": ("State", "Number", "Action"),
    "State": ("State",),
    "Number": ("Number",),
    "Action": ("Action",),
    "Relation": ("Relation",),
}
"""What the authors print of yes-or-no questions, and from which counters."""
TOGETHER: Final = ("Existence", "Attribute", "Relation")
"""What has to be there for numbers of all yes-or-no questions."""
DESCRIBED: Final = 1004
"""The first questions, by number, ask for descriptions; all others for yes or no."""
START: Final = 0.001
"""What each of the authors' denominators begins with, so that none is 0."""

Numbers = Mapping[str, float]
"""What is printed under a heading, in percent."""


@dataclass(frozen=True)
class Picture:
    """A picture to describe: words that are true of it, and words that are often said of it and false."""

    true: tuple[str, ...]
    false: tuple[str, ...]


@dataclass(frozen=True)
class YesNo:
    """A question of a type, and its answer, `yes` or `no`."""

    type: str
    truth: str


@dataclass(frozen=True)
class Description:
    """The objects that an answer names; `covered` and `hit` are numbers of the picture's true and false words."""

    named: tuple[str, ...]
    hallucinated: tuple[str, ...]
    covered: frozenset[int]
    hit: frozenset[int]


@dataclass(frozen=True)
class Words:
    """The benchmark's words: which are associated with which, which never count, and which are alike."""

    associated: Mapping[str, Sequence[str]]
    safe: frozenset[str]
    alike: Mapping[str, frozenset[str]]
    known: frozenset[str]

    def judge(self, nouns: Iterable[str], picture: Picture) -> Description:
        """What a description names that is true, what is false, and what is neither: that is hallucinated, too."""
        named = tuple(noun for noun in nouns if noun in self.known)
        true, false = self._targets(picture.true), self._targets(picture.false)
        hallucinated: list[str] = []
        covered: set[int] = set()
        hit: set[int] = set()
        for noun in named:
            if noun in self.safe:
                continue
            if noun in true:
                covered.add(true[noun])
                continue
            if noun in false:
                hit.add(false[noun])
            if (like := self._like(noun, false)) is not None:
                hit.add(false[like])
            if (like := self._like(noun, true)) is not None:
                covered.add(true[like])
            else:
                hallucinated.append(noun)
        return Description(named, tuple(hallucinated), frozenset(covered), frozenset(hit))

    def _targets(self, words: Sequence[str]) -> dict[str, int]:
        """Which of `words` is meant by a word: one that it is associated with, else itself; of several the first.

        So a word that is associated with another one does not stand for itself, as the authors have it.
        """
        targets: dict[str, int] = {}
        for number, word in enumerate(words):
            for associate in self.associated[word]:
                targets.setdefault(associate, number)
        for number, word in enumerate(words):
            targets.setdefault(word, number)
        return targets

    def _like(self, noun: str, targets: Mapping[str, int]) -> str | None:
        """The first target that is the noun or like it."""
        alike = self.alike.get(noun)
        if alike is None:
            return noun if noun in targets else None
        return next((target for target in targets if target == noun or target in alike), None)


@dataclass(frozen=True)
class Amber:
    """See the head of this module."""

    tagger: Tagger = nltk_parts
    truth: ClassVar[str] = "the folder data of AMBER's repository (annotations.json, relation.json, safe_words.txt)"
    truth_files: ClassVar[tuple[str, ...]] = ("annotations.json*", "relation.json*", "safe_words.txt*", "similar.txt")
    options: ClassVar[Mapping[str, Option]] = {}
    question: ClassVar[str] = ""
    answer: ClassVar[str] = "response"

    def closed(self, question: Row) -> bool:
        return question.integer("id") > DESCRIBED

    def judge(self, answer: str, truth: str) -> Judgement:
        """Judge by the truth that is an object of annotations.json, by the words of this package; BadRow of another.

        A description is judged by what it names, as `CHAIR` and `Cover` are; a yes-or-no answer is right or wrong.
        """
        words = own_words()
        match own_question(truth):
            case Picture() as picture:
                [named] = nouns([answer], self.tagger)
                found = words.judge(named, picture)
                return Judgement(
                    mentions=len(found.named),
                    hallucinated=len(found.hallucinated),
                    covered=len(found.covered),
                    truth_total=len(picture.true),
                )
            case question:
                said = answer.strip()
                right = is_right(question, said)
                return Judgement(0, 0, 0, 0, closed=Closed(right, said == "No", question.truth == "no"))

    def score(self, answers: Path, truth: Path, options: Mapping[str, str]) -> Scores:
        words = read_words(truth)
        questions = read_questions(truth, words)
        rows = read_rows(answers)
        asked = [questions[number - 1] for number in numbers(rows, len(questions))]
        pictures: list[tuple[Row, Picture]] = []
        yes_no: list[Row] = []
        said: list[tuple[YesNo, str]] = []
        for row, question in zip(rows, asked, strict=True):
            match question:
                case Picture():
                    pictures.append((row, question))
                case YesNo():
                    yes_no.append(row)
                    said.append((question, row.text("response", "text")))
        texts = [row.text("response", "text") for row, _ in pictures]
        described = [
            (row, picture, words.judge(named, picture))
            for (row, picture), named in zip(pictures, nouns(texts, self.tagger), strict=True)
        ]
        printed = generative([(picture, found) for _, picture, found in described]) | discriminative(said)
        return Scores(
            answers=len(rows),
            metrics=metrics(printed),
            file="amber.json",
            result={**printed, "descriptions": [to_json(row, found) for row, _, found in described]},
            notes=("no similar.txt beside the truth: a word is like itself alone",)
            if texts and not words.alike
            else (),
            shares={**shares_of_descriptions(described), **shares_of_answers(yes_no, said)},
        )


def generative(described: Sequence[tuple[Picture, Description]]) -> dict[str, Numbers]:
    """CHAIR: hallucinated nouns; Cover: true words named; Hal: hallucinating answers; Cog: false ones hit."""
    if not described:
        return {}
    found = [one for _, one in described]
    blameless = sum(not one.hallucinated for one in found)
    return {
        "Generative": {
            "CHAIR": percent(sum(len(one.hallucinated) for one in found), sum(len(one.named) for one in found)),
            "Cover": percent(sum(len(one.covered) for one in found), sum(len(asked.true) for asked, _ in described)),
            "Hal": round(100 - blameless / (len(found) + START) * 100, 1),
            "Cog": percent(sum(len(one.hit) for one in found), sum(len(asked.false) for asked, _ in described)),
        }
    }


def shares_of_descriptions(described: Sequence[tuple[Row, Picture, Description]]) -> Shares:
    """Of the numbers of `generative`, before they are rounded; none without descriptions."""
    found: dict[str, list[Share]] = {}
    for row, asked, one in described:
        parts = {
            "CHAIR": (len(one.hallucinated), len(one.named)),
            "Cover": (len(one.covered), len(asked.true)),
            "Hal": (bool(one.hallucinated), 1),
            "Cog": (len(one.hit), len(asked.false)),
        }
        for name, (part, whole) in parts.items():
            found.setdefault(name, []).append(Share(_item(row), part, whole))
    return found


def shares_of_answers(rows: Sequence[Row], said: Sequence[tuple[YesNo, str]]) -> Shares:
    """Of the numbers of `discriminative`, by type and in all, before they are rounded; F1 is a quotient as well."""
    found: dict[str, list[Share]] = {}
    for row, (question, response) in zip(rows, said, strict=True):
        counter, truly, denied = COUNTERS[question.type], question.truth == "no", response == "No"
        parts = {
            "Accuracy": (is_right(question, response), 1),
            "Precision": (truly and denied, denied),
            "Recall": (truly and denied, truly),
            "F1": (2 * (truly and denied), truly + denied),
        }
        prefixes = ["", *(f"{heading}." for heading, counters in HEADINGS.items() if counter in counters)]
        for name, (part, whole) in parts.items():
            for prefix in prefixes:
                found.setdefault(f"{prefix}{name}", []).append(Share(_item(row), part, whole))
    return found


def is_right(question: YesNo, response: str) -> bool:
    """Whether an answer is, exactly, the right one."""
    return (question.truth, response) in (("yes", "Yes"), ("no", "No"))


def _item(row: Row) -> str:
    return str(row.integer("id", "question_id"))


def discriminative(said: Iterable[tuple[YesNo, str]]) -> dict[str, Numbers]:
    """Accuracy, precision, recall and F1 of what was asked; of all together only where there is something of each."""
    counts: dict[str, Counter[str]] = {}
    for question, response in said:
        counts.setdefault(COUNTERS[question.type], Counter()).update(
            asked=1,
            right=is_right(question, response),
            truly_no=question.truth == "no",
            said_no=response == "No",
            rightly_no=(question.truth, response) == ("no", "No"),
        )
    found = {
        heading: of_counts(
            [counts.get(name, Counter()) for name in counters], guard=0.001 if heading == "Existence" else 0.0001
        )
        for heading, counters in HEADINGS.items()
        if not counts.keys().isdisjoint(counters)
    }
    if all(heading in found for heading in TOGETHER):
        everything = sum(counts.values(), Counter())
        found = {"Discriminative": of_counts([everything], guard=0.0001), **found}
    return found


def of_counts(counts: Sequence[Mapping[str, int]], guard: float) -> Numbers:
    """The four numbers of several counters together; `guard` is what the authors add to F1's denominator."""

    def all_of(name: str) -> int:
        return sum(count[name] for count in counts)

    start = len(counts) * START
    precision = percent(all_of("rightly_no"), all_of("said_no"), start)
    recall = percent(all_of("rightly_no"), all_of("truly_no"), start)
    mean = 2 * (precision / 100) * (recall / 100) / ((precision / 100) + (recall / 100) + guard)
    return {
        "Accuracy": percent(all_of("right"), all_of("asked"), start),
        "Precision": precision,
        "Recall": recall,
        "F1": round(mean * 100, 1),
    }


def percent(part: int, whole: int, start: float = START) -> float:
    """A share as the authors print it, of a denominator that began with `start`."""
    return round(part / (whole + start) * 100, 1)


def metrics(printed: Mapping[str, Numbers]) -> dict[str, float | None]:
    """The printed numbers as fractions; those of a type of questions under its name, and the score of the whole."""
    found: dict[str, float | None] = {}
    for heading, values in printed.items():
        prefix = "" if heading in ("Generative", "Discriminative") else f"{heading}."
        found |= {f"{prefix}{name}": round(value / 100, 3) for name, value in values.items()}
    if "Generative" in printed and "Discriminative" in printed:
        score = (100 - printed["Generative"]["CHAIR"] + printed["Discriminative"]["F1"]) / 2
        found["AMBER"] = round(score / 100, 4)
    return found


def to_json(row: Row, found: Description) -> dict[str, object]:
    """What a description was judged by; the authors keep no such record."""
    return {
        "id": row.integer("id", "question_id"),
        "nouns": list(found.named),
        "hallucinated": list(found.hallucinated),
    }


# ── files ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def numbers(rows: Iterable[Row], last: int) -> list[int]:
    """The number of the question that each row answers; BadInput where there is none, or it was answered before."""
    places: dict[int, str] = {}
    for row in rows:
        number = row.integer("id", "question_id")
        if not 1 <= number <= last:
            raise BadInput(f"{row.place}: there is no question {number}; the field 'id' is one of 1 to {last}")
        if number in places:
            raise BadInput(f"{row.place}: question {number} is answered in {places[number]}, too; remove one of them")
        places[number] = row.place
    return list(places)


def read_words(folder: Path) -> Words:
    """The benchmark's words, from relation.json, safe_words.txt and, where it is there, similar.txt."""
    relations = read_rows(_file(folder, "relation.json"))[0]
    associated = {word: relations.texts(word) for word in relations.values}
    safe = read_text(_file(folder, "safe_words.txt")).splitlines()
    alike: dict[str, set[str]] = defaultdict(set)
    if (similar := folder / "similar.txt").exists():
        for number, line in enumerate(read_text(similar).splitlines(), 1):
            if len(words := line.split()) != 2:
                raise BadInput(
                    f"{similar}, line {number}: {line[:60]!r} is no pair; give two words with a blank between"
                )
            alike[words[0]].add(words[1])
            alike[words[1]].add(words[0])
    return Words(
        associated=associated,
        safe=frozenset(safe),
        alike={word: frozenset(others) for word, others in alike.items()},
        known=frozenset({*associated, *(word for words in associated.values() for word in words)}),
    )


def read_questions(folder: Path, words: Words) -> list[Picture | YesNo]:
    """All questions of annotations.json, in its order, in which the first has the number 1."""
    return [_question(row, words) for row in read_rows(_file(folder, "annotations.json"))]


def _question(row: Row, words: Words) -> Picture | YesNo:
    kind = row.text("type")
    if kind == "generative":
        true, false = tuple(row.texts("truth")), tuple(row.texts("hallu"))
        if unknown := {*true, *false} - words.associated.keys():
            raise BadInput(f"{row.place}: relation.json has no word {min(unknown)!r}; take both files of one release")
        return Picture(true, false)
    if kind not in COUNTERS:
        raise BadInput(f"{row.place}: the type is {kind!r}; give generative or one of {', '.join(COUNTERS)}")
    if row.text("truth") not in ("yes", "no"):
        raise BadInput(f"{row.place}: the truth is {row.text('truth')!r}; give yes or no")
    return YesNo(kind, row.text("truth"))


@cache
def own_words() -> Words:
    """The words of AMBER that are in this package; none of them are alike."""
    with as_file(files(__package__) / "amber_words") as folder:
        return read_words(folder)


@cache
def own_question(truth: str) -> Picture | YesNo:
    """The question that a text in a column `truth` is about: an object of annotations.json. BadRow where it is none."""
    try:
        values = json.loads(truth)
        if not isinstance(values, dict):
            raise BadRow("bad-truth", f"the truth {truth[:80]!r} is no object; give that of AMBER's annotations.json")
        return _question(Row("the truth", values), own_words())
    except ValueError as error:
        raise BadRow("bad-truth", f"the truth {truth[:80]!r} is not JSON; give one of annotations.json") from error
    except BadInput as error:
        raise BadRow("bad-truth", str(error)) from error


def _file(folder: Path, name: str) -> Path:
    """A file of the folder, or the same packed by gzip."""
    packed = folder / f"{name}.gz"
    return packed if packed.exists() else folder / name
