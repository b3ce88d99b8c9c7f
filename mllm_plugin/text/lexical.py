"""Lexical evidence: words as 32-bit hashes, term counts per chunk, BM25 divided by its bound for the query.

Words are hashed so that no vocabulary needs to be kept (or erased); two words share a hash once in four
thousand million pairs, which costs one of them some of its weight and nothing else.

Which words a text has is a rule with a number, which a memory keeps: hashes compare only with those of the
same rule. Rule 1 took combining marks for ends of words; rule 2 knows all scripts, and words that are broken
over a line end.

A query's word is also looked for in its other English forms, "restored" for "restore", with the weight that
all forms together deserve; the index holds words as they are written, so nothing has to be stored for it.

Source: Robertson and Zaragoza, The Probabilistic Relevance Framework: BM25 and Beyond, 2009.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import pairwise, repeat
from operator import attrgetter
from typing import NamedTuple

import numpy as np
import regex
from numpy.typing import NDArray

from mllm_plugin.config import LexicalConfig

FIRST_RULE = 1
WORD_RULE = 2  # of new memories

# Scripts written without blanks count letter by letter, all others word by word.
_UNSPACED_1 = r"\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
# Chinese and Japanese have thousands of letters; of the others, Thai to Javanese, two together tell more.
_FEW_LETTERS = (
    r"\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u1950-\u19df\u1a20-\u1aaf\u1b00-\u1b7f"
    r"\ua980-\ua9ff\uaa60-\uaadf"
)
_MANY_LETTERS = (
    r"\u3005-\u3007\u3040-\u312f\u31a0-\u31bf\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
    r"\U0001aff0-\U0001b16f\U00020000-\U000323af"
)
_ENDINGS = ("ings", "ing", "ies", "ied", "ed", "es", "s", "e", "y")  # longest first
_STEM_LEAST = 3
_TERM_1 = re.compile(rf"[{_UNSPACED_1}]|[^\W{_UNSPACED_1}]+")
_ASCII_TERM = re.compile(r"\w+", re.ASCII)
_MARKS = r"[\p{Mn}\p{Mc}]*"
_FEW = rf"[[{_FEW_LETTERS}]&&[\p{{L}}\p{{N}}]]{_MARKS}"
_MANY = rf"[[{_MANY_LETTERS}]&&[\p{{L}}\p{{N}}]]{_MARKS}"
_WORD = rf"(?:[[\p{{L}}\p{{N}}_]--[{_FEW_LETTERS}{_MANY_LETTERS}]]{_MARKS})+"
_TERM = regex.compile(rf"{_FEW}|{_MANY}|{_WORD}", regex.VERSION1)
_PAIR = regex.compile(rf"{_FEW}{_FEW}", regex.VERSION1)
# What is not seen, and what is left out as often as written: vowel points of Hebrew, vowel signs and the
# lengthening stroke of Arabic; and below, the dot that case folding makes of a Turkish İ.
_DROPPED = regex.compile(
    r"[\p{Cf}\p{Default_Ignorable_Code_Point}\u0591-\u05bd\u05bf\u05c1\u05c2\u05c4\u05c5\u05c7\u0610-\u061a\u0640"
    r"\u064b-\u0652\u0656-\u065f\u0670\u06d6-\u06dc\u06df-\u06e4\u06e7\u06e8\u06ea-\u06ed]"
)
_DOTTED_I = re.compile("i\u0307+")
_SOFT_BREAK = re.compile(r"\u00ad(?=[^\S\n]*\n)")
_BREAK = re.compile(r"[-\u2010][^\S\n]*\n")
# Each part is looked for once, so that neither long words nor many empty lines take long.
_BROKEN = regex.compile(
    rf"(?<![\p{{L}}\p{{M}}\p{{N}}_])({_WORD})[-\u2010][^\S\n]*\n\s*(?=({_WORD}))", regex.VERSION1
)


def terms_of(text: str, rule: int = WORD_RULE) -> list[str]:
    """Words of a text, in order, so that what reads the same is the same.

    Args:
        text: Any Unicode text.
        rule: Of the memory; see `WORD_RULE`.

    Returns:
        Case-folded words in NFKC with their combining marks (UAX 29), without what need not be written; in
        scripts written without blanks single letters with their marks, and then, but for Chinese and
        Japanese, neighbouring letters together; at last words broken over a line end as one. By rule 1 none
        of the latter, and marks end a word.
    """
    if text.isascii():
        folded = text.lower()
        terms = _ASCII_TERM.findall(folded)
        return terms if rule == FIRST_RULE else terms + _joined_terms(folded)
    folded = unicodedata.normalize("NFKC", text).casefold()
    if rule == FIRST_RULE:
        return _TERM_1.findall(folded)
    seen = _DOTTED_I.sub("i", _DROPPED.sub("", _SOFT_BREAK.sub("-", folded)))
    seen = unicodedata.normalize("NFKC", seen)
    return _TERM.findall(seen) + _PAIR.findall(seen, overlapped=True) + _joined_terms(seen)


def _joined_terms(text: str) -> list[str]:
    """Words that a hyphen breaks over a line end, as in a PDF, without it."""
    return ["".join(parts) for parts in _BROKEN.findall(text)] if _BREAK.search(text) else []


@lru_cache(maxsize=1 << 18)
def term_hash(term: str) -> int:
    """A stable 32-bit hash of a term."""
    return int.from_bytes(
        hashlib.blake2b(term.encode("utf-8", "surrogatepass"), digest_size=4).digest(), "little"
    )


@lru_cache(maxsize=1 << 14)
def forms_of(term: str) -> tuple[str, ...]:
    """Other forms that a term may have: its stem alone and with each of the common endings."""
    stem = _stem(term)
    if not term.isalpha() or len(stem) < _STEM_LEAST:
        return ()
    forms = [stem, *(stem + ending for ending in _ENDINGS)]
    return tuple(form for form in forms if form != term and _stem(form) == stem)


def _stem(term: str) -> str:
    for ending in _ENDINGS:
        if term.endswith(ending) and len(term) - len(ending) >= _STEM_LEAST:
            return term[: -len(ending)]
    return term


@dataclass(frozen=True)
class TermCounts:
    """Term counts of c texts, one after another (compressed sparse rows).

    Attributes:
        sizes: Distinct terms per text [c].
        lengths: All terms per text, repeats counted [c].
        hashes: Term hashes [sum of sizes], ascending within a text.
        counts: How often each occurs, at most 255 [sum of sizes].
    """

    sizes: NDArray[np.uint32]
    lengths: NDArray[np.uint32]
    hashes: NDArray[np.uint32]
    counts: NDArray[np.uint8]

    @classmethod
    def of(cls, texts: Sequence[str], rule: int = WORD_RULE) -> TermCounts:
        """Counts the terms of texts, as a rule tells them."""
        rows = [sorted(Counter(map(term_hash, terms_of(text, rule))).items()) for text in texts]
        flat = [pair for row in rows for pair in row]
        return cls(
            sizes=np.array([len(row) for row in rows], dtype=np.uint32),
            lengths=np.array([sum(count for _, count in row) for row in rows], dtype=np.uint32),
            hashes=np.array([term for term, _ in flat], dtype=np.uint32),
            counts=np.array([min(count, 255) for _, count in flat], dtype=np.uint8),
        )

    @classmethod
    def empty(cls) -> TermCounts:
        """Counts of no text."""
        return cls.of([])

    @property
    def starts(self) -> NDArray[np.int64]:
        """First entry of each text and the end of the last [c + 1]."""
        return np.concatenate([[0], np.cumsum(self.sizes, dtype=np.int64)])

    def rows(self) -> NDArray[np.int64]:
        """The text that each entry belongs to [sum of sizes]."""
        return np.repeat(np.arange(len(self.sizes)), self.sizes)

    @cached_property
    def lists(self) -> TermLists:
        """The same entries in order of their terms, nine bytes each."""
        order = np.argsort(self.hashes)
        rows = np.repeat(np.arange(len(self.sizes), dtype=np.uint32), self.sizes)
        return TermLists(self.hashes[order], rows[order], self.counts[order])

    def take(self, rows: NDArray[np.integer]) -> TermCounts:
        """Counts of some of the texts, in the order asked."""
        sizes = self.sizes[rows].astype(np.int64)
        shift = self.starts[:-1][rows] - (np.cumsum(sizes) - sizes)
        entries = np.repeat(shift, sizes) + np.arange(int(sizes.sum()))
        return TermCounts(self.sizes[rows], self.lengths[rows], self.hashes[entries], self.counts[entries])

    @staticmethod
    def concat(parts: Sequence[TermCounts]) -> TermCounts:
        """Joins counts one after another."""
        fields = ("sizes", "lengths", "hashes", "counts")
        return TermCounts(*(np.concatenate([getattr(part, name) for part in parts]) for name in fields))

    def to_bytes(self) -> bytes:
        """Little-endian columns, one after another."""
        columns = (
            self.sizes.astype("<u4"),
            self.lengths.astype("<u4"),
            self.hashes.astype("<u4"),
            self.counts,
        )
        return b"".join(column.tobytes() for column in columns)

    @classmethod
    def from_bytes(cls, data: bytes, texts: int) -> TermCounts:
        """Reads `to_bytes` of a known number of texts."""
        sizes = np.frombuffer(data, dtype="<u4", count=texts)
        lengths = np.frombuffer(data, dtype="<u4", count=texts, offset=4 * texts)
        entries = int(sizes.sum())
        hashes = np.frombuffer(data, dtype="<u4", count=entries, offset=8 * texts)
        counts = np.frombuffer(data, dtype=np.uint8, count=entries, offset=8 * texts + 4 * entries)
        return cls(sizes, lengths, hashes, counts)


class TermLists(NamedTuple):
    """For every term the texts that have it, and how often [sum of sizes]; terms ascend."""

    hashes: NDArray[np.uint32]
    rows: NDArray[np.uint32]
    counts: NDArray[np.uint8]

    def bounds(self, hashes: NDArray[np.uint32]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Where the list of each term begins and ends [t]."""
        first, last = (np.searchsorted(self.hashes, hashes, side=side) for side in ("left", "right"))
        return first, last


