"""Adding, removing, masking."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from mllm_plugin.errors import NotFoundError
from mllm_plugin.hierarchy import Hierarchy
from mllm_plugin.memory.arguments import filter_of, ids_of, label_of, seconds
from mllm_plugin.memory.choice import choose_hierarchy
from mllm_plugin.memory.parts import MemoryParts
from mllm_plugin.store.documents import (
    add_masks,
    check_selection,
    drop_masks,
    masked_documents,
    select_documents,
)
from mllm_plugin.store.hierarchies import save_hierarchy, stored_fingerprint, weights_that_saw
from mllm_plugin.store.namespaces import NamespaceRow, check_namespace, find_namespace, namespaces_below
from mllm_plugin.types import (
    AddReport,
    Document,
    InstallReport,
    MaskReport,
    Namespace,
    OnInvalid,
    RemoveReport,
)


class Edits(MemoryParts):
    """Calls that write; each is one transaction."""

    def add(
        self,
        documents: Iterable[Document],
        *,
        namespace: Namespace | str = (),
        embeddings: Sequence[Any] | None = None,
        split: bool = True,
        on_invalid: OnInvalid = "raise",
    ) -> AddReport:
        """Adds documents, or replaces those whose id is there; unchanged text is not encoded again.

        Args:
            documents: Their ids must differ from each other; those of LangChain and LlamaIndex are taken too.
            namespace: Where they go; a plain string is a one-part namespace.
            embeddings: One vector [dim] per document, which is then one chunk; saves the encoder call.
            split: False keeps each document as one chunk that is never cut.
            on_invalid: "skip" leaves out documents that cannot be stored and names them in the report.

        Raises:
            InvalidDocumentError: A document cannot be stored; nothing was added.
            DimensionMismatchError: An embedding has another width than the memory.
        """
        return self._add(documents, namespace, embeddings=embeddings, split=split, on_invalid=on_invalid)

    def add_provisionally(
        self,
        documents: Iterable[Document],
        *,
        namespace: Namespace | str = (),
        split: bool = True,
        on_invalid: OnInvalid = "raise",
        first: int = 0,
    ) -> AddReport:
        """`add` for bulk builds: places whole groups quickly; `regroup` should follow.

        Args:
            documents, namespace, split, on_invalid: As for `add`.
            first: Place of the first document in all that is built, for messages.
        """
        options = {"split": split, "on_invalid": on_invalid, "first": first}
        return self._add(documents, namespace, provisional=True, **options)

    def _add(self, documents: Iterable[Document], namespace: Namespace | str, **options: Any) -> AddReport:
        report = self._ingest.add(documents, check_namespace(namespace), **options)
        if report.updated:
            self._erase(wait=0.0)  # the old text; what a reader holds goes with the next call that erases
        return report

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
        where, names, wait = check_namespace(namespace), ids_of(ids), seconds("wait", wait)
        selection = {"ids": names, "condition": filter_of(filter), "label": label and label_of(label)}
        check_selection(**selection)
        removed = chunks = 0
        seen_by: tuple[str, ...] = ()
        missing = tuple(dict.fromkeys(names or ()))
        with self._database.write() as tx:
            row = find_namespace(tx, where)
            if row is not None:
                rowids, missing = select_documents(tx, row.namespace_id, **selection)
                removed = len(rowids)
                if rowids:
                    seen_by = weights_that_saw(tx, where, rowids)
                    writer = self._writer(tx, row)
                    chunks = writer.remove(rowids)
                    writer.finish()
        erased, reason = self._erase(wait)
        return RemoveReport(removed, chunks, erased, missing, reason, seen_by)

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
            label: Name of this mask, for `unmask(label=…)`; with neither ids nor filter, the documents that
                carry the label are masked.
            namespace: Where they are.

        Raises:
            NotFoundError: An id is not there; nothing was masked.
        """
        where, names, label = check_namespace(namespace), ids_of(ids), label_of(label)
        tagged = label if names is None and filter is None else None
        selection = {"ids": names, "condition": filter_of(filter), "label": tagged}
        check_selection(**selection)
        with self._database.write() as tx:
            row = find_namespace(tx, where)
            turned = add_masks(tx, self._select(tx, row, where, **selection), label)
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
        where, names = check_namespace(namespace), ids_of(ids)
        label = None if label is None else label_of(label)
        condition = filter_of(filter)
        with self._database.write() as tx:
            row = find_namespace(tx, where)
            if names is None and condition is None:
                rowids = masked_documents(tx, row.namespace_id, label) if row is not None else []
            else:
                rowids = self._select(tx, row, where, ids=names, condition=condition, label=None)
            return self._turn(tx, row, drop_masks(tx, rowids, label), masked=False)

    def install(self, hierarchy: str | Path | Hierarchy) -> InstallReport:
        """Puts another hierarchy in place: copies its weights into the memory and folds every node anew.

        All of it is one transaction; searches see the old hierarchy until it is done.

        Args:
            hierarchy: A folder with trained weights, "default" for the ones that come with the package,
                "identity" for none, or a `Hierarchy`.

        Raises:
            EncoderMismatchError: The weights were trained for another encoder.
            NotFoundError: The folder holds no weights.
            InvalidInputError: They are damaged, or do not fit the memory's embeddings; nothing was changed.
        """
        self._database.check_writable()
        chosen = choose_hierarchy(hierarchy, self.encoder.fingerprint, self.config.leaf, dim=self.dim)
        started, nodes = time.perf_counter(), 0
        with self._database.write() as tx:
            before = stored_fingerprint(tx)
            if before != chosen.fingerprint:
                save_hierarchy(tx, chosen)
                self._hierarchies.announce(chosen)
                for row in namespaces_below(tx, ()):
                    nodes += self._refold(tx, row)
        if before != chosen.fingerprint:
            self._erase(wait=0.0)  # the weights before may have seen what was removed since
        return InstallReport(chosen.fingerprint, before, nodes, time.perf_counter() - started)

    def _refold(self, tx: Any, row: NamespaceRow) -> int:
        writer = self._writer(tx, row)
        nodes = writer.refold()
        writer.finish()
        return nodes

    def _select(
        self,
        tx: Any,
        row: NamespaceRow | None,
        namespace: Namespace,
        *,
        ids: list[str] | None,
        condition: Mapping[str, Any] | None,
        label: str | None,
    ) -> list[int]:
        if row is None:
            rowids, missing = [], tuple(ids or ())
        else:
            rowids, missing = select_documents(
                tx, row.namespace_id, ids=ids, condition=condition, label=label
            )
        if missing:
            raise NotFoundError(f"no document {', '.join(map(repr, missing))} in namespace {namespace!r}")
        return rowids

    def _turn(self, tx: Any, row: NamespaceRow | None, rowids: list[int], *, masked: bool) -> MaskReport:
        if row is None or not rowids:
            return MaskReport(0, 0)
        writer = self._writer(tx, row)
        chunks = writer.set_masked(rowids, masked)
        writer.finish()
        return MaskReport(len(rowids), chunks)
