"""Object HalBench (Yu et al., RLHF-V, arXiv 2312.00849): objects that a judge model lists from answers, against COCO's.

Answers are rows with a picture (`image_id`), a text (`text` or `answer`) and, in `extract_objs`, what the judge listed:
its reply as it stands, or the list of phrases in it. Each phrase is brought to words, and a word counts once an answer.

`CHAIRs_refine` is the response-level rate of the papers (hallucinating answers among those that name an object),
`CHAIRi` their mention-level one. The official script can do without a judge, too: it counts words as CHAIR does, each
time. That is `extractor=words`, whose numbers are not those of the papers.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import chain, groupby
from pathlib import Path
from typing import ClassVar, Final

from feedback_workloads.apis.asking import Request
from feedback_workloads.benchmarks.coco.answers import Sentence, picture_of, read_answers
from feedback_workloads.benchmarks.coco.objects import Named, Vocabulary, refined_vocabulary, without_seats
from feedback_workloads.benchmarks.coco.truth import FILES, WHAT, read_truth
from feedback_workloads.benchmarks.english.lemmas import is_a, lemma
from feedback_workloads.benchmarks.english.tokens import tokens
from feedback_workloads.benchmarks.english.words import noun_lemmas
from feedback_workloads.benchmarks.judging import Judge
from feedback_workloads.benchmarks.official import Option, Scores, Shares, quotients
from feedback_workloads.benchmarks.scripts import Script
from feedback_workloads.contract import BadInput
from feedback_workloads.rows.json_files import Row

PICTURES: Final = 300
LISTED: Final = "extract_objs"
"""The field in which the official script keeps what the judge listed."""
SCRIPT: Final = "eval_gpt_obj_halbench.py"
SHORTEST: Final = 4
"""Words of the shortest answer that the judge is asked about; shorter ones name nothing."""
_BLOCK: Final = re.compile(r"```json\n(.*?)\n```", re.DOTALL)
_BETWEEN: Final = frozenset({"a", "an", "and", "at", "by", "for", "from", "in", "of", "on", "or", "the", "to", "with"})

Phrase = Sequence[tuple[str, bool]]
"""The lemmas of a phrase's words, and whether each is a noun."""
ReadPhrase = Callable[[str], Phrase]


@dataclass(frozen=True)
class ObjectHalBench:
    """See the head of this module."""

    truth: ClassVar[str] = WHAT
    truth_files: ClassVar[tuple[str, ...]] = FILES
    question: ClassVar[str] = ""
    answer: ClassVar[str] = "answer"
    options: ClassVar[Mapping[str, Option]] = {
        "extractor": Option(
            f"what finds objects: the judge, whose lists stand in the answers ({LISTED}), or the words themselves, as "
            "in the official script without a judge",
            ("replay", "words"),
        ),
        "phrases": Option(
            "what brings the judge's phrases to words: spaCy's en_core_web_trf, as published, or WordNet, which needs "
            "no model and comes near it",
            ("spacy", "wordnet"),
        ),
    }

    prompts: ClassVar[str] = f"RLHF-V's script {SCRIPT}, or its folder"

    def closed(self, question: Row) -> bool:
        return False

    def judged(
        self, answers: Path, truth: Path, options: Mapping[str, str], prompts: Path, judge: Judge
    ) -> list[dict[str, object]]:
        if options["extractor"] == "words":
            raise BadInput("the option extractor=words does without a judge; leave --judge out, or the option")
        template = Script.at(prompts, SCRIPT).text("prompt_template")
        rows = read_answers(answers)
        asked = [row for row in rows if not _is_short(said_in(row))]
        replies = iter(judge.replies([request(template, row) for row in asked], has_list))
        return [{**row.values, LISTED: [] if _is_short(said_in(row)) else next(replies)} for row in rows]

    def score(self, answers: Path, truth: Path, options: Mapping[str, str]) -> Scores:
        rows = read_answers(answers)
        pictures = [picture_of(row) for row in rows]
        texts = [said_in(row) for row in rows]
        vocabulary = refined_vocabulary()
        present = read_truth(truth, frozenset(pictures), vocabulary, noun_lemmas)
        if options["extractor"] == "words":
            named = [vocabulary.named(words) for words in noun_lemmas(texts)]
        else:
            read = spacy_reader() if options["phrases"] == "spacy" else wordnet_phrase
            named = [replay(row, text, read, vocabulary) for row, text in zip(rows, texts, strict=True)]
        sentences = [
            Sentence(picture, text, one, present[picture])
            for picture, text, one in zip(pictures, texts, named, strict=True)
        ]
        shares = shares_of(sentences)
        metrics = overall(sentences, shares)
        return Scores(
            answers=len(sentences),
            metrics=metrics,
            file=f"hall_{answers.name.split('.json')[0]}_-1.json",
            result={"sentences": [to_json(one) for one in sentences], "overall_metrics": metrics},
            notes=notes(pictures, options),
            shares=shares,
        )


