"""Words as published scorers have them: NLTK's tokens and parts of speech, WordNet's lemmas, pattern.en's singulars."""

from __future__ import annotations

import random
from itertools import chain

import pytest
from hypothesis import given
from hypothesis import strategies as st
from nltk.tag.perceptron import PerceptronTagger
from nltk.tokenize.destructive import NLTKWordTokenizer

from feedback_workloads.benchmarks.english import tagging
from feedback_workloads.benchmarks.english import tokens as tokenizer
from feedback_workloads.benchmarks.english.lemmas import Part, lemma, singular
from feedback_workloads.benchmarks.english.tagging import Perceptron, nltk_parts
from feedback_workloads.benchmarks.english.tokens import tokens
from feedback_workloads.benchmarks.english.words import noun_lemmas, nouns, singulars
from feedback_workloads.contract import BadInput


@pytest.mark.parametrize(
    ("text", "expect"),
    [
        pytest.param("a man, 2 dogs.", ["a", "man", ",", "2", "dogs", "."], id="commas and the last period"),
        pytest.param(
            "at 5 p.m. a dr. smith sat. he ate.",
            ["at", "5", "p.m.", "a", "dr.", "smith", "sat", ".", "he", "ate", "."],
            id="Punkt knows abbreviations",
        ),
        pytest.param("a well-lit room", ["a", "well-lit", "room"], id="hyphens stay"),
        pytest.param(
            "it's a dog's bowl; they can't",
            ["it", "'s", "a", "dog", "'s", "bowl", ";", "they", "ca", "n't"],
            id="contractions",
        ),
        pytest.param("you cannot, gonna go", ["you", "can", "not", ",", "gon", "na", "go"], id="words that are two"),
        pytest.param("1,000 people", ["1,000", "people"], id="a comma within a number"),
        pytest.param('a "stop" sign', ["a", "``", "stop", "''", "sign"], id="quotation marks"),
        # Where later versions of NLTK part from those that published numbers rest on (facts on CHAIR: NLTK version).
        pytest.param("a 'stop' sign", ["a", "'stop", "'", "sign"], id="3.8.1 to 3.9.2: a single quote stays in front"),
        pytest.param("a car—red", ["a", "car—red"], id="3.8.1 to 3.9.2: a dash does not split"),
        pytest.param(" \n", [], id="blank"),
    ],
)
def test_tokens(text: str, expect: list[str]) -> None:
    assert tokens(text) == expect


PIECES = st.sampled_from(
    [*"abé.,:;!?'\"-()$5", " ", "  ", "\n", "--", "...", "can", "not", "cannot", "gonna", "wanna", "Mr.", "p.m.", "'s",
     "n't", "dogs", "A", "1,000", "—", "’", "“", "well-lit", "\u00a0", "_"]
)  # fmt: skip


@given(st.lists(PIECES, max_size=30).map("".join))
def test_the_short_way_splits_as_nltk_does(text: str) -> None:
    words = NLTKWordTokenizer()
    assert tokens(text) == list(chain.from_iterable(map(words.tokenize, tokenizer._sentences().tokenize(text))))


@pytest.mark.parametrize(
    ("word", "part", "expect"),
    [
        pytest.param("dogs", "n", "dog", id="rule"),
        pytest.param("women", "n", "woman", id="irregular women"),
        pytest.param("men", "n", "men", id="men are a lemma, too, and no longer: CHAIR finds no person in them"),
        pytest.param("children", "n", "child", id="irregular"),
        pytest.param("oxen", "n", "ox", id="irregular, too"),
        pytest.param("people", "n", "people", id="a lemma itself"),
        pytest.param("glasses", "n", "glass", id="the shorter of two lemmas"),
        pytest.param("skis", "n", "ski", id="skis are ski"),
        pytest.param("scissors", "n", "scissors", id="no singular"),
        pytest.param("knives", "n", "knife", id="irregular -ves"),
        pytest.param("us", "n", "u", id="NLTK's own example"),
        pytest.param("frisbees", "n", "frisbee", id="name"),
        pytest.param("cars", "v", "cars", id="no verb: kept"),
        pytest.param("sitting", "v", "sit", id="irregular verb"),
        pytest.param("parked", "v", "park", id="rule -ed"),
        pytest.param("skiing", "v", "ski", id="rule -ing"),
        pytest.param("skiing", "n", "skiing", id="as a noun"),
        pytest.param("better", "a", "good", id="adjective"),
        pytest.param("better", "r", "well", id="adverb"),
        pytest.param("xyzzys", "n", "xyzzys", id="unknown: kept"),
    ],
)
def test_lemmas(word: str, part: Part, expect: str) -> None:
    assert lemma(word, part) == expect


@pytest.mark.parametrize(
    ("word", "expect"),
    [
        ("buses", "bus"),
        ("people", "person"),
        ("glasses", "glass"),
        ("this", "thi"),
        ("knives", "knife"),
        ("skis", "ski"),
    ],
)
def test_singulars_know_no_parts_of_speech(word: str, expect: str) -> None:
    assert singular(word) == expect


def test_the_rules_see_small_letters() -> None:
    assert list(noun_lemmas(["Two Dogs."])) == list(singulars(["Two Dogs."])) == [["two", "dog", "."]]


def test_nouns_keep_their_capitals() -> None:
    assert list(nouns(["A TV and Dogs run"], lambda _: ["-n-nv"])) == [["TV", "Dogs"]]


LESSON = [
    [("The", "DT"), ("dogs", "NNS"), ("run", "VBP"), ("quickly", "RB"), (".", ".")],
    [("A", "DT"), ("red", "JJ"), ("run", "NN"), ("in", "IN"), ("1999", "CD"), (",", ","), ("well-lit", "JJ")],
    [("They", "PRP"), ("dog", "VBP"), ("the", "DT"), ("2", "CD"), ("red", "JJ"), ("runs", "NNS")],
]


@pytest.fixture(scope="module")
def tagger() -> PerceptronTagger:
    """NLTK's tagger, taught by NLTK; what it learns is little, but in the form of its real weights."""
    random.seed(0)
    tagger = PerceptronTagger(load=False)
    tagger.train(LESSON * 20)
    return tagger


WORDS = st.sampled_from(
    [word for sentence in LESSON for word, _ in sentence] + ["Cats", "running", "-", "x-y", "12", "é"]
)


@given(st.lists(st.lists(WORDS, max_size=12), max_size=6))
def test_many_texts_are_tagged_at_once_as_nltk_tags_each(tagger: PerceptronTagger, texts: list[list[str]]) -> None:
    parts = {"N": "n", "V": "v", "J": "a", "R": "r"}
    assert tagger.tagdict, "some words have but one tag"
    ours = Perceptron(tagger.model.weights, tagger.tagdict, tagger.classes).parts(texts)
    assert ours == ["".join(parts.get(tag[0], "-") for _, tag in tagger.tag(text)) for text in texts]


def test_a_tagger_that_is_not_installed_is_named_with_its_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nltk.data.path", [])
    tagging._perceptron.cache_clear()
    with pytest.raises(BadInput, match=r"run `python -m nltk.downloader averaged_perceptron_tagger_eng`"):
        nltk_parts([["a", "dog"]])
