from __future__ import annotations

import time
from collections import Counter

import numpy as np
import pytest
import regex
from hypothesis import given
from hypothesis import strategies as st

from mllm_plugin.config import LexicalConfig
from mllm_plugin.text.lexical import (
    FIRST_RULE,
    QueryTerms,
    TermCounts,
    forms_of,
    score_terms,
    term_hash,
    terms_of,
)

_TEXTS = st.lists(st.lists(st.sampled_from("abcdefgh")).map(" ".join), max_size=8)


@pytest.mark.parametrize(
    ("text", "terms"),
    [
        ("PyErr_SetString(E0277)!", ["pyerr_setstring", "e0277"]),
        ("Straße ＦＵＬＬ", ["strasse", "full"]),
        ("你好 world", ["你", "好", "world"]),
        ("日本語Python入門", ["日", "本", "語", "python", "入", "門"]),
        ("--- ...", []),
        ("don't stop v1.2_x x²", ["don", "t", "stop", "v1", "2_x", "x2"]),
        ("हिन्दी भाषा, தமிழ்", ["हिन्दी", "भाषा", "தமிழ்"]),
        ("বাংলা ਪੰਜਾਬੀ తెలుగు", ["বাংলা", "ਪੰਜਾਬੀ", "తెలుగు"]),
        ("ಕನ್ನಡ മലയാളം සිංහල བོད་ཡིག", ["ಕನ್ನಡ", "മലയാളം", "සිංහල", "བོད", "ཡིག"]),
        ("ลัง ខ្មែរ", ["ลั", "ง", "ខ្", "មែ", "រ", "ลัง", "ខ្មែ", "មែរ"]),
        ("𠮷野家", ["𠮷", "野", "家"]),
        ("q\u0303 n\u0308a", ["q\u0303", "n\u0308a"]),
        ("❤\ufe0f 1\ufe0f\u20e3 👍🏽", ["1"]),
        ("\u093f \u0301", []),
    ],
    ids=[
        "identifiers",
        "folding",
        "chinese",
        "mixed-scripts",
        "punctuation",
        "ascii",
        "devanagari-tamil",
        "bengali-gurmukhi-telugu",
        "kannada-malayalam-sinhala-tibetan",
        "thai-khmer",
        "beyond-the-first-plane",
        "marks-that-do-not-compose",
        "emoji",
        "marks-alone",
    ],
)
def test_terms(text, terms):
    assert terms_of(text) == terms


@pytest.mark.parametrize(
    ("written", "as_well"),
    [
        ("Donau\u00addampf\u00adschiff", "donaudampfschiff"),
        ("İstanbul", "istanbul"),
        ("İSTANBUL", "Istanbul"),
        ("oﬃce ﬁnd ﬂow", "office find flow"),
        ("كِتَابٌ", "كتاب"),
        ("كـــتاب", "كتاب"),
        ("\ufedb\ufe98\ufe8e\ufe8f", "كتاب"),
        ("می\u200cخواهم", "می\u200dخواهم"),
        ("כָּתַב", "כתב"),
        ("ﬡלף", "אלף"),
        ("क\u200d्ष", "क्ष"),
        ("क़लम", "क\u093cलम"),
        ("e\u0301tude", "étude"),
        ("\u202aleft\u202c \ufeffmark wo\u2060rd", "left mark word"),
        ("ΐ ΣΊΣΥΦΟΣ", "ι\u0308\u0301 σίσυφος"),
        ("ｶﾞｽ ＡＢＣ", "ガス abc"),
        ("𝐁𝐨𝐥𝐝", "bold"),
    ],
    ids=ascii,
)
def test_what_reads_the_same_is_the_same(written, as_well):
    assert terms_of(written) == terms_of(as_well)


@given(text=st.text(st.characters(exclude_categories=["Cs"]), max_size=60))
def test_terms_are_made_of_letters_and_marks_and_stay_what_they_are(text):
    for term in terms_of(text):
        assert regex.fullmatch(r"[\p{L}\p{N}_][\p{L}\p{N}\p{M}_]*", term)
        assert term in terms_of(term)


@given(text=st.text(st.characters(max_codepoint=127)))
def test_ascii_has_the_same_terms_by_every_rule_but_for_broken_words(text):
    unbroken = text.replace("-", " ")
    assert terms_of(unbroken) == terms_of(unbroken, FIRST_RULE)


