"""Labels: what a node is about, in the words of its live children.

No vocabulary is stored (see `mllm_plugin.text.lexical`), so a label is made when it is read: terms are
counted in the embedding chunks of the lowest nodes below, and the hashes of the best are looked up in the
texts of a few chunks that have them. So it follows every edit at once, and holds no word that the view may
not show.

A term's weight is the sum over the lowest nodes below of

    (f - 0.75) * (log(f / n / p) + 0.1 * log(1 / p))

where f of the node's n chunks have the term, and so does a share p of all chunks of the view. A term of one
chunk tells little of a node. The sum over all nodes but for the last part is the information that a term has
about the node it lies in, so the root has a label too; that part counts where there is but one node.

Shapes: t terms of one lowest node or of several, n chunks, d dimensions.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from mllm_plugin.lru import LRU
from mllm_plugin.search.allowed import Allowed
from mllm_plugin.search.function_words import FUNCTION_WORDS
from mllm_plugin.search.query import View
from mllm_plugin.shapes import Float32, Float64, Int64, UInt32
from mllm_plugin.store.decoded import CachedChunk, NodeRef
from mllm_plugin.text.lexical import TermCounts, forms_of, term_hash, terms_of
from mllm_plugin.tree.editor import LOWEST_LEVEL

_MOST_NODES = 256  # lowest nodes that are counted; of more an even sample
_MOST_TERMS = 2048  # whose frequency is looked up, those of the most chunks
_MOST_KEPT = 4096  # labels
_SPARE = 3  # terms looked up for each word wanted: function words and other forms fall out
_SHORTEST = 3  # letters
_DISCOUNT, _PRIOR = 0.75, 0.1

Label = tuple[str, ...]


@dataclass(frozen=True)
class Below:
    """Chunks below a node that may be shown, those of one lowest node after another.

    Attributes:
        ids: Chunk ids.
        vectors: Pooled embeddings.
        terms: Term counts.
        nodes: Which of the lowest nodes each is in.
    """

    ids: Int64[np.ndarray, " n"]
    vectors: Float32[np.ndarray, "n d"]
    terms: TermCounts
    nodes: Int64[np.ndarray, " n"]

    @classmethod
    def of(cls, view: View, ref: NodeRef) -> Below:
        """Reads them; an even sample where the lowest nodes are too many."""
        embedding_chunks = _lowest(view, ref)
        shown = [
            np.flatnonzero(view.admitted(children.live > 0, children.ids)) for children in embedding_chunks
        ]
        pairs = list(zip(embedding_chunks, shown, strict=True))
        none = np.zeros((0, view.snapshot.dim), np.float32)
        return cls(
            ids=np.concatenate([np.zeros(0, np.int64), *(children.ids[rows] for children, rows in pairs)]),
            vectors=np.concatenate([none, *(children.vectors[rows, 0] for children, rows in pairs)]),
            terms=TermCounts.concat(
                [
                    TermCounts.empty(),
                    *(children.terms.take(rows) for children, rows in pairs if children.terms),
                ]
            ),
            nodes=np.repeat(np.arange(len(pairs)), [len(rows) for rows in shown]),
        )

    def central(self, count: int) -> list[int]:
        """Ids of the chunks nearest to the mean of all, nearest first."""
        cosines = self.vectors @ self.vectors.mean(axis=0) if len(self.ids) else np.zeros(0)
        return self.ids[np.lexsort((self.ids, -cosines))[:count]].tolist()


@dataclass(frozen=True)
class Tally:
    """How many chunks have each term, by lowest node.

    Attributes:
        hashes: Ascending, a term of several nodes several times.
        counts: Chunks of the node that have it.
        sizes: Chunks of the node.
        owners: One of the chunks that have it.
        chunks: In all nodes.
    """

    hashes: UInt32[np.ndarray, " t"]
    counts: Int64[np.ndarray, " t"]
    sizes: Int64[np.ndarray, " t"]
    owners: Int64[np.ndarray, " t"]
    chunks: int

    @classmethod
    def of(cls, below: Below) -> Tally:
        """Counts."""
        rows, sizes = below.terms.rows(), np.bincount(below.nodes)
        keys = (below.terms.hashes.astype(np.uint64) << np.uint64(32)) | below.nodes[rows].astype(np.uint64)
        keys, first, counts = np.unique(keys, return_index=True, return_counts=True)
        nodes = (keys & np.uint64(0xFFFFFFFF)).astype(np.int64)
        hashes = (keys >> np.uint64(32)).astype(np.uint32)
        return cls(hashes, counts, sizes[nodes], below.ids[rows[first]], len(below.ids))

    def totals(self) -> tuple[UInt32[np.ndarray, " t"], Int64[np.ndarray, " t"]]:
        """Each term once, and how many chunks of all nodes have it."""
        hashes, first = np.unique(self.hashes, return_index=True)
        return hashes, np.add.reduceat(self.counts, first) if len(first) else self.counts

    def commonest(self, most: int) -> Tally:
        """The terms of the most chunks alone."""
        hashes, totals = self.totals()
        rows = np.isin(self.hashes, hashes[np.lexsort((hashes, -totals))[:most]])
        return replace(
            self,
            hashes=self.hashes[rows],
            counts=self.counts[rows],
            sizes=self.sizes[rows],
            owners=self.owners[rows],
        )

    def best(self, shares: Float64[np.ndarray, " t"], most: int) -> dict[int, int]:
        """The terms that tell most of these nodes, best first, with a chunk that has each.

        Args:
            shares: Of all chunks of the view, those that have the term.
            most: Terms wanted.
        """
        told = np.log(self.counts / self.sizes / shares) - _PRIOR * np.log(shares)
        weights = (self.counts - _DISCOUNT) * told
        hashes, first = np.unique(self.hashes, return_index=True)
        if not len(first):
            return {}
        order = np.lexsort((hashes, -np.add.reduceat(weights, first).round(6)))[:most]
        return dict(zip(hashes[order].tolist(), self.owners[first[order]].tolist(), strict=True))


class Labeller:
    """Labels the nodes of views; keeps what it made for as long as their namespace does not change."""

    def __init__(self) -> None:
        self._known: LRU[tuple[int, ...], tuple[Allowed | None, Label]] = LRU(_MOST_KEPT)
        self._tallies: LRU[tuple[int, ...], tuple[Allowed | None, Tally]] = LRU(16)

    def label(self, view: View, ref: NodeRef, count: int, below: Below | None = None) -> Label:
        """The `count` words that tell most of a node, best first; fewer where there are fewer.

        Args:
            view: Where.
            ref: The node.
            count: Words wanted.
            below: What is below the node, where that is known.
        """
        key = (*_key(view), ref.node_id, count)
        kept = self._known.get(key)
        if kept is not None and kept[0] is view.allowed:
            return kept[1]
        tally = Tally.of(Below.of(view, ref) if below is None else below).commonest(_MOST_TERMS)
        terms = tally.best(self._shares(view, tally), _SPARE * count) if tally.chunks else {}
        label = tuple(_distinct(_words(view, terms), count))
        self._known.put(key, (view.allowed, label), 1)
        return label

    def _shares(self, view: View, tally: Tally) -> Float64[np.ndarray, " t"]:
        """Of all chunks that may be shown, those that have each term of a tally."""
        if view.allowed is None:
            known = view.snapshot.frequencies(view.row, np.unique(tally.hashes).tolist())
            counts, chunks = [known[term].live for term in tally.hashes.tolist()], view.row.live_chunks
        else:
            everything = self._everything(view)
            totals = dict(zip(*(part.tolist() for part in everything.totals()), strict=True))
            counts, chunks = [totals.get(term, 1) for term in tally.hashes.tolist()], everything.chunks
        return np.array(counts, dtype=np.float64) / chunks

    def _everything(self, view: View) -> Tally:
        """What the view's filter lets through: frequencies in the file tell of the rest too."""
        key = _key(view)
        kept = self._tallies.get(key)
        if kept is not None and kept[0] is view.allowed:
            return kept[1]
        tally = Tally.of(Below.of(view, view.root()))
        self._tallies.put(key, (view.allowed, tally), 1)
        return tally


