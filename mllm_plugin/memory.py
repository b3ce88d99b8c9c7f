"""`MemoryIndex`: the facade over documents, tree and search of one memory on disk."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from mllm_plugin.config import MemoryConfig
from mllm_plugin.encoders import DEFAULT_ENCODER, VectorsOnly, as_encoder
from mllm_plugin.errors import EncoderMismatchError, InvalidInputError, InvalidTypeError, NotFoundError
from mllm_plugin.hierarchy import IDENTITY, Hierarchy, LeafRanker
from mllm_plugin.ingest import Ingest
from mllm_plugin.protocols import TextEncoder
from mllm_plugin.records import export_records, import_records
from mllm_plugin.search.engine import Request, Searcher
from mllm_plugin.search.query import make_queries
from mllm_plugin.store.cache import EmbeddingCache
from mllm_plugin.store.database import FILE_NAME, Database
from mllm_plugin.store.documents import (
    add_masks,
    drop_masks,
    masked_documents,
    read_documents,
    select_documents,
)
from mllm_plugin.store.namespaces import NamespaceRow, check_namespace, find_namespace, namespaces_below
from mllm_plugin.store.settings import load_settings, save_settings
from mllm_plugin.store.statistics import namespace_stats, text_bytes
from mllm_plugin.store.verify import verify_store
from mllm_plugin.store.writer import NamespaceWriter
from mllm_plugin.types import (
    AddReport,
    CompactReport,
    Document,
    Hit,
    MaskReport,
    Mode,
    Namespace,
    RemoveReport,
    Stats,
    StoredDocument,
    VerifyReport,
)

_MODES = ("auto", "beam", "flat", "exact")


class MemoryIndex:
    """A searchable, editable memory in one folder; open it with `MemoryIndex.open`.

    Threads may share one; processes may each open the same folder. Every call that writes is one transaction.
    """

    def __init__(
        self,
        database: Database,
        encoder: TextEncoder,
        config: MemoryConfig,
        hierarchy: Hierarchy,
    ) -> None:
        self.encoder, self.config, self.hierarchy = encoder, config, hierarchy
        self.path, self.dim = database.folder, encoder.dim
        self._database = database
        self._cache = (
            EmbeddingCache(database.folder, encoder.fingerprint, encoder.dim)
            if config.embedding_cache and not database.read_only
            else None
        )
        self._ingest = Ingest(database, encoder, self._cache, config, hierarchy)
        self._searcher = Searcher(config, config.search, hierarchy, encoder.dim)

    @classmethod
    def open(
        cls,
        path: str | Path,
        *,
        encoder: Any = DEFAULT_ENCODER,
        config: MemoryConfig | None = None,
        hierarchy: str | Hierarchy = IDENTITY,
        timeout: float = 30.0,
        create: bool = True,
        read_only: bool = False,
    ) -> MemoryIndex:
        """Creates a memory, or opens the one that is there.

        Args:
            path: Its folder.
            encoder: A model name or path, a `TextEncoder`, a LangChain `Embeddings`, a LlamaIndex `BaseEmbedding`;
                None opens an existing memory for everything that needs no text encoding.
            config: Settings; chunking, tree and level 0 are fixed by the first opening, search may differ.
            hierarchy: "identity" for the untrained one, or a `Hierarchy`.
            timeout: Seconds to wait for another writer.
            create: Make the memory when there is none.
            read_only: Never write; works without write permission.

        Raises:
            EncoderMismatchError: The memory was written with another encoder.
            NotFoundError: There is no memory and `create` is False.
            InvalidInputError: `config` contradicts the stored one, or a new memory has no encoder.
            StoreError: The files cannot be used; see `mllm_plugin.errors`.
        """
        folder = Path(path).expanduser()
        if encoder is None and not (folder / FILE_NAME).exists():
            raise (InvalidInputError if create else NotFoundError)(
                f"no memory at {folder}; a new one needs an encoder"
            )
        given = None if encoder is None else as_encoder(encoder)
        if isinstance(hierarchy, str):
            hierarchy = _hierarchy(hierarchy)
        database = Database(folder, create=create, read_only=read_only, timeout=timeout)
        try:
            settings = load_settings(database) or save_settings(database, config or MemoryConfig(), given)
            _check_encoder(given, settings.fingerprint, folder)
            chosen = settings.resolve(config)
            hierarchy.leaf_ranker = LeafRanker(chosen.leaf)
            return cls(database, given or VectorsOnly(settings.dim, settings.fingerprint), chosen, hierarchy)
        except BaseException:
            database.close()
            raise

    # -- writing -------------------------------------------------------------------------------------------------

    def add(
        self,
        documents: Iterable[Document],
        *,
        namespace: Namespace | str = (),
        embeddings: Sequence[Any] | None = None,
        split: bool = True,
    ) -> AddReport:
        """Adds documents, or replaces those whose id is there; unchanged ones cost nothing.

        Args:
            documents: Their ids must differ from each other.
            namespace: Where they go; a plain string is a one-part namespace.
            embeddings: One vector [dim] per document, which is then one chunk; saves the encoder call.
            split: False keeps each document as one chunk that is never cut.

        Raises:
            InvalidDocumentError: A document cannot be stored; nothing was added.
            DimensionMismatchError: An embedding has another width than the memory.
        """
        self._database.check_open()
        return self._ingest.add(documents, check_namespace(namespace), embeddings=embeddings, split=split)

    def add_provisionally(
        self, documents: Iterable[Document], *, namespace: Namespace | str = (), split: bool = True
    ) -> AddReport:
        """`add` for bulk builds: places whole groups quickly; `regroup` must follow for the best routing."""
        self._database.check_open()
        return self._ingest.add(documents, check_namespace(namespace), split=split, provisional=True)

    def remove(
        self,
        ids: Iterable[str] | str | None = None,
        *,
        filter: Mapping[str, Any] | None = None,
        label: str | None = None,
        namespace: Namespace | str = (),
        wait: float = 5.0,
    ) -> RemoveReport:
        """Removes documents for good: no row, vector, word, cache entry or ancestor keeps anything of them.

        Args:
            ids: Documents by id; unknown ones are reported as missing.
            filter: Documents by metadata.
            label: Documents that carry a label.
            namespace: Where they are.
            wait: Seconds to wait for readers that still hold old pages, before `erased` is reported as False.
        """
        with self._database.write() as tx:
            row = find_namespace(tx, check_namespace(namespace))
            if row is None:
                missing = tuple(_ids(ids) or ())
                return RemoveReport(0, 0, True, missing)
            chosen = select_documents(tx, row.namespace_id, ids=_ids(ids), condition=filter, label=label)
            hashes = [
                text_hash
                for rowid in chosen.rowids
                for (text_hash,) in tx.execute("SELECT text_hash FROM chunks WHERE document_rowid = ?", (rowid,))
            ]
            chunks = 0
            if chosen.rowids:
                writer = self._writer(tx, row)
                chunks = writer.remove(chosen.rowids)
                writer.finish()
        erased, reason = self._erase(hashes, wait)
        return RemoveReport(len(chosen.rowids), chunks, erased, chosen.missing, reason)

    def mask(
        self,
        ids: Iterable[str] | str | None = None,
        *,
        filter: Mapping[str, Any] | None = None,
        label: str = "",
        namespace: Namespace | str = (),
    ) -> MaskReport:
        """Takes documents out of every result and every ancestor until they are unmasked.

        Args:
            ids: Documents by id.
            filter: Documents by metadata.
            label: Name of this mask, for `unmask(label=…)`; with neither ids nor filter, the documents that carry
                the label are masked.
            namespace: Where they are.

        Raises:
            NotFoundError: An id is not there; nothing was masked.
        """
        with self._database.write() as tx:
            row = find_namespace(tx, check_namespace(namespace))
            tagged = label if ids is None and filter is None else None
            rowids = self._select(tx, row, ids, filter, tagged, namespace)
            turned = add_masks(tx, rowids, label)
            return self._turn(tx, row, turned, masked=True)

    def unmask(
        self,
        ids: Iterable[str] | str | None = None,
        *,
        filter: Mapping[str, Any] | None = None,
        label: str | None = None,
        namespace: Namespace | str = (),
    ) -> MaskReport:
        """Lifts masks; a document is live again when none is left on it.

        Args:
            ids: Documents by id.
            filter: Documents by metadata.
            label: Only this mask; all masks when left out.
            namespace: Where they are.

        Raises:
            NotFoundError: An id is not there; nothing was unmasked.
        """
        with self._database.write() as tx:
            row = find_namespace(tx, check_namespace(namespace))
            if ids is None and filter is None and row is not None:
                rowids = masked_documents(tx, row.namespace_id, label)
            else:
                rowids = self._select(tx, row, ids, filter, None, namespace)
            turned = drop_masks(tx, rowids, label)
            return self._turn(tx, row, turned, masked=False)

    # -- searching -----------------------------------------------------------------------------------------------

    def search(
        self,
        query: Any,
        *,
        k: int = 5,
        embedding: Any = None,
        beam_width: int | None = None,
        exact: bool = False,
        mode: Mode = "auto",
        namespace: Namespace | str = (),
        prefix: bool = False,
        filter: Mapping[str, Any] | None = None,
        exclude_labels: Sequence[str] = (),
        unique_documents: bool = False,
    ) -> list[Hit]:
        """Finds the chunks that best answer a query.

        Args:
            query: Text, or a vector [dim] (or several [m, dim]).
            k: Results wanted; fewer come only when fewer live chunks match.
            embedding: Vector to use for a text query instead of encoding it.
            beam_width: Nodes kept per level on the walk; wider is slower and nearer to exact.
            exact: Score every live chunk.
            mode: "beam", "flat" or "exact"; "auto" takes the cheapest that loses nothing.
            namespace: Where to look.
            prefix: Look in every namespace below `namespace` too.
            filter: Metadata condition, e.g. `{"year": {"$gte": 2020}}`.
            exclude_labels: Documents with one of these labels are left out.
            unique_documents: At most one hit per document, its best chunk.

        Returns:
            Hits, best first; ties in order of document id and offset.

        Raises:
            InvalidInputError: k or beam_width below 1, empty query, unknown mode.
            DimensionMismatchError: A vector has another width than the memory.
            FilterError: The filter is malformed.
        """
        return self.search_batch(
            [query],
            k=k,
            embeddings=None if embedding is None else [embedding],
            beam_width=beam_width,
            exact=exact,
            mode=mode,
            namespace=namespace,
            prefix=prefix,
            filter=filter,
            exclude_labels=exclude_labels,
            unique_documents=unique_documents,
        )[0]

    def search_batch(
        self,
        queries: Sequence[Any],
        *,
        k: int = 5,
        embeddings: Sequence[Any] | None = None,
        beam_width: int | None = None,
        exact: bool = False,
        mode: Mode = "auto",
        namespace: Namespace | str = (),
        prefix: bool = False,
        filter: Mapping[str, Any] | None = None,
        exclude_labels: Sequence[str] = (),
        unique_documents: bool = False,
    ) -> list[list[Hit]]:
        """Several searches at once: encoded in one batch, walked together, same results as one by one."""
        self._database.check_open()
        request = Request(
            k=_positive("k", k),
            beam_width=_positive("beam_width", beam_width or self.config.search.beam_width)
            if beam_width is not None
            else self.config.search.beam_width,
            mode="exact" if exact else _mode(mode),
            condition=filter,
            exclude_labels=_labels(exclude_labels),
            unique_documents=unique_documents,
        )
        if isinstance(queries, str):
            raise InvalidTypeError("search_batch takes a list of queries; use search for one")
        where = check_namespace(namespace)
        self._searcher.profile.timings = {}
        with self._searcher.stage("encode"):
            prepared = make_queries(
                list(queries), embeddings, self.encoder, self.config.chunking.chunk_tokens
            )
        if not prepared:
            return []
        with self._database.read() as tx:
            rows = namespaces_below(tx, where) if prefix else _found(find_namespace(tx, where))
            return self._searcher.search(tx, rows, prepared, request)

    # -- reading -------------------------------------------------------------------------------------------------

    def get(self, ids: Iterable[str] | str, *, namespace: Namespace | str = ()) -> list[StoredDocument]:
        """Documents by id, in the order asked; unknown ids are left out."""
        with self._database.read() as tx:
            row = find_namespace(tx, check_namespace(namespace))
            if row is None:
                return []
            chosen = select_documents(tx, row.namespace_id, ids=_ids(ids), condition=None, label=None)
            return list(read_documents(tx, row.namespace_id, row.namespace, chosen.rowids))

    def documents(
        self,
        *,
        namespace: Namespace | str = (),
        prefix: bool = False,
        filter: Mapping[str, Any] | None = None,
    ) -> Iterator[StoredDocument]:
        """All documents of a namespace, or of every one below it, in the order they were added."""
        where = check_namespace(namespace)
        with self._database.read() as tx:
            for row in namespaces_below(tx, where) if prefix else _found(find_namespace(tx, where)):
                chosen = select_documents(tx, row.namespace_id, ids=None, condition=filter or {}, label=None)
                yield from read_documents(tx, row.namespace_id, row.namespace, chosen.rowids)

    def namespaces(self, prefix: Namespace | str = ()) -> list[Namespace]:
        """All namespaces that begin with `prefix`."""
        with self._database.read() as tx:
            return [row.namespace for row in namespaces_below(tx, check_namespace(prefix))]

    @property
    def timings(self) -> dict[str, float]:
        """Seconds per stage of the last search in this thread."""
        return dict(getattr(self._searcher.profile, "timings", {}))

    @property
    def embeddings_scored(self) -> list[int]:
        """Embeddings compared with each query of the last search in this thread."""
        return list(getattr(self._searcher.profile, "scored", []))

    # -- care ----------------------------------------------------------------------------------------------------

    def stats(self) -> Stats:
        """Counts, sizes and the shape of every tree."""
        with self._database.read() as tx:
            namespaces = tuple(namespace_stats(tx, row) for row in namespaces_below(tx, ()))
            texts = text_bytes(tx)
        chunks = sum(one.chunks for one in namespaces)
        size = sum(path.stat().st_size for path in self.path.glob(f"{FILE_NAME}*"))
        return Stats(
            documents=sum(one.documents for one in namespaces),
            chunks=chunks,
            live_chunks=sum(one.live_chunks for one in namespaces),
            masked_documents=sum(one.masked_documents for one in namespaces),
            encoder=self.encoder.fingerprint,
            dim=self.dim,
            file_bytes=size,
            cache_bytes=self._cache.nbytes() if self._cache else 0,
            bytes_per_chunk_beyond_text=max(0.0, (size - texts) / chunks) if chunks else 0.0,
            namespaces=namespaces,
        )

    def verify(self) -> VerifyReport:
        """Checks every invariant; reads the whole file.

        Raises:
            DamagedStoreError: A page checksum does not hold, so the file cannot even be read.
        """
        with self._database.read() as tx:
            return verify_store(tx, config=self.config, fold=self.hierarchy.fold, dim=self.dim)

    def compact(self, *, regroup: bool = False) -> CompactReport:
        """Gives free space back and lists rare words again.

        Args:
            regroup: Also group every tree anew; trees that a bulk build left provisional are regrouped anyway.
        """
        before = self._file_bytes()
        rebuilt = 0
        with self._database.read() as tx:
            rows = namespaces_below(tx, ())
        for row in rows:
            rebuilt += self.regroup(row.namespace, force=regroup)
        self._database.exclusive(lambda connection: connection.execute("PRAGMA incremental_vacuum").get)
        self._database.truncate_log(self._database.timeout)
        return CompactReport(before, self._file_bytes(), rebuilt)

    def regroup(self, namespace: Namespace | str = (), *, force: bool = True) -> bool:
        """Groups a namespace's tree anew; unless forced, only where a bulk build left it provisional."""
        with self._database.write() as tx:
            row = find_namespace(tx, check_namespace(namespace))
            if row is None:
                return False
            writer = self._writer(tx, row)
            needed = force or bool(row.regroup)
            if needed:
                writer.regroup()
            if writer.relist_rare_terms() or needed:
                writer.finish()
            return needed

    def backup(self, path: str | Path) -> None:
        """Writes a consistent copy into a new file while others read and write.

        Raises:
            InvalidInputError: The file exists.
        """
        target = Path(path).expanduser()
        if target.exists():
            raise InvalidInputError(f"{target} exists; a backup never overwrites. Choose another name")
        self._database.backup(target)

    def export(self, *, namespace: Namespace | str = (), prefix: bool = True, vectors: bool = True) -> Iterator[dict]:
        """Documents as JSON-ready records; with vectors, `import_records` needs no encoder."""
        where = check_namespace(namespace)
        with self._database.read() as tx:
            for row in namespaces_below(tx, where) if prefix else _found(find_namespace(tx, where)):
                yield from export_records(tx, row, self.dim, self.encoder.fingerprint, vectors=vectors)

    def import_records(self, records: Iterable[Mapping[str, Any]]) -> AddReport:
        """Adds records of `export`; encodes only those without vectors of this encoder."""
        self._database.check_open()
        return import_records(self._ingest, self.encoder, records, self.config)

    def close(self) -> None:
        """Closes the files; further calls raise `ClosedError`."""
        self._database.close()
        if self._cache is not None:
            self._cache.close()

    def __enter__(self) -> MemoryIndex:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"MemoryIndex({str(self.path)!r}, encoder={self.encoder.fingerprint!r})"

    # -- async twins ---------------------------------------------------------------------------------------------

    async def aadd(self, documents: Iterable[Document], **options: Any) -> AddReport:
        """`add` without blocking the event loop."""
        return await asyncio.to_thread(self.add, documents, **options)

    async def aremove(self, ids: Iterable[str] | str | None = None, **options: Any) -> RemoveReport:
        """`remove` without blocking the event loop."""
        return await asyncio.to_thread(self.remove, ids, **options)

    async def amask(self, ids: Iterable[str] | str | None = None, **options: Any) -> MaskReport:
        """`mask` without blocking the event loop."""
        return await asyncio.to_thread(self.mask, ids, **options)

    async def aunmask(self, ids: Iterable[str] | str | None = None, **options: Any) -> MaskReport:
        """`unmask` without blocking the event loop."""
        return await asyncio.to_thread(self.unmask, ids, **options)

    async def asearch(self, query: Any, **options: Any) -> list[Hit]:
        """`search` without blocking the event loop."""
        return await asyncio.to_thread(self.search, query, **options)

    async def asearch_batch(self, queries: Sequence[Any], **options: Any) -> list[list[Hit]]:
        """`search_batch` without blocking the event loop."""
        return await asyncio.to_thread(self.search_batch, queries, **options)

    async def aget(self, ids: Iterable[str] | str, **options: Any) -> list[StoredDocument]:
        """`get` without blocking the event loop."""
        return await asyncio.to_thread(self.get, ids, **options)

    # -- inside --------------------------------------------------------------------------------------------------

    def _writer(self, tx: Any, row: NamespaceRow) -> NamespaceWriter:
        return NamespaceWriter(tx, row, config=self.config, fold=self.hierarchy.fold, dim=self.dim)

    def _select(
        self,
        tx: Any,
        row: NamespaceRow | None,
        ids: Iterable[str] | str | None,
        condition: Mapping[str, Any] | None,
        label: str | None,
        namespace: Namespace | str,
    ) -> list[int]:
        if row is None:
            if ids is None:
                return []
            raise NotFoundError(f"no document {', '.join(map(repr, _ids(ids) or ()))}: namespace {namespace!r} is empty")
        chosen = select_documents(tx, row.namespace_id, ids=_ids(ids), condition=condition, label=label)
        if chosen.missing:
            raise NotFoundError(f"no document {', '.join(map(repr, chosen.missing))} in namespace {row.namespace!r}")
        return chosen.rowids

    def _turn(self, tx: Any, row: NamespaceRow | None, rowids: list[int], *, masked: bool) -> MaskReport:
        if row is None or not rowids:
            return MaskReport(0, 0)
        writer = self._writer(tx, row)
        chunks = writer.set_masked(rowids, masked)
        writer.finish()
        return MaskReport(len(rowids), chunks)

    def _erase(self, text_hashes: Sequence[bytes | None], wait: float) -> tuple[bool, str]:
        """Empties the logs, so that no file holds what was removed; says why where that was not possible."""
        if self._cache is not None:
            self._cache.drop(text_hashes)
            if not self._cache.erase_log():
                return False, "another process is using the embedding cache; call compact() later"
        if self._database.truncate_log(wait):
            return True, ""
        return False, f"a reader held old pages for more than {wait:g} s; call compact() when it is done"

    def _file_bytes(self) -> int:
        return sum(path.stat().st_size for path in self.path.glob(f"{FILE_NAME}*"))


