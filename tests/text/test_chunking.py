from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mllm_plugin.text.chunking import split_text, word_offsets

_UNICODE = st.text(st.characters(exclude_categories=["Cs"]), max_size=400)
_PROSE = st.lists(
    st.sampled_from(["Alpha beta.", "One two three four,", "你好。", "x\n", "\n\n", "e\u0301 é ß!", "👩‍👩‍👧"])
).map(" ".join)


@settings(deadline=None)
@given(text=_UNICODE | _PROSE, limit=st.integers(1, 12))
def test_chunks_cover_every_token_in_order_within_the_limit(text, limit):
    spans = split_text(text, limit)
    covered = [offset for span in spans for offset in range(span.start, span.end)]
    assert covered == sorted(set(covered))
    for start, end in word_offsets(text):
        assert set(range(start, end)) <= set(covered)
    for span in spans:
        piece = text[span.start : span.end]
        assert piece == piece.strip()
        assert 0 < len(word_offsets(piece)) <= limit or not len(word_offsets(text))


def test_cuts_at_sentence_ends_into_even_parts():
    text = "First sentence is here. Second one follows it. Third comes now. Fourth ends the text."
    pieces = [text[span.start : span.end] for span in split_text(text, 12)]
    assert pieces == [
        "First sentence is here. Second one follows it.",
        "Third comes now. Fourth ends the text.",
    ]


def test_without_sentences_it_cuts_between_words():
    text = " ".join(f"w{number}" for number in range(50))
    for span in split_text(text, 7):
        assert text[span.start] == "w"
        assert span.end == len(text) or text[span.end] == " "


@pytest.mark.parametrize("text", ["", " \n\t"], ids=["empty", "blank"])
def test_blank_text_has_no_chunk(text):
    assert split_text(text, 8) == []


def test_a_long_line_is_tokenised_in_segments():
    seen = []

    def offsets(text):
        seen.append(len(text))
        return word_offsets(text)

    text = "word " * 60_000
    spans = split_text(text, 100, offsets)
    assert max(seen) <= 100_000
    assert sum(len(word_offsets(text[span.start : span.end])) for span in spans) == 60_000


def test_words_with_marks_are_one_token_each():
    for text in ("हिन्दी भाषा", "தமிழ் மொழி", "كِتَابٌ جَدِيدٌ", "می\u200cخواهم بروم", "e\u0301tude n\u0303andu"):
        assert [text[start:end] for start, end in word_offsets(text)] == text.split()


@pytest.mark.parametrize(
    "sentence",
    [
        "यह एक छोटा वाक्य है।",
        "هل هذه جملة قصيرة؟",
        "یہ ایک چھوٹا جملہ ہے۔",
        "これは短い文です。",
        "នេះជាប្រយោគខ្លី។",
    ],
    ids=["hindi", "arabic", "urdu", "japanese", "khmer"],
)
def test_sentences_of_other_scripts_end_chunks(sentence):
    text = " ".join([sentence] * 12)
    spans = split_text(text, 2 * len(word_offsets(sentence)) + 1)
    assert len(spans) > 4
    assert all(text[span.start : span.end].endswith(sentence[-1]) for span in spans)


@pytest.mark.parametrize("text", ["a query", "  a query\t", "aé", "a longer query"])
def test_a_tokenizer_is_asked_only_where_its_tokens_may_be_too_many(text):
    """Short ASCII text cannot have so many, and what comes is what it would give."""
    asked = []

    def letters(piece):
        asked.append(piece)
        return np.array([(place, place + 1) for place in range(len(piece))], dtype=np.int64).reshape(-1, 2)

    known = text.isascii() and len(text) <= 12
    spans = split_text(text, 24, letters)
    assert " ".join(text[span.start : span.end] for span in spans).split() == text.split()
    assert asked == ([] if known else [text])
    if known:
        assert spans == split_text(text + " \u2003", 26, letters)
