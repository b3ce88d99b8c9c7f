"""Recalling: what a language model reads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from mllm_plugin.encoders.text import window_spans
from mllm_plugin.memory.arguments import at_least
from mllm_plugin.memory.choice import DEFAULT
from mllm_plugin.memory.queries import Queries
from mllm_plugin.search.recall import recall
from mllm_plugin.store.namespaces import check_namespace, select_namespaces
from mllm_plugin.types import Mode, Namespace, Recall


class Recalls(Queries):
    """Calls that hand out embeddings of every level; each sees one consistent snapshot."""

    def recall(
        self,
        query: Any,
        *,
        k: int = 5,
        nodes: int = 4,
        embedding: Any = None,
        beam_width: int | None = None,
        exact: bool = False,
        mode: Mode = "auto",
        namespace: Namespace | str = (),
        prefix: bool = False,
        filter: Mapping[str, Any] | None = None,
        exclude_labels: Sequence[str] = (),
        unique_documents: bool = False,
        reranker: Any = DEFAULT,
    ) -> Recall:
        """Finds the chunks that best answer a query, and the best embeddings of every level beside them.

        No embedding tells of what a search with the same arguments could not return: masked documents are
        out of every node, namespaces never mix in one, and under `filter` or `exclude_labels` a node with a
        descendant that does not match is folded anew from its matching children that the walk visited.

        Args:
            query: Text, or a vector [dim] (or several [m, dim]).
            k: Chunks wanted.
            nodes: Most nodes of each level from 2 up; 0 for none.
            embedding: Vector to use for a text query instead of encoding it.
            beam_width: Lowest nodes visited; a quarter as many on the levels above, but at least `nodes`.
            exact: Score every live chunk and visit every node.
            mode: As for `search`.
            namespace: Where to look.
            prefix: Look in every namespace below `namespace` too; nodes are merged by score.
            filter: Metadata condition, e.g. `{"year": {"$gte": 2020}}`.
            exclude_labels: Documents with one of these labels are left out.
            unique_documents: At most one hit per document, its best chunk.
            reranker: As for `search`.

        Returns:
            The hits as `search` returns them, and per level its embeddings, best first.

        Raises:
            InvalidInputError: k or beam_width below 1, nodes below 0, empty query, unknown mode.
            DimensionMismatchError: A vector has another width than the memory.
            FilterError: The filter is malformed.
        """
        return self.recall_batch(
            [query],
            k=k,
            nodes=nodes,
            embeddings=None if embedding is None else [embedding],
            beam_width=beam_width,
            exact=exact,
            mode=mode,
            namespace=namespace,
            prefix=prefix,
            filter=filter,
            exclude_labels=exclude_labels,
            unique_documents=unique_documents,
            reranker=reranker,
        )[0]

    def recall_batch(
        self,
        queries: Sequence[Any],
        *,
        k: int = 5,
        nodes: int = 4,
        embeddings: Sequence[Any] | None = None,
        beam_width: int | None = None,
        exact: bool = False,
        mode: Mode = "auto",
        namespace: Namespace | str = (),
        prefix: bool = False,
        filter: Mapping[str, Any] | None = None,
        exclude_labels: Sequence[str] = (),
        unique_documents: bool = False,
        reranker: Any = DEFAULT,
    ) -> list[Recall]:
        """Several recalls at once: encoded in one batch, walked together, same results as one by one."""
        self._database.check_open()
        how = (k, beam_width, exact, mode, filter, exclude_labels, unique_documents, reranker)
        request = self._request(*how)
        nodes = at_least("nodes", nodes, 0)
        where = check_namespace(namespace)
        prepared = self._prepared("recall_batch", queries, embeddings)
        if not prepared:
            return []
        spans = partial(window_spans, self.encoder)
        with self._database.read() as tx:
            rows = select_namespaces(tx, where, prefix=prefix)
            return recall(self._searcher, tx, rows, prepared, request, nodes=nodes, spans=spans)
