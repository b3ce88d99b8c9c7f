"""Document frequencies of a namespace and the short posting lists through which rare words route."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

import apsw
import numpy as np
from numpy.typing import NDArray

from mllm_plugin.store.snapshot import Snapshot
from mllm_plugin.text.lexical import WORD_RULE, TermCounts


def word_rule(tx: apsw.Connection) -> int:
    """The rule by which the memory tells words, within a write transaction."""
    return Snapshot(tx).word_rule


def save_word_rule(tx: apsw.Connection) -> None:
    """Gives a new memory the newest rule."""
    tx.execute("INSERT INTO meta VALUES ('words', ?)", (WORD_RULE,))


def add_terms(
    tx: apsw.Connection,
    namespace_id: int,
    chunk_ids: NDArray[np.int64],
    terms: TermCounts,
    live: NDArray[np.bool_],
    limit: int,
) -> None:
    """Counts the terms of new chunks; a term's postings are kept while at most `limit` chunks have it."""
    total, alive = Counter(terms.hashes.tolist()), Counter(_live_hashes(terms, live))
    posted = set()
    rows = []
    for term, count in total.items():
        before, listed = tx.execute(
            "SELECT total, posted FROM terms WHERE namespace_id = ? AND term = ?", (namespace_id, term)
        ).get or (0, 1)
        keep = bool(listed) and before + count <= limit
        if keep:
            posted.add(term)
        elif listed and before:
            tx.execute("DELETE FROM postings WHERE namespace_id = ? AND term = ?", (namespace_id, term))
        rows.append((namespace_id, term, alive[term], count, int(keep)))
    tx.executemany(
        "INSERT INTO terms VALUES (?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET "
        "live = live + excluded.live, total = total + excluded.total, posted = excluded.posted",
        rows,
    )
    owners = chunk_ids[terms.rows()].tolist()
    pairs = ((namespace_id, t, c) for t, c in zip(terms.hashes.tolist(), owners, strict=True) if t in posted)
    tx.executemany("INSERT INTO postings VALUES (?, ?, ?)", pairs)


def remove_terms(
    tx: apsw.Connection,
    namespace_id: int,
    chunk_ids: NDArray[np.int64],
    terms: TermCounts,
    live: NDArray[np.bool_],
) -> None:
    """Uncounts the terms of chunks that go; a term that no chunk has leaves no row."""
    alive = Counter(_live_hashes(terms, live))
    owners = chunk_ids[terms.rows()].tolist()
    tx.executemany(
        "DELETE FROM postings WHERE namespace_id = ? AND term = ? AND chunk_id = ?",
        ((namespace_id, term, chunk) for term, chunk in zip(terms.hashes.tolist(), owners, strict=True)),
    )
    total = Counter(terms.hashes.tolist())
    tx.executemany(
        "UPDATE terms SET live = live - ?, total = total - ? WHERE namespace_id = ? AND term = ?",
        ((alive[term], count, namespace_id, term) for term, count in total.items()),
    )
    tx.executemany(
        "DELETE FROM terms WHERE namespace_id = ? AND term = ? AND total = 0",
        ((namespace_id, term) for term in total),
    )


def shift_live_terms(tx: apsw.Connection, namespace_id: int, terms: TermCounts, sign: int) -> None:
    """Adds (+1) or takes (-1) chunks from the live frequencies, as unmask and mask do."""
    tx.executemany(
        "UPDATE terms SET live = live + ? WHERE namespace_id = ? AND term = ?",
        ((sign * count, namespace_id, term) for term, count in Counter(terms.hashes.tolist()).items()),
    )


def rebuild_postings(tx: apsw.Connection, namespace_id: int, chunks: Iterable, limit: int) -> int:
    """Lists again the terms that have become rare since their postings were dropped; returns how many.

    Args:
        chunks: `EmbeddingChunk` of every level-2 node of the namespace.
        limit: Longest posting list.
    """
    rows = tx.execute(
        "SELECT term FROM terms WHERE namespace_id = ? AND posted = 0 AND total <= ?", (namespace_id, limit)
    )
    missing = np.array([term for (term,) in rows], dtype=np.uint32)
    if not len(missing):
        return 0
    for children in chunks:
        entries = np.flatnonzero(np.isin(children.terms.hashes, missing))
        owners = children.ids[children.terms.rows()[entries]].tolist()
        pairs = zip(children.terms.hashes[entries].tolist(), owners, strict=True)
        tx.executemany(
            "INSERT OR IGNORE INTO postings VALUES (?, ?, ?)", ((namespace_id, t, c) for t, c in pairs)
        )
    tx.executemany(
        "UPDATE terms SET posted = 1 WHERE namespace_id = ? AND term = ?",
        ((namespace_id, term) for term in missing.tolist()),
    )
    return len(missing)


def _live_hashes(terms: TermCounts, live: NDArray[np.bool_]) -> list[int]:
    return terms.hashes[live[terms.rows()]].tolist()