def _key(view: View) -> tuple[int, ...]:
    """What a label depends on; what is kept under it holds the filter's result, so its id stays its own."""
    return view.row.namespace_id, view.row.version, id(view.allowed)


def _lowest(view: View, ref: NodeRef) -> list[CachedChunk]:
    """The embedding chunks of the lowest nodes below a node, or of an even sample of them."""
    level, refs = view.snapshot.node(ref.node_id).level, [ref]
    while level > LOWEST_LEVEL:
        embedding_chunks = [view.children(child_ref) for child_ref in refs]
        refs = [child for children in embedding_chunks for child in _children(view, children)]
        if len(refs) > _MOST_NODES:
            places = np.linspace(0, len(refs) - 1, _MOST_NODES).round().astype(int).tolist()
            refs = [refs[place] for place in places]
        level -= 1
    return [view.children(child_ref) for child_ref in refs]


def _children(view: View, children: CachedChunk) -> Iterator[NodeRef]:
    """The nodes right below that have chunks which may be shown."""
    shown = np.flatnonzero(view.below(children.live, children.ids) > 0)
    return map(NodeRef, children.ids[shown].tolist(), children.versions[shown].tolist())


def _words(view: View, terms: dict[int, int]) -> Iterator[str]:
    """Terms in the order given, as words, from the text of a chunk that has each."""
    rule, chunks = view.snapshot.word_rule, set(terms.values())
    words = {term_hash(word): word for text in texts_of(view, chunks) for word in terms_of(text, rule)}
    return (words[term] for term in terms if term in words)


def texts_of(view: View, chunk_ids: set[int]) -> list[str]:
    """Texts of chunks."""
    places = view.snapshot.places(chunk_ids)
    documents = view.snapshot.texts({place.document_rowid for place in places.values()})
    return [documents[place.document_rowid][0][place.start : place.end] for place in places.values()]


def _distinct(words: Iterator[str], count: int) -> Sequence[str]:
    """The first words that mean something, each in one form."""
    kept: list[str] = []
    for word in words:
        if _means_something(word) and not any(form in kept for form in forms_of(word)):
            kept.append(word)
        if len(kept) == count:
            break
    return kept


def _means_something(word: str) -> bool:
    """Whether a word alone tells something: it is no number, no function word, and no single Latin letter."""
    if word in FUNCTION_WORDS or not any(letter.isalpha() for letter in word):
        return False
    return len(word) >= _SHORTEST or not word.isascii()