def said_in(row: Row) -> str:
    """What the model answered, without the name of the speaker."""
    return row.text("text", "answer", "caption").replace("Assistant:", "").strip()


def request(template: str, row: Row) -> Request:
    """What the judge is asked about an answer, as the official script does it: all of it is the system's message."""
    told = template.replace("{question}", row.text("prompt", "question")).replace("{answer}", said_in(row))
    return Request(({"role": "system", "content": told},), {"temperature": 0.2, "max_tokens": 512})


def has_list(reply: str) -> bool:
    """Whether the judge kept to the form that it is asked for."""
    try:
        listed(Row("", {LISTED: reply}))
    except BadInput:
        return False
    return True


def _is_short(text: str) -> bool:
    return len(text.split()) < SHORTEST


def replay(row: Row, text: str, read: ReadPhrase, vocabulary: Vocabulary) -> Named:
    """What the judge listed from one answer; BadInput where that is not there."""
    phrases = [] if _is_short(text) else listed(row)
    found = chain.from_iterable(objects(read(phrase), vocabulary) for phrase in phrases)
    unique = tuple(dict.fromkeys(found))
    words = tuple(word for word in without_seats(unique) if word in vocabulary.class_of)
    return Named(words, tuple(vocabulary.class_of[word] for word in words), tuple(range(len(words))), unique)


def listed(row: Row) -> list[str]:
    """The phrases of the judge's list, or of its reply: a JSON list, which may stand in a block or in the last line."""
    if LISTED not in row.values:
        raise BadInput(
            f"{row.place}: there is no field {LISTED!r} with what the judge listed (its reply, or a list of phrases); "
            "name a judge by --judge, or give --option extractor=words, the official script without one"
        )
    if isinstance(row.values[LISTED], list):
        return row.texts(LISTED)
    reply = row.text(LISTED)
    block = _BLOCK.search(reply)
    for part in (reply, block[1] if block else "", reply.strip().rpartition("\n")[2]):
        try:
            return Row(row.place, {LISTED: json.loads(part)}).texts(LISTED)
        except ValueError:
            continue
    raise BadInput(f"{row.place}: the reply in {LISTED!r} has no JSON list ({reply[:60]!r}); ask the judge again")


def objects(phrase: Phrase, vocabulary: Vocabulary) -> list[str]:
    """The pairs of words in a phrase that are one word, or else each run of nouns: "tennis player" names no person."""
    pairs = vocabulary.pairs([word for word, _ in phrase])
    runs = groupby(phrase, key=lambda word: word[1])
    return pairs or [" ".join(word for word, _ in run) for is_noun, run in runs if is_noun]


