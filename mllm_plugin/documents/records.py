"""Documents with their vectors as JSON-ready records: how a memory moves without being embedded again.

A record: {id, text, metadata, labels, masks, namespace, split}; the times that are known (created_at,
updated_at, expires_at, valid_from, valid_to, as ISO 8601 text) and the version; with vectors `encoder` and
`chunks`, each {start, end, embedding, windows}: the embedding as a list of numbers, the windows as base64;
and `given`, true where a caller gave the embedding.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import groupby, pairwise
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, Strict, ValidationError

from mllm_plugin import clock
from mllm_plugin.documents.given import Seen, check_documents
from mllm_plugin.documents.ingest import Ingest
from mllm_plugin.encoders.base import as_vectors
from mllm_plugin.encoders.identity import AGREEMENT, Sample, agreement, is_anonymous
from mllm_plugin.errors import InvalidDocumentError, InvalidInputError, InvalidTypeError
from mllm_plugin.protocols import TextEncoder
from mllm_plugin.reports import AddReport
from mllm_plugin.store.cache import hash_text
from mllm_plugin.store.codec import are_windows, packed_size
from mllm_plugin.store.documents import DocumentState, document_hash, same_text
from mllm_plugin.store.namespaces import NamespaceRow, check_namespace
from mllm_plugin.store.snapshot import ChunkVectors, Snapshot
from mllm_plugin.store.times import EXPIRED, Times
from mllm_plugin.store.values import shown
from mllm_plugin.store.writer import PreparedDocument
from mllm_plugin.text.chunking import Span
from mllm_plugin.types import Document, Namespace, StoredDocument

TIMES = ("created_at", "updated_at", "expires_at", "valid_from", "valid_to")
_PROBED = 3  # chunks by which a model is told
_BATCH = 256
_MOST_WINDOWS = 4  # of a character: no tokenizer makes more of one than it has bytes
_BATCH_CHARACTERS = 1 << 16  # some five seconds of embedding on two CPU cores


def _some(text: str) -> str:
    if not text.strip():
        raise ValueError("is empty")
    return text


class ChunkRecord(BaseModel):
    """A chunk of a record: character offsets, embedding [dim], packed windows, who made the embedding.

    `given` is True where a caller gave the embedding: it is not what the encoder would make of the text.
    """

    model_config = ConfigDict(frozen=True)

    start: int
    end: int
    embedding: list[Annotated[float, Strict()]]
    windows: str | None = None
    given: bool = False


class Record(BaseModel):
    """A document of an export; fields that are not known here are left aside."""

    model_config = ConfigDict(frozen=True)

    id: Annotated[str, AfterValidator(_some)]
    text: Annotated[str, AfterValidator(_some)]
    metadata: dict[str, Any] = {}
    labels: tuple[str, ...] = ()
    masks: tuple[str, ...] = ()
    namespace: str | tuple[str, ...] = ()
    split: bool = True
    created_at: str | None = None
    updated_at: str | None = None
    expires_at: str | None = None
    valid_from: str | None = None
    valid_to: str | None = None
    version: Annotated[int, Strict(), Field(ge=0, lt=1 << 62)] = 0
    encoder: str | None = None
    chunks: tuple[ChunkRecord, ...] | None = None


def export_records(
    snapshot: Snapshot, row: NamespaceRow, encoder: str, *, vectors: bool
) -> Iterator[dict[str, Any]]:
    """Yields the records of one namespace."""
    rowids = snapshot.select(row).rowids
    for rowid, document in zip(rowids, snapshot.documents(row, rowids), strict=True):
        record = record_of(document)
        if vectors:
            record |= {"encoder": encoder, "chunks": list(map(_chunk, snapshot.chunks_of(rowid)))}
        yield record


def record_of(document: StoredDocument) -> dict[str, Any]:
    """A document without its vectors."""
    return {
        "id": document.id,
        "text": document.text,
        "metadata": document.metadata,
        "labels": list(document.labels),
        "masks": list(document.masks),
        "namespace": list(document.namespace),
        "split": document.split,
        **known_times({name: getattr(document, name) for name in (*TIMES, "version")}),
    }


def known_times(fields: Mapping[str, Any]) -> dict[str, Any]:
    """The times among a document's fields that are known, and its version, for a record."""
    known = {name: fields[name].isoformat() for name in TIMES if fields[name] is not None}
    return known | ({"version": fields["version"]} if fields["version"] else {})


