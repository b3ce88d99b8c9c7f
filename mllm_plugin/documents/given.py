"""Documents as callers give them: those of other frameworks as ours, bad ones refused or left out, names that
came already told."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple, get_args

import numpy as np
from numpy.typing import NDArray

from mllm_plugin.errors import InvalidDocumentError, InvalidInputError, InvalidTypeError
from mllm_plugin.reports import SkippedDocument
from mllm_plugin.store.times import given_times
from mllm_plugin.store.values import metadata_json
from mllm_plugin.text.letters import text_flaw
from mllm_plugin.types import Document, OnInvalid, StoredDocument

_RECENT = 1 << 16  # marks that wait to be sorted in
_IDS = ("node_id", "id_", "doc_id")  # of a LlamaIndex node
_INSTEAD = {
    str: "; write Document(text)",
    dict: "; write Document(text=…, id=…, metadata=…)",
    StoredDocument: "; to copy documents of a memory use import_records(other.export())",
}


class Seen:
    """Tells names that come a second time; a name takes 8 bytes, so that streams may be long."""

    def __init__(self) -> None:
        self._recent: set[int] = set()
        self._sorted: NDArray[np.uint64] = np.zeros(0, dtype=np.uint64)

    def again(self, *name: str) -> bool:
        """Notes a name; whether it came before."""
        mark = _mark(name)
        known = mark in self._recent or self._is_sorted_in(mark)
        self._recent.add(mark)
        if len(self._recent) >= _RECENT:
            recent = np.fromiter(self._recent, dtype=np.uint64, count=len(self._recent))
            self._sorted = np.union1d(self._sorted, recent)
            self._recent.clear()
        return known

    def _is_sorted_in(self, mark: int) -> bool:
        place = int(np.searchsorted(self._sorted, np.uint64(mark)))
        return place < len(self._sorted) and int(self._sorted[place]) == mark


class Given(NamedTuple):
    """Documents that can be stored, where each stood in what was given, and those left out."""

    documents: list[Document]
    places: list[int]
    skipped: list[SkippedDocument]


def check_documents(
    documents: Iterable[Any],
    *,
    on_invalid: OnInvalid = "raise",
    first: int = 0,
    seen: Seen | None = None,
) -> Given:
    """Documents that can be stored.

    Args:
        documents: Ours, or LangChain's or LlamaIndex's.
        on_invalid: Whether one that cannot be stored is an error or left out.
        first: Place of the first in what the caller gave.
        seen: The ids that came before in what the caller gave; those of these documents are noted there.

    Raises:
        InvalidTypeError: Something is no document, or a field has the wrong type.
        InvalidDocumentError: Empty text, a lone surrogate, a repeated id, or metadata that is no JSON.
    """
    given, seen = Given([], [], []), Seen() if seen is None else seen
    skip = skips(on_invalid)
    for place, item in enumerate(check_iterable(documents), start=first):
        try:
            document = _as_document(item)
            _check(document)
            if seen.again(document.id):
                raise InvalidDocumentError(f"id {document.id!r} comes twice in one call")
        except (InvalidDocumentError, InvalidTypeError) as error:
            named = SkippedDocument(place, _id_of(item) if _is_document(item) else "", str(error))
            if not skip:
                raise type(error)(describe(named)) from None
            given.skipped.append(named)
            continue
        given.documents.append(document)
        given.places.append(place)
    return given


def check_iterable(documents: Any) -> Iterable[Any]:
    """What can be iterated and is not itself a document or a text.

    Raises:
        InvalidTypeError: It is none.
    """
    if _is_document(documents):
        raise InvalidTypeError("expected a list of documents, got one document; put it in a list")
    if isinstance(documents, str | bytes | Mapping) or not isinstance(documents, Iterable):
        raise InvalidTypeError(f"expected a list of Document, got {type(documents).__name__}")
    return documents


def skips(on_invalid: Any) -> bool:
    """Whether documents that cannot be stored are left out.

    Raises:
        InvalidInputError: It is neither "raise" nor "skip".
    """
    if on_invalid not in get_args(OnInvalid):
        raise InvalidInputError(f"on_invalid must be 'raise' or 'skip', got {on_invalid!r}")
    return on_invalid == "skip"


def describe(skipped: SkippedDocument) -> str:
    """The reason with the document's name and place."""
    name = f"document {skipped.id!r} (item {skipped.place})" if skipped.id else f"item {skipped.place}"
    return f"{name}: {skipped.reason}"


def _as_document(item: Any) -> Document:
    if isinstance(item, Document):
        return item
    if not _is_document(item):
        hint = next((words for kinds, words in _INSTEAD.items() if isinstance(item, kinds)), "")
        kind = f"{type(item).__module__}.{type(item).__qualname__}".removeprefix("builtins.")
        raise InvalidTypeError(f"expected a Document, or one of LangChain or LlamaIndex, got {kind}{hint}")
    fields = {"text": _text_of(item), "metadata": item.metadata}
    return Document(**fields, id=_id_of(item)) if _id_of(item) else Document(**fields)


def _is_document(item: Any) -> bool:
    """Ours, or one with the attributes of LangChain's or LlamaIndex's; neither is imported for it."""
    if isinstance(item, Document):
        return True
    if isinstance(item, type) or not hasattr(item, "metadata"):
        return False
    is_node = any(hasattr(item, name) for name in _IDS)
    return hasattr(item, "page_content") or (
        is_node and (hasattr(item, "get_content") or hasattr(item, "text"))
    )


def _text_of(item: Any) -> Any:
    if hasattr(item, "page_content"):
        return item.page_content
    return item.get_content() if hasattr(item, "get_content") else item.text


def _id_of(item: Any) -> str:
    names = ("id", *_IDS)
    found = next((value for name in names if (value := getattr(item, name, None)) is not None), "")
    return found if isinstance(found, str) else repr(found)


def _check(document: Document) -> None:
    for name in ("text", "id"):
        value = getattr(document, name)
        if not isinstance(value, str):
            raise InvalidTypeError(
                f"text and id must be strings, got a {name} of type {type(value).__name__}"
            )
    labels = document.labels
    if not isinstance(labels, tuple | list) or not all(isinstance(label, str) and label for label in labels):
        raise InvalidTypeError(f"labels must be a tuple of non-empty strings, got {labels!r}")
    if not document.id:
        raise InvalidDocumentError("the id is empty")
    if not document.text.strip():
        raise InvalidDocumentError("the text is empty")
    for name, value in (
        ("id", document.id),
        ("text", document.text),
        *(("label", label) for label in labels),
    ):
        if reason := text_flaw(value):
            raise InvalidDocumentError(f"its {name} {reason}")
    if not isinstance(document.metadata, Mapping):
        raise InvalidDocumentError(f"metadata must be a dict, got {type(document.metadata).__name__}")
    metadata_json(document.metadata)
    given_times(document)


def _mark(name: tuple[str, ...]) -> int:
    digest = hashlib.blake2b(digest_size=8)
    for part in name:
        data = part.encode("utf-8", "surrogatepass")
        digest.update(len(data).to_bytes(8, "little") + data)
    return int.from_bytes(digest.digest(), "little")