@cache
def spacy_reader() -> ReadPhrase:
    """The official way, by spaCy's largest English model; BadInput, with what to install, where that is not here."""
    try:
        import spacy

        model = spacy.load("en_core_web_trf")
    except (ImportError, OSError) as error:
        raise BadInput(
            "phrases=spacy needs spaCy's model en_core_web_trf, which is not here; run `pip install spacy==3.7.0` and "
            "`python -m spacy download en_core_web_trf`, or give --option phrases=wordnet, which comes near it"
        ) from error
    return cache(lambda phrase: [(word.lemma_, word.tag_.startswith("NN")) for word in model(f"a {phrase}")])


@cache
def wordnet_phrase(phrase: str) -> Phrase:
    """By WordNet alone: words are nouns, but for numbers, what joins nouns, and adjectives before another word."""
    words = tokens(phrase.lower())
    return [(lemma(word, "n"), _is_noun(word, last=number == len(words))) for number, word in enumerate(words, 1)]


def _is_noun(word: str, last: bool) -> bool:
    if word in _BETWEEN or not word[0].isalpha():
        return False
    return last or not is_a(word, "a")


def shares_of(sentences: Sequence[Sentence]) -> Shares:
    """Of the rates; what `overall` derives from two of them would be compared as they are."""
    return {
        "CHAIRs": [one.share(bool(one.hallucinated)) for one in sentences],
        "CHAIRs_refine": [one.share(bool(one.hallucinated), bool(one.named.words)) for one in sentences],
        "CHAIRi": [one.share(len(one.hallucinated), len(one.named.words)) for one in sentences],
        "obj_rec": [one.share(one.covered, len(one.present)) for one in sentences],
        "avg_word_len": [one.share(len(one.text.split(" "))) for one in sentences],
    }


def overall(sentences: Sequence[Sentence], shares: Shares) -> dict[str, float | None]:
    """The numbers of all answers, by their names in the official script, which calls classes words in two of them."""
    rates = quotients(shares)
    wrong_answers, wrong_mentions = rates["CHAIRs_refine"], rates["CHAIRi"]
    return {
        **{name: rates[name] for name in ("CHAIRs", "CHAIRs_refine", "CHAIRi", "obj_rec")},
        "sentence_num": len(sentences),
        "coco_sentence_num": sum(bool(one.named.words) for one in sentences),
        "coco_word_count": sum(one.covered for one in sentences),
        "gt_word_count": sum(len(one.present) for one in sentences),
        "avg_word_len": rates["avg_word_len"],
        "correct_rate": None if wrong_answers is None else 1 - wrong_answers,
        "object_correct_rate": None if wrong_mentions is None else 1 - wrong_mentions,
    }


def to_json(sentence: Sentence) -> dict[str, object]:
    """A row of the file that the official script writes."""
    pairs = [[word, [word, name]] for word, name in zip(sentence.named.words, sentence.named.classes, strict=True)]
    wrong = sentence.hallucinated
    return {
        "image_id": sentence.picture,
        "caption": sentence.text,
        "mscoco_hallucinated_words": [pairs[number] for number in wrong],
        "mscoco_gt_words": sorted(sentence.present),
        "mscoco_generated_words": [pair for _, pair in pairs],
        "hallucination_idxs": [sentence.named.places[number] for number in wrong],
        "words": list(sentence.named.read),
        "metrics": {"CHAIRs": int(bool(wrong)), "CHAIRi": len(wrong) / len(pairs) if pairs else 0.0},
    }


def notes(pictures: Sequence[int], options: Mapping[str, str]) -> tuple[str, ...]:
    """What keeps these numbers from being those of the papers."""
    found = []
    if (number := len(set(pictures))) != PICTURES:
        found.append(f"these answers are about {number} pictures, where the benchmark has {PICTURES}")
    if options["extractor"] == "words":
        found.append("words were counted without a judge, so these are not the numbers that papers have")
    elif options["phrases"] == "wordnet":
        found.append("phrases were read by WordNet, so these numbers only come near those that papers have")
    return tuple(found)