def import_records(
    ingest: Ingest,
    encoder: TextEncoder,
    records: Iterable[Mapping[str, Any] | Record],
    touched: set[Namespace],
) -> AddReport:
    """Adds records, a transaction for each run of up to 256 neighbours or 64 K characters that go one way.

    Whole groups are placed quickly, as a bulk build does: the namespaces must be regrouped afterwards. Those
    that records went to are added to `touched`. Vectors are taken over where they are the encoder's.

    Raises:
        InvalidTypeError: `records` is no iterable of dictionaries.
        InvalidInputError: A record is malformed, or its id came before; those of earlier transactions are
            kept.
    """
    if isinstance(records, str | bytes | Mapping) or not isinstance(records, Iterable):
        raise InvalidTypeError(f"expected a list of records, got {type(records).__name__}")

    trusted, dim, seen = _trust(encoder), encoder.dim, Seen()

    def key(record: Record) -> tuple[Namespace, bool, bool]:
        namespace = check_namespace(record.namespace)
        if seen.again(*namespace, record.id):
            raise InvalidDocumentError(
                f"id {record.id!r} comes twice in namespace {namespace!r}; ids of one import must differ"
            )
        usable = bool(record.chunks) and record.encoder == encoder.fingerprint and trusted(record)
        return namespace, record.split, usable

    reports = []
    for (namespace, split, usable), run in groupby(map(validated, records), key):
        touched.add(namespace)
        for batch in _batches(run):
            reports.append(_import_batch(ingest, batch, namespace, split, dim if usable else None))
    return AddReport.of(reports)


def _trust(encoder: TextEncoder) -> Callable[[Record], bool]:
    """Whether vectors under the encoder's name are its own; told by the first that can be made again."""
    verdict: list[bool] = [] if is_anonymous(encoder) else [True]

    def trusted(record: Record) -> bool:
        chunks = [chunk for chunk in record.chunks or () if not chunk.given]
        own = [chunk for chunk in chunks if record.text[chunk.start : chunk.end].strip()][:_PROBED]
        if not verdict and own:
            vectors = _stored_vectors([one.embedding for one in own], encoder.dim).astype(np.float32)
            texts = tuple(record.text[one.start : one.end] for one in own)
            sample = Sample(texts, vectors, np.zeros((0, encoder.dim), dtype=np.float32))
            verdict.append(agreement(encoder, sample) >= AGREEMENT)
        return verdict[0] if verdict else True

    return trusted


def _batches(records: Iterator[Record]) -> Iterator[list[Record]]:
    """Runs of records that are written, and lost by an interruption, together."""
    batch: list[Record] = []
    characters = 0
    for record in records:
        batch.append(record)
        characters += len(record.text)
        if len(batch) == _BATCH or characters >= _BATCH_CHARACTERS:
            yield batch
            batch, characters = [], 0
    if batch:
        yield batch


def validated(data: Any, where: str = "") -> Record:
    """A record as others may give it.

    Args:
        data: A dictionary, or a record that was validated already.
        where: Place to name in errors.

    Raises:
        InvalidDocumentError: It is malformed.
    """
    try:
        return Record.model_validate(data)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(map(str, first["loc"])) or "record"
        what = where or f"malformed record {shown(data)}"
        reason = first["msg"].removeprefix("Value error, ")
        raise InvalidDocumentError(f"{what}: {place!r}: {reason}") from None


def _chunk(chunk: ChunkVectors) -> dict[str, Any]:
    record: dict[str, Any] = {
        "start": chunk.start,
        "end": chunk.end,
        "embedding": chunk.vector.astype(float).tolist(),
        "windows": None if chunk.windows is None else base64.b64encode(chunk.windows).decode(),
    }
    return record | ({"given": True} if chunk.given else {})


