"""What calls that change or look after a memory report: plain frozen dataclasses."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

from mllm_plugin.types import Namespace, StoredDocument, ToDict

_COUNTS = ("added", "updated", "unchanged", "chunks", "encoded")


class SkippedDocument(NamedTuple):
    """A document that could not be stored.

    Attributes:
        place: In what was given, from 0.
        id: Of the document.
        reason: Why it cannot be stored.
    """

    place: int
    id: str
    reason: str


@dataclass(frozen=True, slots=True)
class AddReport(ToDict):
    """What `add` did.

    Attributes:
        ids: In the order given.
        added, updated, unchanged: Documents by fate.
        chunks: Written.
        encoded: Texts that the encoder saw.
        skipped: What `on_invalid="skip"` left out.
        erased: False when a file still holds a text that was replaced.
        reason: What could not be done after all was written, and what to do; empty otherwise.
    """

    ids: tuple[str, ...]
    added: int
    updated: int
    unchanged: int
    chunks: int
    encoded: int
    skipped: tuple[SkippedDocument, ...] = ()
    erased: bool = True
    reason: str = ""

    @classmethod
    def of(cls, reports: Iterable[AddReport]) -> AddReport:
        """Several reports as one."""
        parts = list(reports)
        return cls(
            ids=tuple(name for part in parts for name in part.ids),
            **{name: sum(getattr(part, name) for part in parts) for name in _COUNTS},
            skipped=tuple(left for part in parts for left in part.skipped),
            erased=not parts or parts[-1].erased,  # whoever erases completes what was left before
            reason=parts[-1].reason if parts else "",
        )


@dataclass(frozen=True, slots=True)
class UpdateReport(ToDict):
    """What `update` did.

    Attributes:
        document: As it is now.
        changed: False when it was so before; its version is the same then.
        encoded: Texts that the encoder saw.
        erased: False when a file still holds the text that was replaced.
        reason: What could not be done after all was written, and what to do; empty otherwise.
    """

    document: StoredDocument
    changed: bool
    encoded: int = 0
    erased: bool = True
    reason: str = ""


@dataclass(frozen=True, slots=True)
class MaskReport(ToDict):
    """What `mask` or `unmask` did.

    Attributes:
        documents, chunks: How many changed between live and masked.
    """

    documents: int
    chunks: int


@dataclass(frozen=True, slots=True)
class RemoveReport(ToDict):
    """What `remove` did.

    Attributes:
        documents, chunks: How many were removed.
        erased: True only when no file of the memory holds the text or its vectors any more.
        missing: Ids that were not there.
        reason: Why `erased` is False, and what to do; empty otherwise.
        weights: What was trained on a removed document: fingerprints of the memory's trained weights, and
            "adapter:FOLDER" of readers of language models.
        removed: Of `sweep`: namespace and id of each.
    """

    documents: int
    chunks: int
    erased: bool
    missing: tuple[str, ...] = ()
    reason: str = ""
    weights: tuple[str, ...] = ()
    removed: tuple[tuple[Namespace, str], ...] = field(default=(), repr=False)


@dataclass(frozen=True, slots=True)
class LevelStats(ToDict):
    """One level of a tree.

    Attributes:
        level: From 1, the chunks, up.
        embeddings: How many it has.
        groups: That they form under the next level.
        mean_group, max_group: Sizes of these.
    """

    level: int
    embeddings: int
    groups: int
    mean_group: float
    max_group: int


@dataclass(frozen=True, slots=True)
class NamespaceStats(ToDict):
    """Counts of one namespace's tree.

    Attributes:
        namespace: Its path.
        documents, masked_documents, chunks, live_chunks: Counts.
        levels: From the chunks up.
    """

    namespace: Namespace
    documents: int
    masked_documents: int
    chunks: int
    live_chunks: int
    levels: tuple[LevelStats, ...]


@dataclass(frozen=True, slots=True)
class Stats(ToDict):
    """Counts of the whole memory.

    Attributes:
        documents, chunks, live_chunks, masked_documents: Counts.
        encoder: Fingerprint of the encoder.
        dim: Width of the embeddings.
        file_bytes: Size of the file with its log.
        cache_bytes: Size of the embedding cache.
        image_bytes: Size of the search image, which is made and dropped as needed.
        bytes_per_chunk_beyond_text: Size of the file less the texts, per chunk.
        namespaces: One by one.
    """

    documents: int
    chunks: int
    live_chunks: int
    masked_documents: int
    encoder: str
    dim: int
    file_bytes: int
    cache_bytes: int
    image_bytes: int
    bytes_per_chunk_beyond_text: float
    namespaces: tuple[NamespaceStats, ...]


@dataclass(frozen=True, slots=True)
class VerifyReport(ToDict):
    """What `verify` found.

    Attributes:
        ok: True when there are no problems.
        problems: In words.
        checked: How many nodes, chunks and documents were checked.
    """

    ok: bool
    problems: tuple[str, ...]
    checked: dict[str, int]


@dataclass(frozen=True, slots=True)
class CompactReport(ToDict):
    """What `compact` did.

    Attributes:
        bytes_before, bytes_after: Size of the files.
        trees_rebuilt: How many trees were regrouped.
        erased: True when no file holds anything that was removed before.
        reason: Why `erased` is False, and what to do; empty otherwise.
    """

    bytes_before: int
    bytes_after: int
    trees_rebuilt: int
    erased: bool
    reason: str = ""


@dataclass(frozen=True, slots=True)
class RepairReport(ToDict):
    """What `repair` saved of a damaged memory.

    Attributes:
        documents: How many are in the new memory.
        lost: Namespace and id of those that are not.
        encoded: Texts that were embedded anew, since their vectors are lost.
        pages: How many pages of the file did not check out.
        notes: What else is not as it was, in words.
    """

    documents: int
    lost: tuple[tuple[Namespace, str], ...]
    encoded: int
    pages: int
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class InstallReport(ToDict):
    """What `install` did.

    Attributes:
        fingerprint: Of the hierarchy in place now.
        replaced: Of the one before; the same when nothing was done.
        nodes: How many were folded anew.
        seconds: It took.
        erased: False when a file still holds the weights before.
        reason: Why `erased` is False, and what to do; empty otherwise.
    """

    fingerprint: str
    replaced: str
    nodes: int
    seconds: float
    erased: bool = True
    reason: str = ""


@dataclass(frozen=True, slots=True)
class BuildReport(ToDict):
    """What a bulk build did.

    Attributes:
        added, updated, unchanged: Documents by fate.
        chunks: Written.
        encoded: Texts that the encoder saw.
        seconds: It took.
        skipped: What `on_invalid="skip"` left out.
        erased: False when a file still holds a text that was replaced.
        reason: What could not be done after all was written, and what to do; empty otherwise.
    """

    added: int
    updated: int
    unchanged: int
    chunks: int
    encoded: int
    seconds: float
    skipped: tuple[SkippedDocument, ...] = ()
    erased: bool = True
    reason: str = ""

    @classmethod
    def of(cls, reports: Iterable[AddReport], seconds: float) -> BuildReport:
        """Reports of all batches as one."""
        total = AddReport.of(reports)
        counts = {name: getattr(total, name) for name in _COUNTS}
        return cls(**counts, seconds=seconds, skipped=total.skipped, erased=total.erased, reason=total.reason)
