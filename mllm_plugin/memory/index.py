"""`MemoryIndex`: the facade over documents, tree and search of one memory on disk."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from mllm_plugin.calls.options import explain_calls
from mllm_plugin.calls.twins import class_twin, iterator_twin, twin
from mllm_plugin.config import MemoryConfig
from mllm_plugin.encoders import DEFAULT_ENCODER, EncoderLike, as_encoder
from mllm_plugin.hierarchy import Hierarchy, RerankerLike
from mllm_plugin.memory import editing, searching, upkeep
from mllm_plugin.memory.batch import Batch
from mllm_plugin.memory.checks import (
    at_least,
    check_opening,
    id_of,
    label_of,
    listing_of,
    mask_of,
    new_file,
    path_of,
    positive,
    reranker_of,
    scope_of,
    seconds,
    version_of,
    which_of,
)
from mllm_plugin.memory.editing import KEEP, change_of
from mllm_plugin.memory.handle import Handle
from mllm_plugin.memory.opening import (
    DEFAULT,
    absolute,
    choose_hierarchy,
    open_memory,
    options_of,
    pickled_options,
)
from mllm_plugin.models.files import choose_device
from mllm_plugin.protocols import Reranker
from mllm_plugin.reports import (
    AddReport,
    CompactReport,
    InstallReport,
    MaskReport,
    RemoveReport,
    Stats,
    UpdateReport,
    VerifyReport,
)
from mllm_plugin.search.passages import merged
from mllm_plugin.search.query import Recency
from mllm_plugin.store.database import Watcher
from mllm_plugin.store.listing import Order
from mllm_plugin.store.namespaces import check_namespace
from mllm_plugin.types import (
    Document,
    Hits,
    Moment,
    Namespace,
    OnInvalid,
    QueryLike,
    Recall,
    SearchMode,
    StoredChunk,
    StoredDocument,
    Topic,
    VectorsLike,
)

if TYPE_CHECKING:
    from mllm_plugin.documents.given import Seen
    from mllm_plugin.documents.records import Record
    from mllm_plugin.store.cache import EmbeddingCache
    from mllm_plugin.store.snapshot import Snapshot

Keep = Literal["keep"]


@explain_calls
class MemoryIndex:
    """A searchable, editable memory in one folder; open it with `MemoryIndex.open`.

    Threads may share one; processes may each open the same folder. Every call that writes is one transaction.
    Pickled or copied it becomes a handle of its own, opened again from the same folder. Each call that may
    take a while has an async twin, `asearch` for `search`, that does not block the event loop.

    Attributes:
        path: The folder.
        dim: Width of the embeddings.
        encoder: Encoder 1.
        config: Settings.
        read_only: Whether it was opened so.
    """

    def __init_subclass__(cls) -> None:
        explain_calls(cls)

    def __init__(self, handle: Handle) -> None:
        self._handle = handle
        self._database, self._searcher = handle.database, handle.searcher
        self.path, self.dim, self.read_only = handle.path, handle.dim, handle.database.read_only
        self.encoder, self.config = handle.encoder, handle.config

    # -- opening and closing

    @classmethod
    def open(
        cls,
        path: str | Path,
        *,
        encoder: EncoderLike | None = DEFAULT_ENCODER,
        config: MemoryConfig | None = None,
        hierarchy: str | Path | Hierarchy = DEFAULT,
        reranker: RerankerLike | None = None,
        timeout: float = 30.0,
        create: bool = True,
        read_only: bool = False,
        device: str | None = None,
    ) -> MemoryIndex:
        """Creates a memory, or opens the one that is there.

        Args:
            path: Its folder.
            encoder: A model name or path, a `TextEncoder`, a LangChain `Embeddings`, a LlamaIndex
                `BaseEmbedding`; None opens an existing memory for everything that needs no text encoding.
            config: Settings; chunking, tree and level 0 are fixed by the first opening, search may differ.
            hierarchy: For a new memory "default", the trained weights that come with the package for this
                encoder (identity when there are none), "identity" for untrained ones, a folder of weights
                that `mllm train` made, or a `Hierarchy`. A memory keeps a copy; at a later opening "default"
                means what it has, and `install` changes it.
            reranker: Scores the best chunks of every search anew, by their text: a `Reranker`, a
                `CrossEncoder` of sentence-transformers, a `BaseCrossEncoder` of LangChain, or a function of
                (query, text) pairs.
            timeout: Seconds to wait for another writer.
            create: Make the memory when there is none.
            read_only: Never write; works without write permission.
            device: "cuda", "cuda:1", "cpu", …: where an encoder given by name runs, and where searches over
                the search image compare embeddings, with the same results. Chunks that have no room
                there are streamed. Left out, the encoder runs on CUDA when there is one, and searches on the
                CPU.

        Raises:
            EncoderMismatchError: The memory was written with another encoder.
            NotFoundError: There is no memory and `create` is False.
            InvalidInputError: `config` contradicts the stored one, a new memory has no encoder, or this
                machine has no such device.
            StoreError: The files cannot be used; see `mllm_plugin.errors`.
        """
        folder, timeout = path_of(path), seconds("timeout", timeout)
        check_opening(folder, encoder, config, create)
        place = None if device is None else choose_device(device)
        given = None if encoder is None else as_encoder(encoder, device)
        ranks_last = reranker_of(reranker)
        files = {"timeout": timeout, "create": create, "read_only": read_only}
        handle = open_memory(folder, given, config, hierarchy, device=place, **files)
        handle.given, handle.reranker = absolute(encoder), ranks_last
        return cls(handle)

    aopen = class_twin(open)

    def close(self) -> None:
        """Closes the files; further calls raise `ClosedError`."""
        self._handle.close()

    aclose = twin(close)

    # -- writing

    def add(
        self,
        documents: Iterable[Document],
        *,
        namespace: Namespace | str = (),
        embeddings: Sequence[VectorsLike] | NDArray[Any] | None = None,
        split: bool = True,
        on_invalid: OnInvalid = "raise",
    ) -> AddReport:
        """Adds documents, or replaces those whose id is there; unchanged text is not encoded again.

        Args:
            documents: Their ids must differ from each other; those of LangChain and LlamaIndex are taken too.
            namespace: Where they go; a plain string is a one-part namespace.
            embeddings: One vector [dim] per document, which is then one chunk; saves the encoder call. A
                document whose vector is zero is found by its words alone.
            split: False keeps each document as one chunk that is never cut.
            on_invalid: "skip" leaves out documents that cannot be stored and names them in the report.

        Raises:
            InvalidDocumentError: A document cannot be stored; nothing was added.
            DimensionMismatchError: An embedding has another width than the memory.
        """
        how = {"embeddings": embeddings, "split": split, "on_invalid": on_invalid}
        return editing.add(self._handle, documents, check_namespace(namespace), **how)

    aadd = twin(add)

    def add_provisionally(
        self,
        documents: Iterable[Document],
        *,
        namespace: Namespace | str = (),
        split: bool = True,
        on_invalid: OnInvalid = "raise",
        first: int = 0,
        seen: Seen | None = None,
    ) -> AddReport:
        """`add` for bulk builds: places whole groups quickly; `regroup` should follow.

        Args:
            documents, namespace, split, on_invalid: As for `add`.
            first: Place of the first document in all that is built, for messages.
            seen: The ids of all that is built; one that came before is no document that can be stored.
        """
        how = {"split": split, "on_invalid": on_invalid, "first": first, "seen": seen, "provisional": True}
        return editing.add(self._handle, documents, check_namespace(namespace), **how)

    aadd_provisionally = twin(add_provisionally)

    def regroup(self, namespace: Namespace | str = (), *, min_share: float = 0.0) -> bool:
        """Groups a namespace's tree anew and lists rare words again; True when it was regrouped.

        Args:
            namespace: Whose tree.
            min_share: Only where bulk builds have placed at least this share of the chunks since then.
        """
        where = check_namespace(namespace)
        with self._handle.edit() as edit:
            return edit.regroup(where, min_share)

    aregroup = twin(regroup)

    def update(
        self,
        id: str,
        *,
        text: str | None = None,
        metadata: Mapping[str, Any] | None = None,
        labels: Iterable[str] | None = None,
        expires_at: Moment | Keep | None = KEEP,
        valid_from: Moment | Keep | None = KEEP,
        valid_to: Moment | Keep | None = KEEP,
        merge: bool = False,
        if_version: int | None = None,
        namespace: Namespace | str = (),
    ) -> UpdateReport:
        """Changes a document in place; the encoder is asked only where the text changes. Masks stay.

        Args:
            id: Which document.
            text: Takes the place of its text; cut as the document was.
            metadata: Takes the place of its metadata.
            labels: Take the place of its labels.
            expires_at, valid_from, valid_to: As for `Document`; None for never, "keep" as it is.
            merge: Keep the metadata whose keys `metadata` does not name.
            if_version: Change it only if it has this version: what `StoredDocument.version` was when it was
                read. So two callers that read, decide and write never undo each other.
            namespace: Where it is.

        Raises:
            NotFoundError: It is not there.
            VersionConflictError: It has another version than `if_version`; nothing was written.
            InvalidDocumentError: It could not be stored so.
        """
        times = {"expires_at": expires_at, "valid_from": valid_from, "valid_to": valid_to}
        change = change_of(text, metadata, labels, merge, **times)
        where, seen = check_namespace(namespace), version_of(if_version)
        return editing.update(self._handle, where, id_of(id), change, seen)

    aupdate = twin(update)

    def remove(
        self,
        ids: Iterable[str] | str | None = None,
        *,
        filter: Mapping[str, Any] | None = None,
        label: str | None = None,
        namespace: Namespace | str = (),
        prefix: bool = False,
        wait: float = 5.0,
    ) -> RemoveReport:
        """Removes documents for good: no row, vector, word, cache entry or ancestor keeps anything of them.

        Args:
            ids: Documents by id; unknown ones are reported as missing.
            filter: Documents by metadata.
            label: Documents that carry a label.
            namespace: Where they are.
            prefix: In every namespace below `namespace` too, all of them in one transaction.
            wait: Seconds to wait for readers that still hold old pages, before `erased` is reported as False.
        """
        where, which = check_namespace(namespace), which_of(ids, filter, label)
        return editing.remove(self._handle, where, which, seconds("wait", wait), prefix=bool(prefix))

    aremove = twin(remove)

    def sweep(
        self, namespace: Namespace | str = (), *, prefix: bool = True, wait: float = 5.0
    ) -> RemoveReport:
        """Removes for good what has expired, and names it in the report.

        Args:
            namespace: Where.
            prefix: In every namespace below `namespace` too; so `sweep()` sweeps the whole memory.
            wait: As for `remove`.
        """
        where, patience = check_namespace(namespace), seconds("wait", wait)
        return editing.sweep(self._handle, where, patience, prefix=bool(prefix))

    asweep = twin(sweep)

    def mask(
        self,
        ids: Iterable[str] | str | None = None,
        *,
        filter: Mapping[str, Any] | None = None,
        label: str = "",
        namespace: Namespace | str = (),
        prefix: bool = False,
    ) -> MaskReport:
        """Takes documents out of every result and every ancestor until they are unmasked.

        Args:
            ids: Documents by id.
            filter: Documents by metadata.
            label: Name of this mask, for `unmask(label=…)`; with neither ids nor filter, the documents that
                carry the label are masked. "expired" is the memory's own, see `Document.expires_at`.
            namespace: Where they are.
            prefix: In every namespace below `namespace` too; an id is there if it is in one of them.

        Raises:
            NotFoundError: An id is not there; nothing was masked.
            InvalidInputError: The label is "expired".
        """
        where, label = check_namespace(namespace), mask_of(label)
        which = which_of(ids, filter, label if ids is None and filter is None else None)
        with self._handle.edit() as edit:
            return edit.mask(where, which, label, prefix=bool(prefix))

    amask = twin(mask)

    def unmask(
        self,
        ids: Iterable[str] | str | None = None,
        *,
        filter: Mapping[str, Any] | None = None,
        label: str | None = None,
        namespace: Namespace | str = (),
        prefix: bool = False,
    ) -> MaskReport:
        """Lifts masks; a document is live again when none is left on it.

        What has expired stays masked until `update(expires_at=…)` gives it more time.

        Args:
            ids: Documents by id.
            filter: Documents by metadata.
            label: Only this mask; all masks when left out.
            namespace: Where they are.
            prefix: In every namespace below `namespace` too.

        Raises:
            NotFoundError: An id is not there; nothing was unmasked.
        """
        where, label = check_namespace(namespace), None if label is None else label_of(label)
        which = None if ids is None and filter is None else which_of(ids, filter)
        with self._handle.edit() as edit:
            return edit.unmask(where, which, label, prefix=bool(prefix))

    aunmask = twin(unmask)

    def batch(self) -> Batch:
        """Several edits, in any namespaces, as one transaction: `with memory.batch() as batch:`.

        Raises:
            ReadOnlyStoreError: The memory was opened read-only.
        """
        return Batch(self._handle)

    def install(self, hierarchy: str | Path | Hierarchy) -> InstallReport:
        """Puts another hierarchy in place: copies its weights into the memory and folds every node anew.

        All of it is one transaction; searches see the old hierarchy until it is done.

        Args:
            hierarchy: A folder with trained weights, "default" for the ones that come with the package,
                "identity" for none, or a `Hierarchy`.

        Raises:
            EncoderMismatchError: The weights were trained for another encoder.
            NotFoundError: The folder holds no weights.
        """
        self._handle.database.check_writable()
        chosen = choose_hierarchy(hierarchy, self.encoder.fingerprint, self.config.leaf, dim=self.dim)
        return editing.install(self._handle, chosen)

    ainstall = twin(install)

    def note_reader(self, folder: str | Path, marks: Iterable[str]) -> None:
        """Records a reader of a language model that was trained on documents, for `remove` to name it.

        Args:
            folder: Where the reader is; what was noted for it before stays.
            marks: Of the documents, see `mllm_plugin.hierarchy.document_mark`.
        """
        with self._handle.edit() as edit:
            edit.note_reader(str(folder), marks)

    anote_reader = twin(note_reader)

    # -- searching

    def search(
        self,
        query: QueryLike,
        *,
        k: int = 5,
        embedding: VectorsLike | None = None,
        beam_width: int | None = None,
        exact: bool = False,
        mode: SearchMode = "auto",
        namespace: Namespace | str = (),
        prefix: bool = False,
        filter: Mapping[str, Any] | None = None,
        exclude_labels: Sequence[str] = (),
        unique_documents: bool = False,
        reranker: RerankerLike | Literal["default"] | None = DEFAULT,
        as_of: Moment | None = None,
        since: Moment | None = None,
        recency: Recency | timedelta | float | None = None,
        include_masked: Sequence[str] = (),
        neighbours: int = 0,
        merge: bool = False,
    ) -> Hits:
        """Finds the chunks that best answer a query.

        Args:
            query: Text, or a vector [dim] (or several [m, dim]). A vector of zeros has no direction: it finds
                whatever the filter lets through.
            k: Results wanted; fewer come only when fewer live chunks match.
            embedding: Vector to use for a text query instead of encoding it.
            beam_width: Lowest nodes kept on the walk; wider is slower and nearer to exact.
            exact: Score every live chunk; the same as mode "exact".
            mode: "beam" walks the tree, "flat" compares every chunk's embedding and words, "exact" every
                chunk's windows too; "auto" is flat in a small namespace and beam in a large one.
            namespace: Where to look.
            prefix: Look in every namespace below `namespace` too.
            filter: Metadata condition, e.g. `{"year": {"$gte": 2020}}`.
            exclude_labels: Documents with one of these labels are left out.
            unique_documents: At most one hit per document, its best chunk.
            reranker: Scores the best chunks anew, see `open`; None for none, "default" for the memory's.
            as_of: What held at that moment: documents that were there (`created_at`) or, where they say so,
                valid then (`valid_from` up to, but not including, `valid_to`), also those masked as
                "superseded". A datetime with a time zone, a date (midnight UTC), or ISO 8601 text.
            since: Documents whose `valid_from`, or else `created_at`, is then or later.
            recency: Newer ones score higher: a half-life (timedelta or seconds), or a `Recency`. Its evidence
                is in `Hit.score`, not in `Hit.relevance`. It is read for the best candidates; mode "exact"
                reads it for all.
            include_masked: Masks to look through; a document is found that has no other. The nodes above know
                nothing of what is masked, so everything is compared.
            neighbours: So many chunks before and after each in `Hit.before` and `Hit.after`.
            merge: Hits of one document that touch, with their neighbours, become one; fewer than k may come.

        Returns:
            Hits, best first; ties in order of document id and offset. A list, which also has the
            `statistics` of the search.

        Raises:
            InvalidInputError: k or beam_width below 1, empty query, unknown mode, or another one than "exact"
                beside `exact=True`.
            DimensionMismatchError: A vector has another width than the memory.
            FilterError: The filter is malformed.
        """
        scope = scope_of(namespace, prefix, filter, exclude_labels)
        times = {"as_of": as_of, "since": since, "recency": recency}
        how = searching.request_of(
            self._handle,
            scope,
            k,
            beam_width,
            exact,
            mode,
            unique_documents,
            reranker,
            include_masked=include_masked,
            neighbours=neighbours,
            **times,
        )
        given = None if embedding is None else [embedding]
        found = searching.search(self._handle, scope, how, [query], given)[0]
        return merged(found) if merge else found

    asearch = twin(search)

    def search_batch(
        self,
        queries: Sequence[QueryLike],
        *,
        k: int = 5,
        embeddings: Sequence[VectorsLike] | NDArray[Any] | None = None,
        beam_width: int | None = None,
        exact: bool = False,
        mode: SearchMode = "auto",
        namespace: Namespace | str = (),
        prefix: bool = False,
        filter: Mapping[str, Any] | None = None,
        exclude_labels: Sequence[str] = (),
        unique_documents: bool = False,
        reranker: RerankerLike | Literal["default"] | None = DEFAULT,
        as_of: Moment | None = None,
        since: Moment | None = None,
        recency: Recency | timedelta | float | None = None,
        include_masked: Sequence[str] = (),
        neighbours: int = 0,
        merge: bool = False,
    ) -> list[Hits]:
        """Several searches at once: encoded in one batch, walked together, same results as one by one."""
        scope = scope_of(namespace, prefix, filter, exclude_labels)
        times = {"as_of": as_of, "since": since, "recency": recency}
        how = searching.request_of(
            self._handle,
            scope,
            k,
            beam_width,
            exact,
            mode,
            unique_documents,
            reranker,
            include_masked=include_masked,
            neighbours=neighbours,
            **times,
        )
        found = searching.search(self._handle, scope, how, queries, embeddings)
        return [merged(hits) for hits in found] if merge else found

    asearch_batch = twin(search_batch)

    def recall(
        self,
        query: QueryLike,
        *,
        k: int = 5,
        nodes: int = 4,
        words: int = 0,
        faces: int = 0,
        embedding: VectorsLike | None = None,
        beam_width: int | None = None,
        exact: bool = False,
        mode: SearchMode = "auto",
        namespace: Namespace | str = (),
        prefix: bool = False,
        filter: Mapping[str, Any] | None = None,
        exclude_labels: Sequence[str] = (),
        unique_documents: bool = False,
        reranker: RerankerLike | Literal["default"] | None = DEFAULT,
    ) -> Recall:
        """Finds the chunks that best answer a query, and the best embeddings of every level beside them.

        No embedding tells of what a search with the same arguments could not return: masked documents are
        out of every node, namespaces never mix in one, and under `filter` or `exclude_labels` a node with a
        descendant that does not match is folded anew from its matching children that the walk visited.

        Args:
            query: Text, or a vector [dim] (or several [m, dim]).
            k: Chunks wanted.
            nodes: Most nodes of each level from 2 up; 0 for none.
            words: Of each node, so many words that tell what it is about, as `overview` gives them.
            faces: Of each node, so many of its most central chunks.
            embedding: Vector to use for a text query instead of encoding it.
            beam_width: Lowest nodes visited; half as many on the levels above, but at least `nodes`.
            exact: Score every live chunk and visit every node; the same as mode "exact".
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
            InvalidInputError: k or beam_width below 1, nodes, words or faces below 0, empty query, unknown
                mode, or another one than "exact" beside `exact=True`.
            DimensionMismatchError: A vector has another width than the memory.
            FilterError: The filter is malformed.
        """
        scope = scope_of(namespace, prefix, filter, exclude_labels)
        how = searching.request_of(
            self._handle, scope, k, beam_width, exact, mode, unique_documents, reranker
        )
        given = None if embedding is None else [embedding]
        upper = at_least("nodes", nodes, 0), at_least("words", words, 0), at_least("faces", faces, 0)
        return searching.recall_all(self._handle, scope, how, *upper, [query], given)[0]

    arecall = twin(recall)

    def recall_batch(
        self,
        queries: Sequence[QueryLike],
        *,
        k: int = 5,
        nodes: int = 4,
        words: int = 0,
        faces: int = 0,
        embeddings: Sequence[VectorsLike] | NDArray[Any] | None = None,
        beam_width: int | None = None,
        exact: bool = False,
        mode: SearchMode = "auto",
        namespace: Namespace | str = (),
        prefix: bool = False,
        filter: Mapping[str, Any] | None = None,
        exclude_labels: Sequence[str] = (),
        unique_documents: bool = False,
        reranker: RerankerLike | Literal["default"] | None = DEFAULT,
    ) -> list[Recall]:
        """Several recalls at once: encoded in one batch, walked together, same results as one by one."""
        scope = scope_of(namespace, prefix, filter, exclude_labels)
        how = searching.request_of(
            self._handle, scope, k, beam_width, exact, mode, unique_documents, reranker
        )
        upper = at_least("nodes", nodes, 0), at_least("words", words, 0), at_least("faces", faces, 0)
        return searching.recall_all(self._handle, scope, how, *upper, queries, embeddings)

    arecall_batch = twin(recall_batch)

    def overview(
        self,
        topic: QueryLike | None = None,
        *,
        nodes: int = 8,
        words: int = 6,
        faces: int = 2,
        namespace: Namespace | str = (),
        prefix: bool = False,
        filter: Mapping[str, Any] | None = None,
        exclude_labels: Sequence[str] = (),
    ) -> list[Topic]:
        """Tells what a memory is about, or what it has on a topic, part by part.

        Nothing of it tells of what a search with the same arguments could not return: what is masked, or does
        not match, is in no word, no count and no face. Of a part of more than some thousand chunks, words and
        faces come from an even sample.

        Args:
            topic: Text or a vector: the parts nearest to it, nearest first. None for the largest parts.
            nodes: Most parts.
            words: Of each part, so many words that tell what it is about.
            faces: Of each part, so many of its most central chunks.
            namespace: Where to look.
            prefix: Look in every namespace below `namespace` too; parts never mix namespaces.
            filter: Metadata condition, e.g. `{"year": {"$gte": 2020}}`.
            exclude_labels: Documents with one of these labels are left out.

        Returns:
            The parts; none where nothing may be shown.

        Raises:
            InvalidInputError: nodes below 1, words or faces below 0, or an empty topic.
            FilterError: The filter is malformed.
        """
        scope = scope_of(namespace, prefix, filter, exclude_labels)
        how = searching.request_of(self._handle, scope, 1, None, False, "auto", False, None)
        counts = positive("nodes", nodes), at_least("words", words, 0), at_least("faces", faces, 0)
        return searching.topics(self._handle, scope, how, topic, *counts)

    aoverview = twin(overview)

    # -- reading

    def get(self, ids: Iterable[str] | str, *, namespace: Namespace | str = ()) -> list[StoredDocument]:
        """Documents by id, in the order asked; unknown ids are left out."""
        which = which_of(ids, None)
        return searching.get(self._handle, check_namespace(namespace), which)

    aget = twin(get)

    def documents(
        self,
        *,
        namespace: Namespace | str = (),
        prefix: bool = False,
        filter: Mapping[str, Any] | None = None,
        masked: bool | None = None,
        order: Order | None = None,
        limit: int | None = None,
        offset: int = 0,
    ) -> Iterator[StoredDocument]:
        """Documents of a namespace, or of every one below it; masked ones too.

        All of one moment: what is written while they are read changes none of them. Some megabytes of text
        are read at once. What goes beyond holds its moment until the iterator is exhausted or closed:
        `remove` waits for it and then reports `erased=False`, and the log grows with what is written. To edit
        while you read, read first: `list(memory.documents())`.

        Args:
            namespace: Where they are.
            prefix: Those of every namespace below `namespace` too.
            filter: Metadata condition.
            masked: True for those alone that are masked or have expired, False for the others.
            order: "id", "created_at", "updated_at", "expires_at", "valid_from" or "valid_to", with "-" before
                it the other way round, over all namespaces; what has no such value comes last. Namespace by
                namespace in the order they were added, when left out.
            limit: At most so many.
            offset: Pass over so many first.
        """
        listing = listing_of(filter, masked, order, limit, offset)
        return searching.documents(self._handle, scope_of(namespace, prefix), listing)

    adocuments = iterator_twin(documents)

    def count(
        self,
        filter: Mapping[str, Any] | None = None,
        *,
        namespace: Namespace | str = (),
        prefix: bool = False,
        masked: bool | None = None,
    ) -> int:
        """How many documents `documents` would give with the same arguments."""
        listing = listing_of(filter, masked)
        return searching.count(self._handle, scope_of(namespace, prefix), listing)

    acount = twin(count)

    def chunks(
        self,
        *,
        namespace: Namespace | str = (),
        prefix: bool = False,
        filter: Mapping[str, Any] | None = None,
    ) -> Iterator[StoredChunk]:
        """All live chunks of a namespace, or of every one below it, document by document; as `documents`."""
        return searching.chunks(self._handle, scope_of(namespace, prefix, filter))

    achunks = iterator_twin(chunks)

    def namespaces(self, prefix: Namespace | str = ()) -> list[Namespace]:
        """All namespaces that begin with `prefix`."""
        return searching.namespaces(self._handle, check_namespace(prefix))

    anamespaces = twin(namespaces)

    def snapshot(self) -> AbstractContextManager[Snapshot]:
        """One moment of everything that is stored, for whoever reads more than the other calls give.

        Use it as `with memory.snapshot() as snapshot:`; it ends with the block. While it is open, removals
        are not reported erased, as with `documents`.
        """
        self._database.check_open()
        return self._database.snapshot()

    # -- upkeep

    @property
    def hierarchy(self) -> Hierarchy:
        """The level encoders and rankers in use."""
        return self._handle.hierarchy

    @property
    def reranker(self) -> Reranker | None:
        """Scores the best chunks of every search anew, where a search says nothing else."""
        return self._handle.reranker

    def stats(self) -> Stats:
        """Counts, sizes and the shape of every tree."""
        return upkeep.stats(self._handle)

    astats = twin(stats)

    def verify(self) -> VerifyReport:
        """Checks every invariant; reads the whole file. What cannot be read is a problem in the report."""
        return upkeep.verify(self._handle)

    averify = twin(verify)

    def compact(self, *, regroup: bool = False, wait: float = 5.0) -> CompactReport:
        """Gives free space back and lists rare words again.

        Args:
            regroup: Also group every tree anew; trees that a bulk build left provisional are regrouped
                anyway.
            wait: Seconds to wait for readers that still hold old pages.
        """
        return upkeep.compact(self._handle, regroup=regroup, wait=seconds("wait", wait))

    acompact = twin(compact)

    def backup(self, path: str | Path) -> None:
        """Writes a consistent copy into a new file while others read and write.

        Raises:
            InvalidInputError: The file exists.
        """
        self._handle.database.backup(new_file(path))

    abackup = twin(backup)

    def export(
        self, *, namespace: Namespace | str = (), prefix: bool = True, vectors: bool = True
    ) -> Iterator[dict]:
        """Documents as JSON-ready records; with vectors, `import_records` needs no encoder."""
        return upkeep.export(self._handle, scope_of(namespace, prefix), vectors=vectors)

    aexport = iterator_twin(export)

    def import_records(self, records: Iterable[Mapping[str, Any] | Record]) -> AddReport:
        """Adds records of `export`; encodes only those without vectors of this encoder."""
        return editing.add_records(self._handle, records)

    aimport_records = twin(import_records)

    def vector_cache(self, fingerprint: str, dim: int) -> EmbeddingCache | None:
        """A place for what can be made again of stored texts, by what made it; every removal empties it.

        None where nothing may be kept: a memory opened for reading only, or without `embedding_cache`.
        """
        return self._handle.vector_cache(fingerprint, dim)

    def keep_vectors(
        self, cache: EmbeddingCache, entries: Mapping[int, tuple[bytes, NDArray[np.float32], bytes]]
    ) -> None:
        """Puts into a `vector_cache` what was made of chunks, by id, unless one was removed meanwhile."""
        self._handle.keep_vectors(cache, entries)

    def live_chunks(self, chunk_ids: Iterable[int]) -> set[int]:
        """Those of the chunks that are neither removed, nor masked, nor expired."""
        with self._handle.database.snapshot() as snapshot:
            return snapshot.live(chunk_ids)

    alive_chunks = twin(live_chunks)

    def watch(self, watcher: Watcher) -> None:
        """Calls `watcher.written()` after every write through this object, as long as somebody holds it."""
        self._handle.database.watchers.add(watcher)

    # -- as Python sees it

    def __enter__(self) -> MemoryIndex:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    async def __aenter__(self) -> MemoryIndex:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.aclose()

    def __repr__(self) -> str:
        return f"MemoryIndex({str(self.path)!r}, encoder={self.encoder.fingerprint!r})"

    def __reduce__(self) -> tuple[Any, ...]:
        return _reopened, (type(self), self._handle.database.place.parent, pickled_options(self._handle))

    def __copy__(self) -> MemoryIndex:
        options = options_of(self._handle, self.encoder)
        return _reopened(type(self), self._handle.database.place.parent, options)

    def __deepcopy__(self, memo: dict[int, Any]) -> MemoryIndex:
        return self.__copy__()


def _reopened(cls: type[MemoryIndex], path: Path, options: dict[str, Any]) -> MemoryIndex:
    return cls.open(path, create=False, **options)
