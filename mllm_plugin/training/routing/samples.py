"""What training reads from a memory: chunks, queries, and the chunks that an exact search finds for them.

Queries come from the user (labelled or not) or from the documents themselves: spans of text stand in for
questions, so that a hierarchy can be trained for any encoder without a label.

Shapes: n chunks, m queries, k targets, d dimensions.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from tqdm import tqdm

from mllm_plugin.errors import InvalidInputError
from mllm_plugin.memory import MemoryIndex
from mllm_plugin.search.query import Query, View, make_queries
from mllm_plugin.shapes import Bool, Float32, Int64
from mllm_plugin.store.decoded import EmbeddingChunkCache, build_image
from mllm_plugin.store.namespaces import check_namespace
from mllm_plugin.types import Namespace

TARGETS = 10
_BATCH = 32
_WORD = re.compile(r"\S+")
_SPAN_WORDS = (5, 24)


@dataclass(frozen=True)
class Samples:
    """Queries with their best chunks.

    Attributes:
        leaves: Chunk embeddings [n, d].
        queries: Query embeddings [m, d]; the first vector of a long query.
        targets: Rows of each query's best chunks, best first [m, k]; -1 where there are fewer, and for chunks
            that a rare word of the query leads to, since the walk need not find these.
        held_out: Queries that are for measuring only [m].
    """

    leaves: Float32[np.ndarray, "n d"]
    queries: Float32[np.ndarray, "m d"]
    targets: Int64[np.ndarray, "m k"]
    held_out: Bool[np.ndarray, " m"]

    def joined(self, other: Samples) -> Samples:
        """Both sets of queries over both sets of chunks."""
        moved = np.where(other.targets >= 0, other.targets + len(self.leaves), -1)
        return Samples(
            np.concatenate([self.leaves, other.leaves]),
            np.concatenate([self.queries, other.queries]),
            np.concatenate([self.targets, moved]),
            np.concatenate([self.held_out, other.held_out]),
        )


def collect_samples(
    memory: MemoryIndex,
    queries: Sequence[str],
    held_out: Sequence[bool],
    *,
    namespace: Namespace | str = (),
    progress: bool = True,
) -> Samples:
    """Searches a memory for every query, by scanning all its chunks.

    Args:
        memory: Where the chunks are.
        queries: Texts.
        held_out: Which of them are for measuring only.
        namespace: Whose chunks.
        progress: Show a progress bar.

    Raises:
        InvalidInputError: The namespace is empty, there are no queries, or rare words lead to all that these
            look for.
    """
    ids, leaves = read_leaves(memory, namespace)
    if not len(queries) or len(queries) != len(held_out):
        raise InvalidInputError(f"expected queries, each marked as held out or not, got {len(queries)}")
    order = np.argsort(ids)
    targets = np.full((len(queries), TARGETS), -1, dtype=np.int64)
    vectors = np.zeros((len(queries), memory.dim), dtype=np.float32)
    for start in tqdm(range(0, len(queries), _BATCH), desc="exact answers", disable=not progress):
        texts = list(queries[start : start + _BATCH])
        prepared = make_queries(texts, None, memory.encoder, memory.config.chunking.chunk_tokens)
        embeddings = [query.vectors for query in prepared]
        where = {"namespace": namespace, "reranker": None}
        found = memory.search_batch(texts, embeddings=embeddings, k=TARGETS, mode="flat", **where)
        routed = routed_chunks(memory, prepared, namespace)
        for place, hits in enumerate(found, start):
            wanted = [hit.chunk_id for hit in hits if hit.chunk_id not in routed[place - start]]
            targets[place, : len(wanted)] = order[np.searchsorted(ids[order], wanted)]
            vectors[place] = embeddings[place - start][0]
    if (targets < 0).all():
        raise InvalidInputError(
            "rare words lead to every chunk that the questions look for, so there is nothing for a walk to "
            "learn; the memory is too small, or LexicalConfig.posting_limit too high for it"
        )
    return Samples(leaves, vectors, targets, np.asarray(held_out, dtype=bool))


def read_leaves(
    memory: MemoryIndex, namespace: Namespace | str = ()
) -> tuple[Int64[np.ndarray, " n"], Float32[np.ndarray, "n d"]]:
    """Ids and embeddings of a namespace's live chunks.

    Raises:
        InvalidInputError: It has none.
    """
    with memory.snapshot() as snapshot:
        row = snapshot.namespace(check_namespace(namespace))
        if row is None or not row.live_chunks:
            raise InvalidInputError(f"namespace {namespace!r} holds no live chunk to train on")
        image = build_image(snapshot, row)
    ids = np.concatenate([part.ids[part.live] for part in image.parts])
    return ids, np.concatenate([part.vectors[part.live] for part in image.parts])


def routed_chunks(
    memory: MemoryIndex, queries: Sequence[Query], namespace: Namespace | str = ()
) -> list[set[int]]:
    """Ids of the chunks that rare words of each query lead to."""
    with memory.snapshot() as snapshot:
        row = snapshot.namespace(check_namespace(namespace))
        if row is None:
            return [set() for _ in queries]
        view = View(snapshot, row, EmbeddingChunkCache(0), memory.hierarchy, memory.config.lexical)
        return [{chunk for chunk, _ in routed} for _, routed in view.weigh(queries)]


def draw_spans(
    memory: MemoryIndex, count: int, *, namespace: Namespace | str = (), held_out: float = 0.1, seed: int = 0
) -> tuple[list[str], list[bool]]:
    """Spans of 5 to 24 words from the documents, in place of questions.

    Args:
        memory: Whose documents.
        count: Spans wanted.
        namespace: Where the documents are.
        held_out: Share of the documents whose spans are for measuring only.
        seed: Chooses documents and spans.

    Returns:
        Texts, and which of them are held out.
    """
    rng = np.random.default_rng(seed)
    texts: list[str] = []
    marks: list[bool] = []
    for text, measured in _drawn_documents(memory, count, namespace, held_out, rng):
        span = _span(text, rng)
        if span is not None:
            texts.append(span)
            marks.append(measured)
    if not texts:
        raise InvalidInputError(f"namespace {namespace!r} holds no text to draw questions from")
    return texts, marks


def _drawn_documents(
    memory: MemoryIndex, count: int, namespace: Namespace | str, held_out: float, rng: np.random.Generator
) -> Iterator[tuple[str, bool]]:
    """Texts of randomly drawn documents, long ones more often, and whether each is held out."""
    with memory.snapshot() as snapshot:
        row = snapshot.namespace(check_namespace(namespace))
        sizes = np.zeros((0, 2)) if row is None else snapshot.live_sizes(row)
        if not len(sizes):
            return
        measured = rng.random(len(sizes)) < held_out
        for place in rng.choice(len(sizes), count, p=sizes[:, 1] / sizes[:, 1].sum()).tolist():
            ((text, *_),) = snapshot.texts([int(sizes[place, 0])]).values()
            yield text, bool(measured[place])


def _span(text: str, rng: np.random.Generator) -> str | None:
    words = [match.span() for match in _WORD.finditer(text)]
    if len(words) < _SPAN_WORDS[0]:
        return None
    size = int(rng.integers(_SPAN_WORDS[0], min(_SPAN_WORDS[1], len(words)) + 1))
    first = int(rng.integers(0, len(words) - size + 1))
    return text[words[first][0] : words[first + size - 1][1]]
