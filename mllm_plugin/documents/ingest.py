"""From documents to rows: check, cut, embed outside of any lock, then write in one transaction."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from mllm_plugin.config import MemoryConfig
from mllm_plugin.documents.given import Given, Seen, check_documents, describe, skips
from mllm_plugin.encoders.base import (
    as_vectors,
    as_windows,
    document_batches,
    listed,
    meaningless,
    token_limit,
)
from mllm_plugin.errors import DimensionMismatchError, InvalidInputError, InvalidTypeError, StoreBusyError
from mllm_plugin.protocols import TextEncoder
from mllm_plugin.reports import AddReport, SkippedDocument
from mllm_plugin.store.cache import EmbeddingCache, hash_text
from mllm_plugin.store.codec import are_windows, pack_windows
from mllm_plugin.store.database import Database
from mllm_plugin.store.decoded import HierarchyInUse
from mllm_plugin.store.documents import DocumentState, document_hash, document_state, same_fields, same_text
from mllm_plugin.store.edit import StaleError, editing
from mllm_plugin.store.namespaces import find_namespace
from mllm_plugin.store.times import Times
from mllm_plugin.store.writer import PreparedDocument
from mllm_plugin.text.chunking import Span, split_text, whole_text
from mllm_plugin.types import Document, Namespace, OnInvalid

_MOST_ATTEMPTS = 10
_T = TypeVar("_T")
Embedding = tuple[NDArray[np.float16], bytes]  # pooled [d], packed windows


@dataclass(frozen=True)
class Piece:
    """A text to be embedded, with what identifies it."""

    text: str
    text_hash: bytes


class Job(NamedTuple):
    """Documents to be cut and embedded for one namespace."""

    documents: Sequence[Document]
    namespace: Namespace
    split: bool


class _Cut(NamedTuple):
    """A document in pieces."""

    document: Document
    split: bool
    spans: Sequence[Span]
    pieces: Sequence[Piece]


class Ingest:
    """Adds documents to a memory; see `MemoryIndex.add` for the arguments."""

    def __init__(
        self,
        database: Database,
        encoder: TextEncoder,
        cache: EmbeddingCache | None,
        config: MemoryConfig,
        hierarchies: HierarchyInUse,
    ) -> None:
        self._database, self._encoder, self.cache = database, encoder, cache
        self._config, self._hierarchies = config, hierarchies

    def add(
        self,
        documents: Iterable[Document],
        namespace: Namespace,
        *,
        embeddings: Sequence[Any] | None = None,
        split: bool = True,
        provisional: bool = False,
        on_invalid: OnInvalid = "raise",
        first: int = 0,
        seen: Seen | None = None,
    ) -> AddReport:
        """Checks, cuts and embeds what is new or changed, and writes all of it or nothing."""
        self._database.check_writable()
        given = check_documents(documents, on_invalid=on_invalid, first=first, seen=seen)
        if embeddings is None:
            report = self._add(given.documents, namespace, split, provisional)
        else:
            prepared = self._prepared_with(given, listed("embeddings", embeddings), split, skips(on_invalid))
            documents = [item.document for item in prepared]
            report = self.write(documents, prepared, namespace, encoded=0, provisional=provisional)
        return replace(report, skipped=tuple(sorted(given.skipped)))

    def _add(
        self, documents: Sequence[Document], namespace: Namespace, split: bool, provisional: bool
    ) -> AddReport:
        def attempt() -> AddReport:
            states = self.states(documents, namespace)
            changed = [doc for doc in documents if not same_text(states.get(doc.id), doc, split)]
            if not changed and all(same_fields(states[doc.id], doc) for doc in documents):
                return AddReport(tuple(doc.id for doc in documents), 0, 0, len(documents), 0, 0)
            prepared, encoded = self.prepare(changed, namespace, split)
            return self.write(
                documents, prepared, namespace, encoded=encoded, split=split, provisional=provisional
            )

        return self.retried(attempt)

    def retried(self, attempt: Callable[[], _T]) -> _T:
        """Looks, prepares and writes again while other writers change the same documents in between."""
        for _ in range(_MOST_ATTEMPTS):
            try:
                return attempt()
            except StaleError:
                continue
        raise StoreBusyError("other writers kept changing these documents; nothing was written, try again")

    def write(
        self,
        documents: Sequence[Document],
        prepared: Sequence[PreparedDocument],
        namespace: Namespace,
        *,
        encoded: int,
        split: bool = True,
        provisional: bool = False,
        kept: Mapping[str, Times] = {},
    ) -> AddReport:
        """Writes prepared documents, and new metadata of the others, in one transaction."""
        if not documents:
            return AddReport((), 0, 0, 0, 0, 0)
        with editing(self._database, self._config, self._hierarchies, self._encoder.dim) as edit:
            put = edit.put(namespace, documents, prepared, split=split, provisional=provisional, kept=kept)
        self.forget(prepared)
        ids = tuple(document.id for document in documents)
        return AddReport(ids, *put, encoded=encoded)

    # -- what changed
    # --------------------------------------------------------------------------------------------

    def states(self, documents: Sequence[Document], namespace: Namespace) -> dict[str, DocumentState]:
        """What is stored under the ids of documents."""
        with self._database.read() as tx:
            row = find_namespace(tx, namespace)
            if row is None:
                return {}
            found = ((doc.id, document_state(tx, row.namespace_id, doc.id)) for doc in documents)
            return {name: state for name, state in found if state is not None}

    # -- cutting and embedding
    # -----------------------------------------------------------------------------------

    def prepare(
        self, documents: Sequence[Document], namespace: Namespace, split: bool
    ) -> tuple[list[PreparedDocument], int]:
        """Cuts and embeds documents; returns them with the number of texts that the encoder saw."""
        ((prepared,), (encoded,)) = self.prepare_all([Job(documents, namespace, split)])
        return prepared, encoded

    def embedded(self, texts: Sequence[str], namespace: Namespace) -> dict[bytes, Embedding]:
        """Embeddings of whole texts by hash; those that the encoder makes are kept nowhere."""
        return self._embed([Piece(text, hash_text(namespace, text)) for text in texts], keep=False)[0]

    def prepare_all(
        self, jobs: Iterable[Job | None], known: Mapping[bytes, Embedding] = {}
    ) -> tuple[list[list[PreparedDocument]], list[int]]:
        """Cuts and embeds several lots of documents, all in one go, with how many texts each had encoded.

        Args:
            jobs: The lots.
            known: Embeddings that were made already, by hash.
        """
        lots = [
            [] if job is None else [self._pieces(document, job) for document in job.documents] for job in jobs
        ]
        embedded, encoded = self._embed([piece for lot in lots for cut in lot for piece in cut.pieces], known)
        counts, left = [], set(encoded)
        for lot in lots:
            own = {piece.text_hash for cut in lot for piece in cut.pieces} & left
            counts.append(len(own))
            left -= own
        return [[self._prepared(cut, embedded) for cut in lot] for lot in lots], counts

    def forget(self, prepared: Iterable[PreparedDocument]) -> None:
        """Drops from the cache what is stored now."""
        if self.cache is not None and (names := [name for item in prepared for name in item.chunk_hashes]):
            self.cache.drop(names)

    def _pieces(self, document: Document, job: Job) -> _Cut:
        spans = self._cut(document, job.split)
        texts = [document.text[span.start : span.end] for span in spans]
        return _Cut(
            document, job.split, spans, [Piece(text, hash_text(job.namespace, text)) for text in texts]
        )

    def _prepared(self, cut: _Cut, embedded: Mapping[bytes, Embedding]) -> PreparedDocument:
        found = [embedded[piece.text_hash] for piece in cut.pieces]
        return PreparedDocument(
            document=cut.document,
            text_hash=document_hash(cut.document.text, cut.split),
            split=cut.split,
            spans=cut.spans,
            pooled=np.stack([pooled for pooled, _ in found]),
            windows=[windows for _, windows in found] if self._config.level0 else None,
            chunk_hashes=[piece.text_hash for piece in cut.pieces],
        )

    def prepare_update(
        self, document_id: str, text: str | None, namespace: Namespace
    ) -> tuple[PreparedDocument | None, int]:
        """A stored document's new text, cut and embedded as the document is; None where it stays."""
        if text is None:
            return None, 0
        document = check_documents([Document(text, id=document_id)]).documents[0]
        with self._database.snapshot() as snapshot:
            row = snapshot.namespace(namespace)
            rowids = [] if row is None else snapshot.select(row, ids=[document_id]).rowids
            stored = None if row is None else next(snapshot.documents(row, rowids), None)
        if stored is None or stored.text == text:
            return None, 0
        (prepared,), encoded = self.prepare([document], namespace, stored.split)
        return prepared, encoded

    def _prepared_with(
        self, given: Given, embeddings: Sequence[Any], split: bool, skip: bool
    ) -> list[PreparedDocument]:
        """Documents with vectors from the caller; with `skip` those of bad vectors are noted and left out."""
        count = len(given.documents) + len(given.skipped)
        if len(embeddings) != count:
            raise InvalidInputError(f"expected {count} embeddings, one per document, got {len(embeddings)}")
        prepared = []
        for document, place in zip(given.documents, given.places, strict=True):
            try:
                prepared.append(self._with_vectors(document, embeddings[place], split))
            except (InvalidInputError, InvalidTypeError) as error:
                named = SkippedDocument(place, document.id, str(error))
                if not skip or isinstance(error, DimensionMismatchError):
                    raise type(error)(describe(named)) from error
                given.skipped.append(named)
        return prepared

    def _with_vectors(self, document: Document, embedding: Any, split: bool) -> PreparedDocument:
        """A document with one vector [d], or one per chunk [c, d]."""
        vectors = as_vectors(embedding, self._encoder.dim).astype(np.float16)
        spans = whole_text(document.text) if len(vectors) == 1 else self._cut(document, split)
        if len(spans) != len(vectors):
            raise InvalidInputError(
                f"{len(spans)} chunks but {len(vectors)} embeddings; pass one embedding per document (it is "
                f"then one chunk)"
            )
        return PreparedDocument(
            document, document_hash(document.text, split), split, spans, vectors, None, [None] * len(spans)
        )

    def _cut(self, document: Document, split: bool) -> list[Span]:
        if not split:
            return whole_text(document.text)
        limit = token_limit(self._encoder, self._config.chunking.chunk_tokens)
        return split_text(document.text, limit, self._encoder.token_offsets)

    def _embed(
        self, pieces: Sequence[Piece], known: Mapping[bytes, Embedding] = {}, *, keep: bool = True
    ) -> tuple[dict[bytes, Embedding], list[bytes]]:
        """Embeddings by text hash: known ones, from the store or the cache, and only then from the encoder.

        Args:
            pieces: What is embedded.
            known: Embeddings by hash.
            keep: Put what the encoder makes into the cache.

        Returns:
            All of them, and the hashes of those that the encoder made.
        """
        wanted = {piece.text_hash: piece.text for piece in pieces}
        with self._database.snapshot() as snapshot:
            found: dict[bytes, Embedding] = snapshot.embeddings(wanted)
        found |= {name: known[name] for name in wanted if name in known and name not in found}
        kept = ((name, self._cached(name)) for name in wanted if name not in found)
        found.update({name: embedding for name, embedding in kept if embedding is not None})
        missing = [(text_hash, text) for text_hash, text in wanted.items() if text_hash not in found]
        nothing = meaningless(self._encoder, [text for _, text in missing])
        empty = np.zeros(self._encoder.dim, dtype=np.float16), b""
        found.update((one[0], empty) for one, skip in zip(missing, nothing, strict=True) if skip)
        missing = [one for one, skip in zip(missing, nothing, strict=True) if not skip]
        for rows in document_batches(self._encoder, [text for _, text in missing]):
            found.update(self._encode([missing[row] for row in rows], keep))
        return found, [text_hash for text_hash, _ in missing]

    def _encode(self, missing: Sequence[tuple[bytes, str]], keep: bool) -> dict[bytes, Embedding]:
        """Embeds one batch; kept in the cache, an interruption costs no more than a batch."""
        result = self._encoder.encode_documents([text for _, text in missing])
        pooled, windows = result if isinstance(result, tuple) else (result, None)
        vectors = as_vectors(pooled, self._encoder.dim).astype(np.float16)
        if len(vectors) != len(missing):
            raise InvalidInputError(f"the encoder returned {len(vectors)} vectors for {len(missing)} texts")
        packed = [b""] * len(missing)
        if windows is not None and self._config.level0:
            if len(windows) != len(missing):
                raise InvalidInputError(
                    f"the encoder returned windows of {len(windows)} for {len(missing)} texts"
                )
            packed = [pack_windows(as_windows(found, self._encoder.dim)) for found in windows]
        hashes = [text_hash for text_hash, _ in missing]
        if keep and self.cache is not None:
            self.cache.put(zip(hashes, vectors, packed, strict=True))
        return dict(zip(hashes, zip(vectors, packed, strict=True), strict=True))

    def _cached(self, text_hash: bytes) -> Embedding | None:
        entry = self.cache.get(text_hash) if self.cache is not None else None
        return entry if entry is not None and are_windows(entry[1], self._encoder.dim) else None
