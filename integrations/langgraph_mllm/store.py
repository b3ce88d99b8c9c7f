"""A LangGraph store over a memory."""

from __future__ import annotations

import asyncio
import threading
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime, timedelta
from itertools import groupby, islice
from pathlib import Path
from typing import Any, cast

import numpy as np
from langgraph.store.base import (
    BaseStore,
    GetOp,
    IndexConfig,
    ListNamespacesOp,
    MatchCondition,
    Op,
    PutOp,
    Result,
    SearchOp,
    TTLConfig,
    ensure_embeddings,
)
from typing_extensions import Self

from langgraph_mllm.checks import checked, fields_of, texts_at
from langgraph_mllm.filters import lookup, matches
from langgraph_mllm.items import ABOUT, UNINDEXED, StoredItem, document_id, is_first, stored_item
from langgraph_mllm.sweeping import Sweeper
from mllm_plugin import MemoryIndex, clock
from mllm_plugin.errors import InvalidInputError, InvalidTypeError, NotFoundError
from mllm_plugin.types import Namespace

_WIDER = 4  # times as many hits are asked for when filters or pieces left too few items
_WHOLE = "$"


class HierarchicalMemoryStore(BaseStore):
    """A LangGraph `BaseStore` that keeps its items in a memory: durable, searched by meaning and words.

    `create_agent(..., store=HierarchicalMemoryStore.open("memory"))`, LangMem and Deep Agents take it as any
    other store. Items live in the memory's namespaces as documents, so that the memory's own search, masks,
    backup and erasure reach them; a deleted or replaced text is erased from the file.

    The reads of a batch see what was stored before it, its writes come after, and of several writes to a key
    the last one counts. A score is that of `MemoryIndex.search`: higher is better, not bounded by 1. What has
    expired is gone for every read at once; `sweep_ttl` erases it.

    Args:
        memory: An open memory; who opened it closes it.
        index: `{"fields": [...]}` names the JSON paths of a value that are indexed, each with an embedding of
            its own; the whole value by default. False indexes nothing: a plain key-value store.
        ttl: LangGraph's `TTLConfig`: minutes until an item expires, whether a read starts them anew.

    Raises:
        InvalidInputError: `index` brings embeddings, which only `open` can take.
        InvalidTypeError: `memory` or `index` is something else.
    """

    supports_ttl = True

    def __init__(
        self,
        memory: MemoryIndex,
        *,
        index: IndexConfig | Mapping[str, Any] | bool | None = None,
        ttl: TTLConfig | None = None,
    ) -> None:
        if not isinstance(memory, MemoryIndex):
            raise InvalidTypeError(f"a store stands on a MemoryIndex, got {type(memory).__name__}")
        config = fields_of(index)
        if config.get("embed") is not None:
            raise InvalidInputError(
                "index: a memory brings its own encoder; leave 'embed' and 'dims' out, or let "
                "HierarchicalMemoryStore.open(path, index=...) open the memory with these embeddings"
            )
        self.memory, self.ttl_config = memory, ttl
        self.index_config = None if index is False else config
        self._fields = [] if index is False else list(config.get("fields") or [_WHOLE])
        self._owns_memory = False
        self._writing = threading.RLock()
        self._sweeper = Sweeper(self.sweep_ttl)

    @classmethod
    def open(
        cls,
        path: str | Path,
        *,
        index: IndexConfig | Mapping[str, Any] | bool | None = None,
        ttl: TTLConfig | None = None,
        **options: Any,
    ) -> Self:
        """Opens or creates a memory in a folder, and closes it with the store.

        Args:
            path: The folder.
            index: As above; its `embed` becomes the memory's encoder.
            ttl: As above.
            **options: For `MemoryIndex.open`, such as `encoder`.
        """
        if (embed := fields_of(index).get("embed")) is not None:
            options.setdefault("encoder", ensure_embeddings(embed))
            index = {"fields": fields_of(index).get("fields")}
        store = cls(MemoryIndex.open(path, **options), index=index, ttl=ttl)
        store._owns_memory = True
        return store

    def close(self) -> None:
        """Stops the sweeper, and closes the memory if `open` opened it."""
        self.stop_ttl_sweeper()
        if self._owns_memory:
            self.memory.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    # -- operations

    def batch(self, ops: Iterable[Op]) -> list[Result]:
        """Runs operations; results in their order, None for writes.

        Raises:
            InvalidInputError: An operation is unknown, or a value is not made of JSON values.
        """
        wanted = [checked(op) for op in ops]
        with self._writing:
            results = self._read(wanted)
            self._write({(op.namespace, op.key): op for op in wanted if isinstance(op, PutOp)})
        return results

    async def abatch(self, ops: Iterable[Op]) -> list[Result]:
        """`batch` in a worker thread."""
        return await asyncio.to_thread(self.batch, list(ops))

    def _read(self, ops: list[Op]) -> list[Result]:
        got = self._get_all([op for op in ops if isinstance(op, GetOp)])
        seen: dict[tuple[Namespace, str], StoredItem] = {}
        results: list[Result] = []
        for op in ops:
            found: list[StoredItem] = []
            if isinstance(op, GetOp):
                item = got.get((tuple(op.namespace), op.key))
                found = [] if item is None else [item]
                results.append(None if item is None else item.item())
            elif isinstance(op, SearchOp):
                scored = self._search(op)
                found = [item for item, _ in scored]
                results.append([item.found(score) for item, score in scored])
            elif isinstance(op, ListNamespacesOp):
                results.append(self._namespaces(op))
            elif isinstance(op, PutOp):
                results.append(None)
            if isinstance(op, GetOp | SearchOp) and op.refresh_ttl:
                seen |= {(item.namespace, item.key): item for item in found}
        self._refresh(seen.values())
        return results

    # -- reading

    def _get_all(self, ops: Iterable[GetOp | PutOp]) -> dict[tuple[Namespace, str], StoredItem]:
        keys: dict[Namespace, dict[str, None]] = defaultdict(dict)
        for op in ops:
            keys[tuple(op.namespace)][document_id(op.key)] = None
        found = (
            stored_item(document)
            for namespace, ids in keys.items()
            for document in self.memory.get(list(ids), namespace=namespace)
            if not document.masks
        )
        return {(item.namespace, item.key): item for item in found if item is not None}

    def _search(self, op: SearchOp) -> list[tuple[StoredItem, float | None]]:
        if not (op.query and op.query.strip() and self._fields):
            return [(item, None) for item in islice(self._listed(op), op.offset, op.offset + op.limit)]
        page = self._ranked(op)[op.offset :][: op.limit]
        rest = op.limit - len(page)
        unscored = self._listed(op, {f"{ABOUT}.pieces": 0}) if rest > 0 else iter(())
        return [*page, *((item, None) for item in islice(unscored, max(0, rest)))]

    def _ranked(self, op: SearchOp) -> list[tuple[StoredItem, float | None]]:
        """The best items, each with the score of its best piece."""
        wanted = k = max(1, op.offset + op.limit)
        while True:
            hits = self.memory.search(
                cast(str, op.query),
                k=k,
                namespace=tuple(op.namespace_prefix),
                prefix=True,
                filter=lookup(op.filter),
                exclude_labels=(UNINDEXED,),
            )
            best: dict[tuple[Namespace, str], tuple[StoredItem, float | None]] = {}
            for hit in hits:
                item = stored_item(hit)
                if item is not None and matches(item.value, op.filter):
                    best.setdefault((item.namespace, item.key), (item, hit.score))
            if len(best) >= wanted or len(hits) < k:
                return list(best.values())
            k *= _WIDER

    def _listed(self, op: SearchOp, also: Mapping[str, Any] | None = None) -> Iterator[StoredItem]:
        """Items without a ranking: namespace by namespace as these were made, the oldest item first."""
        parts = [{f"{ABOUT}.piece": 0}, also, lookup(op.filter)]
        condition = {"$and": [part for part in parts if part]}
        with self.memory.snapshot() as snapshot:
            rows = snapshot.namespaces(tuple(op.namespace_prefix))
        for row in sorted(rows, key=lambda row: row.namespace_id):
            found = self.memory.documents(namespace=row.namespace, filter=condition, masked=False)
            items = [item for item in map(stored_item, found) if item and matches(item.value, op.filter)]
            yield from sorted(items, key=lambda item: item.created_at)

    def _namespaces(self, op: ListNamespacesOp) -> list[Namespace]:
        conditions = op.match_conditions or ()
        names = (
            name[: op.max_depth]
            for name in sorted(self.memory.namespaces())
            if all(_fits(name, condition) for condition in conditions) and self._holds_items(name)
        )
        return list(islice((name for name, _ in groupby(names)), op.offset, op.offset + op.limit))

    def _holds_items(self, namespace: Namespace) -> bool:
        first = self.memory.documents(
            namespace=namespace, filter={f"{ABOUT}.piece": 0}, masked=False, order="id", limit=1
        )
        return any(True for _ in first)

    # -- writing

    def _write(self, puts: Mapping[tuple[Namespace, str], PutOp]) -> None:
        before = self._get_all(puts.values())
        by_namespace: dict[Namespace, list[PutOp]] = defaultdict(list)
        for op in puts.values():
            by_namespace[tuple(op.namespace)].append(op)
        now = clock.now()
        prepared = [(namespace, self._prepared(ops, before, now)) for namespace, ops in by_namespace.items()]
        for namespace, (indexed, others, removed) in prepared:
            if indexed:
                self.memory.add(indexed, namespace=namespace)
            if others:
                zeros = np.zeros((len(others), self.memory.dim), dtype=np.float32)
                self.memory.add(others, namespace=namespace, embeddings=zeros, split=False)
            if removed:
                self.memory.remove(removed, namespace=namespace)

    def _prepared(
        self, ops: list[PutOp], before: Mapping[tuple[Namespace, str], StoredItem], now: datetime
    ) -> tuple[list[Any], list[Any], list[str]]:
        """Documents with texts, documents without, and the ids of pieces that go."""
        indexed, others, removed = [], [], []
        for place, op in enumerate(ops):
            old = before.get((tuple(op.namespace), op.key))
            stale = [document_id(op.key)] if old is None else old.ids()
            if op.value is not None:
                moment = now + timedelta(microseconds=place)  # so that the order of a batch is kept
                texts = self._texts(op)
                created = old.created_at if old else moment
                item = StoredItem(
                    tuple(op.namespace), op.key, dict(op.value), created, moment, len(texts), op.ttl
                )
                documents = item.documents(texts, now)
                (indexed if texts else others).extend(documents)
                kept = {document.id for document in documents}
                stale = [name for name in stale if name not in kept]
            elif old is None:
                continue
            removed += stale
        return indexed, others, removed

    def _texts(self, op: PutOp) -> list[str]:
        """The texts of a value that are indexed, each once."""
        if op.index is False or not self._fields or op.value is None:
            return []
        fields = self._fields if op.index is None else op.index
        texts = [text for field in fields for text in texts_at(op.value, field)]
        return list(dict.fromkeys(text for text in texts if text.strip()))

    # -- expiry

    def _refresh(self, items: Iterable[StoredItem]) -> None:
        """Starts the minutes of items that were read anew."""
        if self.memory.read_only:
            return
        now = clock.now()
        for item in items:
            if item.ttl is None:
                continue
            for name in item.ids():
                try:
                    self.memory.update(name, expires_at=item.expires_at(now), namespace=item.namespace)
                except NotFoundError:  # someone else removed it meanwhile
                    break

    def sweep_ttl(self) -> int:
        """Erases what has expired in the memory; returns how many items that were."""
        return sum(is_first(name) for _, name in self.memory.sweep().removed)

    def start_ttl_sweeper(self, sweep_interval_minutes: float | None = None) -> None:
        """Sweeps every so often in a thread of its own, until `stop_ttl_sweeper` or `close`.

        Args:
            sweep_interval_minutes: Five, or what the `TTLConfig` says, when left out.
        """
        configured = (self.ttl_config or {}).get("sweep_interval_minutes")
        self._sweeper.start(60 * (sweep_interval_minutes or configured or 5))

    def stop_ttl_sweeper(self, timeout: float | None = None) -> bool:
        """Stops the sweeper; False when it was still at work after `timeout` seconds."""
        return self._sweeper.stop(timeout)


def _fits(namespace: Namespace, condition: MatchCondition) -> bool:
    """Whether a namespace begins or ends with a path, in which "*" stands for any one part."""
    path = tuple(condition.path)
    if condition.match_type not in ("prefix", "suffix"):
        raise InvalidInputError(f"match_type is 'prefix' or 'suffix', got {condition.match_type!r}")
    if len(namespace) < len(path):
        return False
    parts = namespace[: len(path)] if condition.match_type == "prefix" else namespace[-len(path) or None :]
    return all(wanted in ("*", part) for part, wanted in zip(parts, path, strict=False))