def _import_batch(
    ingest: Ingest, batch: list[Record], namespace: Namespace, split: bool, dim: int | None
) -> AddReport:
    documents = check_documents(
        Document(
            id=record.id,
            text=record.text,
            metadata=record.metadata,
            labels=record.labels,
            expires_at=record.expires_at,
            valid_from=record.valid_from,
            valid_to=record.valid_to,
        )
        for record in batch
    ).documents
    check_documents(
        Document(id=record.id, text=record.text, labels=tuple(filter(None, record.masks))) for record in batch
    )
    records = {record.id: record for record in batch}
    kept = {record.id: _kept(record) for record in batch}

    def attempt() -> AddReport:
        states = ingest.states(documents, namespace)
        changed = [
            document
            for document in documents
            if not _is_stored(states.get(document.id), document, records[document.id])
        ]
        if dim is None:
            prepared, encoded = ingest.prepare(changed, namespace, split)
        else:
            prepared, encoded = [_prepared(one, records[one.id], namespace, dim) for one in changed], 0
        prepared = [item.with_masks(_masks(records[item.document.id])) for item in prepared]
        return ingest.write(
            documents, prepared, namespace, encoded=encoded, split=split, provisional=True, kept=kept
        )

    return ingest.retried(attempt)


def _is_stored(state: DocumentState | None, document: Document, record: Record) -> bool:
    stored = set(state.masks if state else ())
    return same_text(state, document, record.split) and set(_masks(record)) <= stored


def _masks(record: Record) -> tuple[str, ...]:
    """The masks of a record; that of its expiry follows from the time."""
    return tuple(name for name in record.masks if name != EXPIRED or record.expires_at is None)


def _kept(record: Record) -> Times:
    """What a record knows of its document's past."""
    try:
        created, updated = (clock.moment(name, getattr(record, name)) for name in TIMES[:2])
    except InvalidInputError as error:
        raise InvalidDocumentError(f"record {record.id!r}: {error}") from None
    return Times(created, updated, version=record.version)


def _prepared(document: Document, record: Record, namespace: Namespace, dim: int) -> PreparedDocument:
    chunks = sorted(record.chunks or (), key=lambda chunk: chunk.start)
    spans = [Span(chunk.start, chunk.end) for chunk in chunks]
    inside = all(0 <= span.start < span.end <= len(document.text) for span in spans)
    if not inside or any(left.end > right.start for left, right in pairwise(spans)):
        raise InvalidInputError(
            f"record {document.id!r}: a chunk lies outside of the text or on another chunk"
        )
    windows = [_windows(chunk, dim, document.id) for chunk in chunks]
    return PreparedDocument(
        document=document,
        text_hash=document_hash(document.text, record.split),
        split=record.split,
        spans=spans,
        pooled=_stored_vectors([chunk.embedding for chunk in chunks], dim),
        windows=windows,
        chunk_hashes=[
            None if chunk.given else hash_text(namespace, document.text[chunk.start : chunk.end])
            for chunk in chunks
        ],
    )


def _stored_vectors(embeddings: list[list[float]], dim: int) -> NDArray[np.float16]:
    """Embeddings [c, d] as fp16: those of an export to the bit, any others at unit length."""
    try:
        given = np.asarray(embeddings, dtype=np.float64)
    except ValueError:
        given = np.zeros(0)
    checked = as_vectors(given, dim)
    norms = np.linalg.norm(given, axis=1, keepdims=True)
    return np.where(np.abs(norms - 1) < 1e-2, given, checked).astype(np.float16)


def _windows(chunk: ChunkRecord, dim: int, document_id: str) -> bytes:
    packed, most = chunk.windows or "", packed_size(_MOST_WINDOWS * (chunk.end - chunk.start), dim)
    if len(packed) // 4 * 3 > most + 2:
        raise InvalidInputError(
            f"record {document_id!r}: a chunk of {chunk.end - chunk.start} characters cannot have "
            f"{len(packed) * 3 // 4 // packed_size(1, dim):,} windows, which hold a token each at least"
        )
    try:
        data = base64.b64decode(packed, validate=True)
    except (binascii.Error, ValueError):
        data = b"?"
    if not are_windows(data, dim):
        raise InvalidInputError(f"record {document_id!r}: malformed windows of a chunk")
    return data
