"""CHAIR (Rohrbach et al., arXiv 1809.02156): which of COCO's objects an answer names that are not in the picture.

Answers are rows with a picture (`image_id`) and a text (`caption` or `text`). Three rules of words are in use, and the
numbers of one cannot be set beside those of another; each is chosen by `words`. The numbers have the names of the
scorer that most papers use (Maxlinn/CHAIR-metric-standalone): CHAIRs, hallucinating answers among all; CHAIRi,
hallucinated mentions among all; Recall, classes named among those in the pictures; Len, a hundredth of the mean length.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from feedback_workloads.benchmarks.coco.answers import Sentence, picture_of, read_answers
from feedback_workloads.benchmarks.coco.classes import classes_in
from feedback_workloads.benchmarks.coco.objects import chair_vocabulary
from feedback_workloads.benchmarks.coco.truth import FILES, WHAT, read_truth
from feedback_workloads.benchmarks.english.tagging import Tagger, nltk_parts
from feedback_workloads.benchmarks.english.words import by_rule
from feedback_workloads.benchmarks.official import Option, Scores, Shares, quotients
from feedback_workloads.contract import WordRule
from feedback_workloads.method.judgement import Judgement
from feedback_workloads.rows.json_files import Row


@dataclass(frozen=True)
class Chair:
    """See the head of this module; `tagger` serves the rule `pos`, and `words` is the rule of `judge`."""

    tagger: Tagger = nltk_parts
    words: WordRule = "pos"
    truth: ClassVar[str] = WHAT
    truth_files: ClassVar[tuple[str, ...]] = FILES
    question: ClassVar[str] = "Please describe this image in detail."
    answer: ClassVar[str] = "caption"
    options: ClassVar[Mapping[str, Option]] = {
        "words": Option(
            "how words are brought to the singular: WordNet's lemmas by part of speech (OPERA and later), pattern.en's "
            "singularize (the first paper), or WordNet's lemmas as nouns (RLHF-V)",
            ("pos", "singularize", "noun"),
        ),
        "length": Option(
            "what Len counts: tokens, or what stands between single blanks (the POPE paper)", ("tokens", "blanks")
        ),
    }

    def closed(self, question: Row) -> bool:
        return False

    def judge(self, answer: str, truth: str) -> Judgement:
        """Judge by the truth that is a JSON list of COCO's classes. BadRow where it is none."""
        vocabulary = chair_vocabulary()
        present = classes_in(truth, frozenset(vocabulary.class_of.values()))
        [words] = by_rule(self.words, self.tagger)([answer])
        sentence = Sentence(0, answer, vocabulary.named(words), present)
        return Judgement(
            mentions=len(sentence.named.words),
            hallucinated=len(sentence.hallucinated),
            covered=sentence.covered,
            truth_total=len(present),
        )

    def score(self, answers: Path, truth: Path, options: Mapping[str, str]) -> Scores:
        rows = read_answers(answers)
        pictures = [picture_of(row) for row in rows]
        texts = [row.text("caption", "text") for row in rows]
        vocabulary, reduce = chair_vocabulary(), by_rule(options["words"], self.tagger)
        present = read_truth(truth, frozenset(pictures), vocabulary, reduce)
        sentences = [
            Sentence(picture, text, vocabulary.named(words), present[picture])
            for picture, text, words in zip(pictures, texts, reduce(texts), strict=True)
        ]
        lengths = [length(one, options["length"]) for one in sentences]
        shares = shares_of(sentences, lengths)
        metrics = quotients(shares)
        if lengths:  # as the authors round: a hundredth of the mean
            metrics["Len"] = sum(lengths) / len(lengths) * 0.01
        return Scores(
            answers=len(sentences),
            metrics=metrics,
            file="chair.json",
            result={"sentences": [to_json(one) for one in sentences], "overall_metrics": metrics},
            shares=shares,
        )


def length(sentence: Sentence, unit: str) -> int:
    """The length of an answer in `tokens`, pairs of words that are one counting once, or in what `blanks` part."""
    return len(sentence.named.read) if unit == "tokens" else len(sentence.text.split(" "))


def shares_of(sentences: Sequence[Sentence], lengths: Sequence[int]) -> Shares:
    """Of the numbers; mentions are counted each time, and answers that name nothing count as answers."""
    return {
        "CHAIRs": [one.share(bool(one.hallucinated)) for one in sentences],
        "CHAIRi": [one.share(len(one.hallucinated), len(one.named.words)) for one in sentences],
        "Recall": [one.share(one.covered, len(one.present)) for one in sentences],
        "Len": [one.share(words, 100) for one, words in zip(sentences, lengths, strict=True)],
    }


def to_json(sentence: Sentence) -> dict[str, object]:
    """A row of the file that the official scorer writes."""
    named, wrong = sentence.named, sentence.hallucinated
    return {
        "image_id": sentence.picture,
        "caption": sentence.text,
        "mscoco_hallucinated_words": [[named.words[number], named.classes[number]] for number in wrong],
        "mscoco_gt_words": sorted(sentence.present),
        "mscoco_generated_words": list(named.classes),
        "hallucination_idxs": [named.places[number] for number in wrong],
        "words": list(named.read),
        "metrics": {
            "CHAIRs": int(bool(wrong)),
            "CHAIRi": len(wrong) / len(named.words) if named.words else 0.0,
            "Recall": sentence.covered / len(sentence.present) if sentence.present else 0.0,
            "Len": 0.0,
        },
    }
