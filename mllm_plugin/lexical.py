"""Lexical evidence: words as 32-bit hashes, term counts per chunk, BM25 divided by its bound for the query.

Words are hashed so that no vocabulary needs to be kept (or erased); two words share a hash once in four
thousand million pairs, which costs one of them some of its weight and nothing else.

A query's word is also looked for in its other English forms, "restored" for "restore", with the weight that
all forms together deserve; the index holds words as they are written, so nothing has to be stored for it.

Source: Robertson and Zaragoza, The Probabilistic Relevance Framework: BM25 and Beyond, 2009.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from mllm_plugin.config import LexicalConfig

# Scripts written without blanks count character by character, all others word by word.
_UNSPACED = r"\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
_ENDINGS = ("ings", "ing", "ies", "ied", "ed", "es", "s", "e", "y")  # longest first
_STEM_LEAST = 3
_TERM = re.compile(rf"[{_UNSPACED}]|[^\W{_UNSPACED}]+")
# Each part is looked for once, so that neither long words nor many empty lines take long.
_BROKEN = re.compile(r"(?<!\w)(\w+)[-\u2010\u00ad][^\S\n]*\n\s*(?=(\w+))")


def terms_of(text: str) -> list[str]:
    """Lower-cased Unicode words of a text, in order, and then words broken over a line end as one."""
    folded = unicodedata.normalize("NFKC", text).casefold()
    return _TERM.findall(folded) + joined_terms(folded)


def joined_terms(text: str) -> list[str]:
    """Words that a hyphen breaks over a line end, as in a PDF, without it."""
    return ["".join(parts) for parts in _BROKEN.findall(text)]


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
    def of(cls, texts: Sequence[str]) -> TermCounts:
        """Counts the terms of texts."""
        rows = [sorted(Counter(map(term_hash, terms_of(text))).items()) for text in texts]
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
    def of(cls, text: str, frequencies: dict[int, int], chunks: int, length: int) -> QueryTerms:
        """Weighs a query.

        Args:
            text: The query.
            frequencies: Live document frequency by term hash; terms that are nowhere may be left out.
            chunks: Live chunks of the namespace; 0 to learn whose frequencies are needed.
            length: Terms in all of them.
        """
        asked = Counter(terms_of(text))
        hashes, terms, weights = [], [], []
        bound = 0.0
        for place, (term, repeats) in enumerate(sorted(asked.items(), key=lambda pair: term_hash(pair[0]))):
            forms = [term_hash(form) for form in forms_of(term)]
            forms = [form for form in forms if frequencies.get(form) or not chunks]
            occurs = [frequencies.get(one, 0) for one in (term_hash(term), *forms)]
            weight = _squared_idf(occurs[0], chunks) * repeats
            shared = _squared_idf(min(chunks, sum(occurs)), chunks) * repeats
            hashes += [term_hash(term), *forms]
            terms += [place] * len(occurs)
            weights += [weight, *[shared] * len(forms)]
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
                rows, part = _best_parts(np.concatenate([rows for rows, _ in found[first:last]]), parts)
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


def _best_parts(
    rows: NDArray[np.int64], parts: Sequence[NDArray[np.float64]]
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Each text once, with the best of its parts."""
    order = np.argsort(rows, kind="stable")
    rows, part = rows[order], np.concatenate(parts)[order]
    starts = np.flatnonzero(np.diff(rows, prepend=-1))
    return (rows[starts], np.maximum.reduceat(part, starts)) if len(rows) else (rows, part)


def _squared_idf(occurs: int, chunks: int) -> float:
    return float(np.log1p((chunks - occurs + 0.5) / (occurs + 0.5))) ** 2
