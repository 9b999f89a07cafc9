"""How long texts are, in words."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from feedback_workloads.method.words import count_words


@pytest.mark.parametrize(
    ("text", "expect"),
    [
        pytest.param("", 0, id="nothing"),
        pytest.param(" \n\t", 0, id="blank"),
        pytest.param("A dog - it's well-known - runs.", 7, id="English: what stands between spaces"),
        pytest.param("Ein Hund läuft über die Straße.", 6, id="German"),
        pytest.param("Собака бежит.", 2, id="Russian"),
        pytest.param("개가 길을 건넌다.", 3, id="Korean has spaces"),
        pytest.param("कुत्ता दौड़ता है", 3, id="Hindi"),
        pytest.param("الكلب يجري", 2, id="Arabic"),
        pytest.param("一只狗在跑。", 5, id="Chinese"),
        pytest.param("一只狗，在跑 。", 6, id="punctuation counts where it stands alone, as in English"),
        pytest.param("犬が走っている。", 7, id="Japanese"),
        pytest.param("スカートとコーヒー", 9, id="Japanese: a long vowel"),
        pytest.param("〇九年", 3, id="Chinese: zero"),
        pytest.param("สุนัขวิ่ง", 5, id="Thai: vowels above and below belong to their letter"),
        pytest.param("ஒரு நாய் ஓடுகிறது", 3, id="Tamil has spaces"),
        pytest.param("ខ្មែរ", 3, id="Khmer"),
        pytest.param("用iPhone拍的（2024年）。", 6, id="a word and a number within Chinese"),
        pytest.param("The sign says 出口.", 5, id="Chinese within English"),
        pytest.param("👍 🐕🐕", 2, id="emoji"),
    ],
)
def test_words(text: str, expect: int) -> None:
    assert count_words(text) == expect


SPACED = st.text(st.characters(max_codepoint=0x7FF) | st.sampled_from(" \u2014\u2019\u3000\u3002\uac00🐕"), max_size=40)
CHINESE = st.text(st.characters(min_codepoint=0x4E00, max_codepoint=0x9FA5), max_size=20)


@given(SPACED)
def test_where_there_are_spaces_words_are_what_stands_between_them(text: str) -> None:
    assert count_words(text) == len(text.split())


@given(CHINESE, CHINESE)
def test_in_chinese_a_text_is_as_long_as_its_parts(one: str, other: str) -> None:
    assert count_words(one + other) == count_words(one) + count_words(other) == len(one + other)