class AskedTerm(NamedTuple):
    """A term of a query: its hash, those of its other forms, how often it is asked for."""

    term: int
    forms: tuple[int, ...]
    repeats: int


def asked_terms(text: str, rule: int = WORD_RULE) -> list[AskedTerm]:
    """The terms of a query, in ascending order of their hashes."""
    asked = Counter(terms_of(text, rule)).items()
    return sorted((AskedTerm(*_hashes(term), count) for term, count in asked), key=attrgetter("term"))


@lru_cache(maxsize=1 << 14)
def _hashes(term: str) -> tuple[int, tuple[int, ...]]:
    """Of a term and of its other forms."""
    return term_hash(term), tuple(map(term_hash, forms_of(term)))


@dataclass(frozen=True)
class QueryTerms:
    """A query's terms in one namespace; entries are the terms and their other forms.

    Attributes:
        hashes: Hash of each entry [e]; ascending over the terms, the forms after their term.
        terms: Which of the query's terms an entry stands for [e], ascending.
        weights: Squared inverse document frequency times how often the query has the term, over the bound
            [e]. Squared, since a term is weighed in the query and in the chunk, as in a cosine of tf-idf
            vectors: it keeps question words from outvoting a name (measured by benchmarks/leaf_weights.py).
            Other forms have the frequency of all forms together.
        mean_length: Mean number of terms per live chunk of the namespace.
    """

    hashes: NDArray[np.uint32]
    terms: NDArray[np.int64]
    weights: NDArray[np.float64]
    mean_length: float

    @classmethod
    def of(
        cls, text: str, frequencies: dict[int, int], chunks: int, length: int, rule: int = WORD_RULE
    ) -> QueryTerms:
        """Weighs a query.

        Args:
            text: The query.
            frequencies: Live document frequency by term hash; terms that are nowhere may be left out.
            chunks: Live chunks of the namespace; 0 to learn whose frequencies are needed.
            length: Terms in all of them.
            rule: By which the memory tells words.
        """
        return cls.weighed(asked_terms(text, rule), frequencies, chunks, length)

    @classmethod
    def weighed(
        cls, asked: Sequence[AskedTerm], frequencies: Mapping[int, int], chunks: int, length: int
    ) -> QueryTerms:
        """As `of`, of the terms of a query."""
        forms = [[form for form in one.forms if frequencies.get(form) or not chunks] for one in asked]
        occurs = [frequencies.get(one.term, 0) for one in asked]
        others = [
            min(chunks, own + sum(map(frequencies.get, found, repeat(0)))) if found else own
            for own, found in zip(occurs, forms, strict=True)
        ]
        rarity = squared_idfs([*occurs, *others], chunks)
        hashes, terms, weights = [], [], []
        bound = 0.0
        for place, (one, found) in enumerate(zip(asked, forms, strict=True)):
            weight, shared = rarity[place] * one.repeats, rarity[len(asked) + place] * one.repeats
            hashes += [one.term, *found]
            terms += [place] * (1 + len(found))
            weights += [weight, *[shared] * len(found)]
            bound += weight
        return cls(
            hashes=np.array(hashes, dtype=np.uint32),
            terms=np.array(terms, dtype=np.int64),
            weights=np.array(weights, dtype=np.float64) / (bound if bound > 0 else 1.0),
            mean_length=length / chunks if chunks else 1.0,
        )

    def score(
        self,
        found: Sequence[tuple[NDArray[np.int64], NDArray[np.uint8]]],
        lengths: NDArray[np.uint32],
        config: LexicalConfig,
    ) -> NDArray[np.float64]:
        """BM25 over its bound, in [0, 1), of texts with their lengths [c]: a term counts with its best form.

        Args:
            found: Texts that have each entry, every text once, and how often they have it.
            lengths: All terms per text.
            config: Saturation.
        """
        total = np.zeros(len(lengths))
        starts = np.flatnonzero(np.diff(self.terms, prepend=-1)).tolist()
        for first, last in pairwise([*starts, len(self.terms)]):
            parts = [
                weight * self._saturate(counts, lengths[rows], config)
                for weight, (rows, counts) in zip(self.weights[first:last], found[first:last], strict=True)
            ]
            rows, part = found[first][0], parts[0]
            if last - first > 1:
                rows, part = best_parts(np.concatenate([rows for rows, _ in found[first:last]]), parts)
            total[rows] += part
        return total

    def _saturate(
        self, counts: NDArray[np.uint8], lengths: NDArray[np.uint32], config: LexicalConfig
    ) -> NDArray[np.float64]:
        """The term-frequency part of BM25 over its limit, in [0, 1): counts and text lengths [e]."""
        count = counts.astype(np.float64)
        norm = config.k1 * (1 - config.b + config.b * lengths / self.mean_length)
        return count / (count + norm)


