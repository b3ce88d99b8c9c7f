"""Questions to train and to measure with, and which of them are held out."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

HELD_OUT_SHARE = 0.1  # share of the questions, or of the text, that is for measuring only

Qrels = Mapping[str, Mapping[str, int]]
Queries = Mapping[str, Mapping[str, Any]]


def relevant(qrels: Qrels, query: str) -> list[str]:
    """Documents that answer a query: those graded above 0."""
    return [document for document, grade in qrels.get(query, {}).items() if grade > 0]


def held_out_queries(
    queries: Mapping[str, Any], qrels: Qrels, groups: Mapping[str, str] | None = None
) -> dict[str, bool]:
    """Which queries are for measuring only: a tenth, so that no group of documents is in both.

    Args:
        queries: By id.
        qrels: Grades of documents by query id.
        groups: Group of a document by its id (a contract, an article); by itself where it is not named.
    """
    groups = groups or {}

    def share(query: str) -> float:
        name = min((groups.get(document, document) for document in relevant(qrels, query)), default=query)
        return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=4).digest(), "little") / 2**32

    return {query: share(query) < HELD_OUT_SHARE for query in queries}