def _hierarchy(name: str) -> Hierarchy:
    if name != IDENTITY:
        raise InvalidInputError(f"unknown hierarchy {name!r}; expected 'identity' or a Hierarchy")
    return Hierarchy()


def _check_encoder(encoder: TextEncoder | None, stored: str, folder: Path) -> None:
    if encoder is not None and encoder.fingerprint != stored:
        raise EncoderMismatchError(
            f"the memory at {folder} was written with encoder {stored!r}, got {encoder.fingerprint!r}. Vectors of two "
            f"encoders do not compare: open it with the first, or build a new memory with the second"
        )


def _positive(name: str, value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise InvalidTypeError(f"{name} must be an int, got {type(value).__name__}")
    if value < 1:
        raise InvalidInputError(f"{name} must be at least 1, got {value}")
    return value


def _mode(mode: str) -> Mode:
    if mode not in _MODES:
        raise InvalidInputError(f"unknown mode {mode!r}; expected one of {', '.join(_MODES)}")
    return mode  # type: ignore[return-value]


def _labels(labels: Sequence[str]) -> tuple[str, ...]:
    if isinstance(labels, str) or not all(isinstance(label, str) for label in labels):
        raise InvalidTypeError(f"exclude_labels takes a list of strings, got {labels!r}")
    return tuple(labels)


def _ids(ids: Iterable[str] | str | None) -> list[str] | None:
    if ids is None:
        return None
    found = [ids] if isinstance(ids, str) else list(ids)
    for one in found:
        if not isinstance(one, str):
            raise InvalidTypeError(f"ids are strings, got {type(one).__name__} {one!r}")
    return found


def _found(row: NamespaceRow | None) -> list[NamespaceRow]:
    return [] if row is None else [row]