@pytest.mark.parametrize(
    ("text", "terms"),
    [
        ("an exam-\nple", ["an", "exam", "ple", "example"]),
        ("well-  \r\n  known; re\u2010\nsult", ["well", "known", "re", "sult", "wellknown", "result"]),
        ("a-\nb-\nc", ["a", "b", "c", "ab", "bc"]),
        ("- one\n- two -\nthree", ["one", "two", "three"]),
        ("Donau\u00ad\ndampf\u00adschiff", ["donau", "dampfschiff", "donaudampfschiff"]),
        ("हिन्-\nदी", ["हिन्", "दी", "हिन्दी"]),
        ("cafe\u0301-\nte\u0301ria", ["café", "téria", "cafétéria"]),
    ],
    ids=["hyphen", "blanks", "twice", "lists", "soft-hyphens", "devanagari", "marks"],
)
def test_words_broken_over_a_line_end_count_in_both_forms(text, terms):
    assert terms_of(text) == terms


@pytest.mark.parametrize("text", ["an exam-\nple", "naïve exam-\nple"])
def test_the_first_rule_knows_no_words_broken_over_a_line_end(text):
    assert terms_of(text, FIRST_RULE)[1:] == ["exam", "ple"]


@pytest.mark.parametrize(
    "text",
    [
        "a" * 200_000 + " ",
        "a-" + "\n" * 200_000 + "-",
        "a-\n" * 50_000,
        "é" * 200_000 + " -\n",
        "e\u0323" * 100_000 + " -\n",
        "-\u00ad" * 100_000 + " " * 200_000,
    ],
    ids=range(6),
)
def test_looking_for_broken_words_takes_linear_time(text):
    started = time.process_time()
    terms_of(text)
    assert time.process_time() - started < 2  # minutes in quadratic time


@given(texts=_TEXTS)
def test_counts_survive_bytes_and_selection(texts):
    counts = TermCounts.of(texts)
    back = TermCounts.from_bytes(counts.to_bytes(), len(texts))
    order = np.arange(len(texts))[::-1]
    assert back.take(order).to_bytes() == TermCounts.of(texts[::-1]).to_bytes()
    assert (
        TermCounts.concat([counts, TermCounts.of(["a"])]).to_bytes()
        == TermCounts.of([*texts, "a"]).to_bytes()
    )


@given(texts=_TEXTS.filter(bool), query=st.lists(st.sampled_from("abcdxyz"), min_size=1).map(" ".join))
def test_score_is_bm25_with_squared_idf_over_its_bound(texts, query):
    config = LexicalConfig()
    rows = [Counter(text.split()) for text in texts]
    frequencies = {term_hash(term): sum(term in row for row in rows) for term in "abcdefghxyz"}
    length = sum(len(text.split()) for text in texts)
    terms = QueryTerms.of(query, frequencies, len(texts), length)

    def reference(row: Counter) -> float:
        top = bound = 0.0
        for term in query.split():
            df = frequencies[term_hash(term)]
            idf = np.log1p((len(texts) - df + 0.5) / (df + 0.5))
            norm = config.k1 * (1 - config.b + config.b * sum(row.values()) / max(length / len(texts), 1e-9))
            top += idf**2 * (row[term] / (row[term] + norm) if row[term] else 0.0)
            bound += idf**2
        return top / bound

    (scores,) = score_terms(TermCounts.of(texts), [terms], config)
    assert np.allclose(scores, [reference(row) for row in rows] if length else 0.0)
    assert ((scores >= 0) & (scores < 1)).all()
    if length:
        other = QueryTerms.of("a x", frequencies, len(texts), length)
        assert np.array_equal(score_terms(TermCounts.of(texts), [terms, other], config)[0], scores)


@pytest.mark.parametrize(
    ("term", "other"),
    [
        ("symptoms", "symptom"),
        ("restore", "restored"),
        ("binding", "binds"),
        ("studies", "study"),
        ("agreement", "agreements"),
    ],
)
def test_forms_name_each_other(term, other):
    assert other in forms_of(term)
    assert term in forms_of(other)


@pytest.mark.parametrize("term", ["e0277", "do", "is", "你", "pyerr_setstring"])
def test_terms_without_forms(term):
    assert forms_of(term) == ()


def test_another_form_counts_like_all_forms_together():
    texts = ["lamps burn", "the lamp", "a lamp lamps", "the boat"]
    frequencies = {term_hash("lamp"): 2, term_hash("lamps"): 2, term_hash("boat"): 1}
    terms = QueryTerms.of("lamp boats", frequencies, 4, 9)
    plural, exact, both, boat = score_terms(TermCounts.of(texts), [terms], LexicalConfig())[0]
    assert 0 < plural < exact
    assert both <= exact
    assert boat > 0
    alone = QueryTerms.of("lamp boats", {term_hash("lamp"): 2}, 4, 9)
    assert score_terms(TermCounts.of(texts), [alone], LexicalConfig())[0][0] == 0


def test_forms_are_asked_for_before_they_are_known():
    asked = QueryTerms.of("lamps", {}, 0, 0).hashes.tolist()
    assert term_hash("lamp") in asked
    known = QueryTerms.of("lamps", {term_hash("lamp"): 3}, 5, 20).hashes.tolist()
    assert known == [term_hash("lamps"), term_hash("lamp")]
