"""Reads data sets in the BEIR shape: corpus.jsonl[.gz], queries.jsonl[.gz], qrels.tsv[.gz] in one folder."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mllm_plugin import Document


def read_corpus(folder: Path, *, titles: bool = True) -> Iterator[Document]:
    """Documents of a set: title (unless left out) and text, the other fields as metadata."""
    for row in _lines(folder, "corpus.jsonl"):
        title, text = row.get("title", "").strip() if titles else "", row["text"]
        metadata = {name: value for name, value in row.items() if name not in ("id", "_id", "text", "title")}
        yield Document(
            id=row.get("id") or row["_id"], text=f"{title}\n{text}" if title else text, metadata=metadata
        )


def read_queries(folder: Path, split: str | None = "dev") -> dict[str, dict[str, Any]]:
    """Queries by id; all of them when `split` is None."""
    rows = _lines(folder, "queries.jsonl")
    return {row.get("id") or row["_id"]: row for row in rows if split is None or row.get("split") == split}


def read_qrels(folder: Path) -> dict[str, dict[str, int]]:
    """Relevance grades by query id and document id."""
    qrels: dict[str, dict[str, int]] = {}
    with _open(folder, "qrels.tsv") as stream:
        next(stream)
        for line in stream:
            query, document, grade = line.rstrip("\n").split("\t")
            qrels.setdefault(query, {})[document] = int(grade)
    return qrels


def _lines(folder: Path, name: str) -> Iterator[dict[str, Any]]:
    with _open(folder, name) as stream:
        yield from map(json.loads, stream)


def _open(folder: Path, name: str):  # noqa: ANN202 - a text stream
    packed = folder / f"{name}.gz"
    return (
        gzip.open(packed, "rt", encoding="utf-8")
        if packed.exists()
        else (folder / name).open(encoding="utf-8")
    )
