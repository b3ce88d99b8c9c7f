"""Async twins: the same calls in a worker thread."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from mllm_plugin.hierarchy import Hierarchy
from mllm_plugin.memory.edits import Edits
from mllm_plugin.memory.recalls import Recalls
from mllm_plugin.types import (
    AddReport,
    Document,
    Hits,
    InstallReport,
    MaskReport,
    Recall,
    RemoveReport,
    StoredDocument,
)


class AsyncTwins(Edits, Recalls):
    """Each takes the arguments of the call that it is named after."""

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

    async def ainstall(self, hierarchy: str | Path | Hierarchy) -> InstallReport:
        """`install` without blocking the event loop."""
        return await asyncio.to_thread(self.install, hierarchy)

    async def asearch(self, query: Any, **options: Any) -> Hits:
        """`search` without blocking the event loop."""
        return await asyncio.to_thread(self.search, query, **options)

    async def asearch_batch(self, queries: Sequence[Any], **options: Any) -> list[Hits]:
        """`search_batch` without blocking the event loop."""
        return await asyncio.to_thread(self.search_batch, queries, **options)

    async def arecall(self, query: Any, **options: Any) -> Recall:
        """`recall` without blocking the event loop."""
        return await asyncio.to_thread(self.recall, query, **options)

    async def arecall_batch(self, queries: Sequence[Any], **options: Any) -> list[Recall]:
        """`recall_batch` without blocking the event loop."""
        return await asyncio.to_thread(self.recall_batch, queries, **options)

    async def aget(self, ids: Iterable[str] | str, **options: Any) -> list[StoredDocument]:
        """`get` without blocking the event loop."""
        return await asyncio.to_thread(self.get, ids, **options)
