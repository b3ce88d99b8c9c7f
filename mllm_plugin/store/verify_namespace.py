"""Walks the tree of one namespace and recounts everything that is derived from its documents."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator

import apsw
import numpy as np

from mllm_plugin.config import MemoryConfig
from mllm_plugin.store.codec import text_digest
from mllm_plugin.store.connections import decoding
from mllm_plugin.store.namespaces import NamespaceRow
from mllm_plugin.store.nodes import load_children
from mllm_plugin.store.tallies import Homes, Tally, TermTally
from mllm_plugin.store.times import load_times
from mllm_plugin.store.values import parsed_metadata, postings
from mllm_plugin.store.writer import posted_terms, word_rule
from mllm_plugin.text.lexical import TermCounts
from mllm_plugin.tree.editor import LOWEST_LEVEL, Fold
from mllm_plugin.tree.node import EmbeddingChunk

_NAMED = 5  # documents in one line
_UNREADABLE = (apsw.Error, ArithmeticError, AttributeError, LookupError, OSError, TypeError, ValueError)


class NamespaceCheck:
    """The checks of one namespace; run its `parts` in order.

    Args:
        tx: A read transaction.
        row: The namespace.
        config: The memory's settings.
        fold: Encoder of a level.
        dim: Width of the embeddings.
        tolerance: Most by which a component of a node may differ from its fold made here.
    """

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
        self._homes, self._terms = Homes(), TermTally()
        self._posted = np.array([-1])  # words with a posting list, ascending, and an end
        self._listed = Tally()  # rows that the posting lists of words must have
        self._live_terms = 0
        self._seen: set[int] = set()
        self._whole = True  # nothing was left out, so that counts can be compared
        self._last_text: tuple[int | None, str | None] = (None, None)
        self.checked: Counter[str] = Counter()

    def parts(self) -> tuple[Callable[[], Iterable[str]], ...]:
        """The checks, each of which may end early where something cannot be read."""
        return self._tree, self._documents, self._statistics

    def _rows(self, query: str) -> Iterator[tuple]:
        yield from self._tx.execute(query, (self._row.namespace_id,))

    # -- the tree
    # ------------------------------------------------------------------------------------------------

    def _tree(self) -> Iterator[str]:
        """Every node once, whatever the links say."""
        self._posted = np.append(posted_terms(self._tx, self._row.namespace_id), -1)
        waiting: list[tuple[int, tuple[int, int] | None, EmbeddingChunk | None]] = []
        if self._row.root_id is not None:
            waiting.append((self._row.root_id, None, None))
        while waiting:
            node_id, parent, held = waiting.pop()
            try:
                yield from self._node(node_id, parent, held, waiting)
            except _UNREADABLE as error:
                self._whole = False
                yield f"node {node_id}{self._below(node_id)} cannot be read: {error}"
        stored = {n for (n,) in self._rows("SELECT node_id FROM nodes WHERE namespace_id = ?")}
        if self._whole and stored != self._seen:
            yield f"{len(stored - self._seen)} nodes are not reachable from the root"
        for chunk in self._homes.repeated():
            yield f"chunk {chunk}: in two nodes"

    def _below(self, node_id: int) -> str:
        """Names the documents that have chunks in a node."""
        try:
            rows = self._tx.execute(
                "SELECT DISTINCT d.id FROM chunks c JOIN documents d USING (document_rowid) "
                "WHERE c.node_id = ?",
                (node_id,),
            )
            names = [repr(name) for (name,) in rows]
        except _UNREADABLE:
            return ""
        more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
        return f" (of document {', '.join(names[:_NAMED])}{more})" if names else ""

    def _node(
        self,
        node_id: int,
        parent: tuple[int, int] | None,
        held: EmbeddingChunk | None,
        waiting: list[tuple[int, tuple[int, int] | None, EmbeddingChunk | None]],
    ) -> Iterator[str]:
        found = self._tx.execute(
            "SELECT level, parent_id, version FROM nodes WHERE node_id = ?", (node_id,)
        ).get
        if found is None or node_id in self._seen:
            self._whole = False
            yield f"node {node_id}: missing or reached twice"
            return
        self._seen.add(node_id)
        level, parent_id, version = found
        children = load_children(self._tx, node_id, self._dim)
        self.checked["nodes"] += 1
        yield from self._links(node_id, level, parent_id, parent, children)
        if held is not None:
            yield from self._summary(node_id, level, version, children, held)
        if level == LOWEST_LEVEL:
            yield from self._chunks(node_id, children)
            return
        for place, child in reversed(list(enumerate(children.ids.tolist()))):
            waiting.append((child, (node_id, level), children.take(np.array([place]))))

    def _links(
        self,
        node_id: int,
        level: int,
        parent_id: int | None,
        parent: tuple[int, int] | None,
        children: EmbeddingChunk,
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
        self, node_id: int, level: int, version: int, children: EmbeddingChunk, held: EmbeddingChunk
    ) -> Iterator[str]:
        if (int(held.live[0]), int(held.total[0])) != (int(children.live.sum()), int(children.total.sum())):
            yield f"node {node_id}: live or total counts differ from its children's"
        if int(held.versions[0]) != version:
            yield f"node {node_id}: its parent expects write {int(held.versions[0])}, it is of {version}"
        expected = self._fold(level, children.vectors, children.live > 0)
        difference = np.abs(expected.astype(np.float32) - held.vectors[0].astype(np.float32))
        if not difference.max(initial=0.0) <= self._tolerance:
            yield f"node {node_id}: its embedding is not the fold of its live children"

    def _chunks(self, node_id: int, children: EmbeddingChunk) -> Iterator[str]:
        self.checked["chunks"] += len(children)
        terms = children.terms
        if terms is None or len(terms.sizes) != len(children) or int(terms.sizes.sum()) != len(terms.counts):
            self._whole = False
            yield f"node {node_id}: term counts do not fit its chunks"
            return
        if not np.isfinite(children.vectors).all():
            yield f"node {node_id}: a vector is not finite"
        self._homes.add(node_id, children.ids, children.live)
        self._count(children, terms)
        yield from self._term_texts(node_id, children)

    def _count(self, children: EmbeddingChunk, terms: TermCounts) -> None:
        """Notes what the statistics of words must say of some chunks."""
        live, owners = children.live > 0, terms.rows()
        self._terms.add(terms.hashes, live[owners])
        self._live_terms += int(terms.lengths[live].sum())
        listed = np.flatnonzero(
            self._posted[np.searchsorted(self._posted[:-1], terms.hashes)] == terms.hashes
        )
        chunks = children.ids[owners[listed]].tolist()
        self._listed.add(zip(terms.hashes[listed].tolist(), chunks, strict=True))

    def _term_texts(self, node_id: int, children: EmbeddingChunk) -> Iterator[str]:
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

    # -- the documents
    # -------------------------------------------------------------------------------------------

    def _documents(self) -> Iterator[str]:
        """Every document by itself, so that one that cannot be read is named and hides no other."""
        expected, chunks = Tally(), 0
        for document_id, rowid in self._rows(
            "SELECT id, document_rowid FROM documents WHERE namespace_id = ?"
        ):
            self.checked["documents"] += 1
            try:
                with decoding("its text, metadata or windows"):
                    found = list(self._document(document_id, rowid, expected))
                    chunks += self._spans_of(rowid)
            except _UNREADABLE as error:
                self._whole = False
                found = [f"document {document_id!r} cannot be read: {error}"]
            yield from found
        if not self._whole:
            return
        if chunks != len(self._homes):
            yield f"{chunks} chunks in documents, {len(self._homes)} in the tree"
        stored = Tally()
        stored.add(self._rows("SELECT key, kind, value, document_rowid FROM metadata WHERE namespace_id = ?"))
        if stored != expected:
            yield (
                f"metadata postings differ from the documents' metadata: {stored.count:,} rows, expected "
                f"{expected.count:,}" + (" others" if stored.count == expected.count else "")
            )

    def _document(self, document_id: str, rowid: int, expected: Tally) -> Iterator[str]:
        text, metadata, masked, split, text_hash = self._tx.execute(
            "SELECT text, metadata, masked, split, text_hash FROM documents WHERE document_rowid = ?",
            (rowid,),
        ).get
        if text_hash != text_digest(text, bool(split)):
            yield f"document {document_id!r}: its text is not the one that was stored"
        length = len(text.decode("utf-8"))
        expected.add({(*posting, rowid) for posting in postings(parsed_metadata(metadata))})
        masks = self._tx.execute("SELECT count(*) FROM masks WHERE document_rowid = ?", (rowid,)).get
        if bool(masked) != bool(masks):
            yield f"document {document_id!r}: masked flag and masks differ"
        if load_times(self._tx, rowid).hidden and not masks:
            yield f"document {document_id!r}: it has expired and is not masked"
        spans = self._tx.execute(
            'SELECT c.chunk_id, c.start, c."end", c.node_id, w.data FROM chunks c '
            "LEFT JOIN windows w USING (chunk_id) WHERE c.document_rowid = ? ORDER BY c.start",
            (rowid,),
        )
        before = 0
        for chunk_id, start, end, node_id, windows in spans:
            if not before <= start < end <= length:
                yield f"document {document_id!r}: chunk {chunk_id} has offsets {start} to {end}"
            before = end
            if windows is not None and not self._are_windows(windows):
                yield f"document {document_id!r}: the windows of chunk {chunk_id} are malformed"
            home, live = self._homes.of(chunk_id)
            if self._whole and home != node_id:
                yield f"document {document_id!r}: the node of chunk {chunk_id} does not hold it"
            if self._whole and live != int(not masked):
                yield (
                    f"document {document_id!r}: chunk {chunk_id} is masked here but not in the tree, or the "
                    f"reverse"
                )

    def _spans_of(self, rowid: int) -> int:
        return self._tx.execute("SELECT count(*) FROM chunks WHERE document_rowid = ?", (rowid,)).get

    def _are_windows(self, data: bytes) -> bool:
        """Whether windows are whole and numbers; lost pages hold scales of zero."""
        count, rest = divmod(len(data), 4 + self._dim)
        if rest or not self._config.level0:
            return False
        scales = np.frombuffer(data, dtype="<f4", count=count)
        return bool((scales > 0).all() and np.isfinite(scales).all())

    # -- what is counted
    # -----------------------------------------------------------------------------------------

    def _statistics(self) -> Iterator[str]:
        if not self._whole:
            return  # what is missing was named; the counts of the rest say nothing
        rows = self._rows("SELECT term, live, total FROM terms WHERE namespace_id = ? ORDER BY term")
        if not self._terms.equals(rows):
            yield "document frequencies differ from the chunks' terms"
        if (self._row.live_chunks, self._row.live_terms) != (self._homes.alive, self._live_terms):
            yield "counts of live chunks and terms differ from the tree's"
        stored = Tally()
        stored.add(self._rows("SELECT term, chunk_id FROM postings WHERE namespace_id = ?"))
        if stored != self._listed:
            yield "posting lists differ from the chunks' terms"