def score_terms(
    terms: TermCounts, queries: Sequence[QueryTerms], config: LexicalConfig
) -> list[NDArray[np.float64]]:
    """BM25 over its bound, in [0, 1), one per text [c], for each query; entries are searched once for all."""
    hashes = (
        np.unique(np.concatenate([query.hashes for query in queries])) if queries else np.zeros(0, np.uint32)
    )
    if not len(hashes) or not len(terms.hashes):
        return [np.zeros(len(terms.sizes)) for _ in queries]
    place = np.searchsorted(hashes, terms.hashes).clip(max=len(hashes) - 1)
    entries = np.flatnonzero(hashes[place] == terms.hashes)
    entries = entries[np.argsort(place[entries], kind="stable")]
    bounds = np.searchsorted(place[entries], np.arange(len(hashes) + 1))
    rows, counts = terms.rows()[entries], terms.counts[entries]
    found = [(rows[a:b], counts[a:b]) for a, b in pairwise(bounds)]
    return [
        query.score([found[one] for one in np.searchsorted(hashes, query.hashes)], terms.lengths, config)
        for query in queries
    ]


def best_parts(
    rows: NDArray[np.int64], parts: Sequence[NDArray[np.float64]]
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Each text once, with the best of its parts."""
    order = np.argsort(rows, kind="stable")
    rows, part = rows[order], np.concatenate(parts)[order]
    starts = np.flatnonzero(np.diff(rows, prepend=-1))
    return (rows[starts], np.maximum.reduceat(part, starts)) if len(rows) else (rows, part)


def squared_idfs(occurs: Sequence[int] | NDArray[np.int64], chunks: int | NDArray[np.int64]) -> list[float]:
    """The squared inverse document frequency of terms that so many of the chunks have [t]."""
    found = np.asarray(occurs, dtype=np.float64)
    return [value**2 for value in np.log1p((chunks - found + 0.5) / (found + 0.5)).tolist()]
