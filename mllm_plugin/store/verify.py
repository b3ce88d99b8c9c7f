"""Checks every invariant of the file and says in words what does not hold."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import apsw
import numpy as np

from mllm_plugin.config import MemoryConfig
from mllm_plugin.lexical import TermCounts
from mllm_plugin.store.namespaces import NamespaceRow, namespaces_below
from mllm_plugin.store.nodes import load_children
from mllm_plugin.store.terms import word_rule
from mllm_plugin.store.values import parsed_metadata, postings
from mllm_plugin.tree.editor import LEAF_LEVEL, Fold
from mllm_plugin.tree.node import Children
from mllm_plugin.types import VerifyReport


def verify_store(
    tx: apsw.Connection, *, config: MemoryConfig, fold: Fold, dim: int, tolerance: float = 0.0
) -> VerifyReport:
    """Reads everything (so that page checksums are checked too) and compares what must agree.

    Args:
        tx: A read transaction.
        config: The memory's settings.
        fold: Encoder of a level.
        dim: Width of the embeddings.
        tolerance: Most by which a component of a node may differ from its fold made here.
    """
    problems = [f"file: {text}" for (text,) in tx.execute("PRAGMA integrity_check") if text != "ok"]
    problems += [
        f"file: foreign key of {row[0]} row {row[1]}" for row in tx.execute("PRAGMA foreign_key_check")
    ]
    checked: Counter[str] = Counter()
    for row in namespaces_below(tx, ()):
        check = _NamespaceCheck(tx, row, config, fold, dim, tolerance)
        problems += [f"namespace {row.namespace!r}: {text}" for text in check.run()]
        checked.update(check.checked)
    problems += [f"orphan rows in {table}" for table in _orphans(tx)]
    return VerifyReport(not problems, tuple(problems), dict(checked))


def _orphans(tx: apsw.Connection) -> Iterator[str]:
    queries = {
        "nodes": "SELECT 1 FROM nodes WHERE namespace_id NOT IN (SELECT namespace_id FROM namespaces)",
        "blocks": "SELECT 1 FROM nodes LEFT JOIN blocks b USING (node_id) WHERE b.node_id IS NULL",
        "postings": "SELECT 1 FROM postings WHERE chunk_id NOT IN (SELECT chunk_id FROM chunks)",
        "metadata": "SELECT 1 FROM metadata LEFT JOIN documents d USING (document_rowid) WHERE d.id IS NULL",
        "terms": "SELECT 1 FROM terms WHERE namespace_id NOT IN (SELECT namespace_id FROM namespaces)",
    }
    for table, query in queries.items():
        if tx.execute(f"{query} LIMIT 1").get:
            yield table


class _NamespaceCheck:
    """Walks one tree and recounts everything that is derived from documents."""

    def __init__(
        self,
        tx: apsw.Connection,
        row: NamespaceRow,
        config: MemoryConfig,
        fold: Fold,
        dim: int,
        tolerance: float,
    ) -> None:
        self._tx, self._row, self._config, self._fold, self._dim = tx, row, config, fold, dim
        self._tolerance, self._rule = tolerance, word_rule(tx)
        self._homes: dict[int, int] = {}
        self._live: dict[int, int] = {}
        self._terms: list[TermCounts] = []
        self._seen: set[int] = set()
        self._last_text: tuple[int | None, str | None] = (None, None)
        self.checked: Counter[str] = Counter()

    def run(self) -> Iterator[str]:
        """Yields every problem."""
        if self._row.root_id is not None:
            yield from self._node(self._row.root_id, None, None)
        stored = {n for (n,) in self._rows("SELECT node_id FROM nodes WHERE namespace_id = ?")}
        if stored != self._seen:
            yield f"{len(stored - self._seen)} nodes are not reachable from the root"
        yield from self._documents()
        yield from self._statistics()

    def _rows(self, query: str) -> Iterator[tuple]:
        yield from self._tx.execute(query, (self._row.namespace_id,))

    def _node(self, node_id: int, parent: tuple[int, int] | None, held: Children | None) -> Iterator[str]:
        found = self._tx.execute(
            "SELECT level, parent_id, version FROM nodes WHERE node_id = ?", (node_id,)
        ).get
        if found is None or node_id in self._seen:
            yield f"node {node_id}: missing or reached twice"
            return
        self._seen.add(node_id)
        level, parent_id, version = found
        children = load_children(self._tx, node_id, self._dim)
        self.checked["nodes"] += 1
        yield from self._links(node_id, level, parent_id, parent, children)
        if held is not None:
            yield from self._summary(node_id, level, version, children, held)
        if level == LEAF_LEVEL:
            yield from self._chunks(node_id, children)
            return
        for row, child in enumerate(children.ids.tolist()):
            yield from self._node(child, (node_id, level), children.take(np.array([row])))

    def _links(
        self,
        node_id: int,
        level: int,
        parent_id: int | None,
        parent: tuple[int, int] | None,
        children: Children,
    ) -> Iterator[str]:
        tree = self._config.tree
        if parent is None:
            limit = tree.target(level - 1)
            if parent_id is not None:
                yield f"node {node_id}: the root has a parent"
        else:
            limit = tree.cap(level - 1)
            if (parent_id, level) != (parent[0], parent[1] - 1):
                yield f"node {node_id}: its parent or level does not fit the node that holds it"
        if not 0 < len(children) <= limit:
            yield f"node {node_id}: {len(children)} children, expected 1 to {limit}"
        if (np.diff(children.ids) <= 0).any():
            yield f"node {node_id}: children out of order or repeated"

    def _summary(
        self, node_id: int, level: int, version: int, children: Children, held: Children
    ) -> Iterator[str]:
        if (int(held.live[0]), int(held.total[0])) != (int(children.live.sum()), int(children.total.sum())):
            yield f"node {node_id}: live or total counts differ from its children's"
        if int(held.versions[0]) != version:
            yield f"node {node_id}: its parent expects write {int(held.versions[0])}, it is of {version}"
        expected = self._fold(level, children.vectors, children.live > 0)
        difference = np.abs(expected.astype(np.float32) - held.vectors[0].astype(np.float32))
        if not difference.max(initial=0.0) <= self._tolerance:
            yield f"node {node_id}: its embedding is not the fold of its live children"

    def _chunks(self, node_id: int, children: Children) -> Iterator[str]:
        self.checked["chunks"] += len(children)
        terms = children.terms
        if terms is None or len(terms.sizes) != len(children) or int(terms.sizes.sum()) != len(terms.counts):
            yield f"node {node_id}: term counts do not fit its chunks"
            return
        if not np.isfinite(children.vectors).all():
            yield f"node {node_id}: a vector is not finite"
        for chunk in set(children.ids.tolist()) & self._homes.keys():
            yield f"chunk {chunk}: in two nodes"
        self._homes.update(dict.fromkeys(children.ids.tolist(), node_id))
        self._live.update(zip(children.ids.tolist(), children.live.tolist(), strict=True))
        self._terms.append(terms)
        yield from self._term_texts(node_id, children)

    def _term_texts(self, node_id: int, children: Children) -> Iterator[str]:
        texts = [self._text(chunk) for chunk in children.ids.tolist()]
        if any(text is None for text in texts):
            yield f"node {node_id}: holds a chunk that no document has"
            return
        expected = TermCounts.of([text for text in texts if text is not None], self._rule)
        if expected.to_bytes() != children.terms.to_bytes():  # type: ignore[union-attr]
            yield f"node {node_id}: term counts differ from the chunks' texts"

    def _text(self, chunk_id: int) -> str | None:
        row = self._tx.execute(
            'SELECT document_rowid, start, "end" FROM chunks WHERE chunk_id = ?', (chunk_id,)
        ).get
        if row is None:
            return None
        rowid, start, end = row
        if self._last_text[0] != rowid:
            text = self._tx.execute(
                "SELECT text FROM documents WHERE document_rowid = ? AND namespace_id = ?",
                (rowid, self._row.namespace_id),
            ).get
            self._last_text = (rowid, None if text is None else text.decode("utf-8"))
        text = self._last_text[1]
        return None if text is None else text[start:end]

    def _documents(self) -> Iterator[str]:
        rows = list(
            self._rows(
                "SELECT document_rowid, id, text, metadata, masked FROM documents WHERE namespace_id = ?"
            )
        )
        expected = set()
        chunks = 0
        for rowid, document_id, text, metadata, masked in rows:
            self.checked["documents"] += 1
            length = len(text.decode("utf-8"))
            expected |= {(*posting, rowid) for posting in postings(parsed_metadata(metadata))}
            masks = self._tx.execute("SELECT count(*) FROM masks WHERE document_rowid = ?", (rowid,)).get
            if bool(masked) != bool(masks):
                yield f"document {document_id!r}: masked flag and masks differ"
            spans = self._tx.execute(
                'SELECT chunk_id, start, "end", node_id FROM chunks WHERE document_rowid = ? ORDER BY start',
                (rowid,),
            )
            before = 0
            for chunk_id, start, end, node_id in spans:
                chunks += 1
                if not before <= start < end <= length:
                    yield f"document {document_id!r}: chunk {chunk_id} has offsets {start} to {end}"
                before = end
                if self._homes.get(chunk_id) != node_id:
                    yield f"chunk {chunk_id}: its node does not hold it"
                if self._live.get(chunk_id) != int(not masked):
                    yield f"chunk {chunk_id}: masked in the document but not in the tree, or the reverse"
        if chunks != len(self._homes):
            yield f"{chunks} chunks in documents, {len(self._homes)} in the tree"
        stored = set(
            self._rows("SELECT key, kind, value, document_rowid FROM metadata WHERE namespace_id = ?")
        )
        if stored != expected:
            yield f"metadata postings differ from the documents' metadata in {len(stored ^ expected)} rows"

    def _statistics(self) -> Iterator[str]:
        terms = TermCounts.concat(self._terms) if self._terms else TermCounts.empty()
        alive = np.array([self._live[chunk] > 0 for chunk in self._homes], dtype=bool)
        owners = np.array(list(self._homes), dtype=np.int64)
        total = Counter(terms.hashes.tolist())
        live = Counter(terms.hashes[alive[terms.rows()]].tolist()) if len(owners) else Counter()
        rows = list(self._rows("SELECT term, live, total, posted FROM terms WHERE namespace_id = ?"))
        if {term: (a, b) for term, a, b, _ in rows} != {term: (live[term], total[term]) for term in total}:
            yield "document frequencies differ from the chunks' terms"
        if (self._row.live_chunks, self._row.live_terms) != (
            int(alive.sum()),
            int(terms.lengths[alive].sum()),
        ):
            yield "counts of live chunks and terms differ from the tree's"
        posted = {term for term, _, _, listed in rows if listed}
        entries = np.isin(terms.hashes, np.array(sorted(posted), dtype=np.uint32))
        pairs = (
            zip(terms.hashes[entries].tolist(), owners[terms.rows()[entries]].tolist(), strict=True)
            if posted
            else ()
        )
        if set(self._rows("SELECT term, chunk_id FROM postings WHERE namespace_id = ?")) != set(pairs):
            yield "posting lists differ from the chunks' terms"
