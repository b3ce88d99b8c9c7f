"""Documents of LangChain to those of a memory, and back."""

from __future__ import annotations

import datetime
import uuid
from collections.abc import Iterable, Mapping, Sequence
from itertools import repeat
from typing import Any

from langchain_core.documents import Document

import mllm_plugin
from mllm_plugin import Hit, StoredDocument
from mllm_plugin.errors import InvalidInputError, InvalidTypeError

_PATH = "path"


class Route(list[dict[str, Any]]):
    """A hit's path in a document's metadata; like what came with it, it tells of one query only.

    Attributes:
        beside: Keys of the metadata that hold for the same query.
    """

    beside: tuple[str, ...] = ()


def found_document(hit: Hit, *, namespace: bool = False, path: bool = False) -> Document:
    """A hit of the retriever; keys that are stored already are kept as stored."""
    found: dict[str, Any] = {"start": hit.start, "end": hit.end}
    if namespace:
        found["namespace"] = list(hit.namespace)
    if path:
        of_query = {"score": hit.score, "relevance": hit.relevance}
        route = Route(step._asdict() for step in hit.path)
        route.beside = tuple(of_query.keys() - hit.metadata.keys())
        found.update(of_query, **{_PATH: route})
    return Document(page_content=hit.text, id=hit.document_id, metadata={**found, **hit.metadata})


def kept_document(kept: Hit | StoredDocument) -> Document:
    """A document as it was handed over."""
    id_ = kept.document_id if isinstance(kept, Hit) else kept.id
    return Document(page_content=kept.text, id=id_, metadata=kept.metadata)


def documents_of(texts: Iterable[str], metadatas: Iterable[dict[str, Any]] | None) -> list[Document]:
    """One document per text.

    Raises:
        InvalidInputError: There are not as many metadatas as texts.
    """
    texts = list(texts)
    pairs = zip(texts, _one_each("metadatas", metadatas, texts, {}), strict=True)
    return [Document(page_content=text, metadata=metadata or {}) for text, metadata in pairs]


def pieces_of(documents: Iterable[Document], ids: Iterable[str | None] | None) -> list[mllm_plugin.Document]:
    """Documents as the memory keeps them; an id is made up where none is given.

    Raises:
        InvalidInputError: There are not as many ids as documents.
        InvalidTypeError: Something is no document of LangChain.
    """
    documents = list(documents)
    return [
        _piece(place, document, given)
        for place, (document, given) in enumerate(
            zip(documents, _one_each("ids", ids, documents, None), strict=True)
        )
    ]


def plain(value: Any) -> Any:
    """Dates and times, in metadata and in filters, as ISO 8601 text, which sorts as they do."""
    if isinstance(value, datetime.datetime) and value.tzinfo is not None:
        return value.astimezone(datetime.timezone.utc).isoformat()
    if isinstance(value, datetime.date | datetime.time):
        return value.isoformat()
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in value.items()}
    return [plain(item) for item in value] if isinstance(value, list | tuple) else value


def _piece(place: int, document: Any, given: str | None) -> mllm_plugin.Document:
    if not isinstance(document, Document):
        raise InvalidTypeError(
            f"item {place}: expected a LangChain Document, got {type(document).__name__}; "
            f"texts go to add_texts"
        )
    id_ = document.id if given is None else given
    return mllm_plugin.Document(
        text=document.page_content,
        id=uuid.uuid4().hex if id_ is None else id_,
        metadata=plain(_without_query(document.metadata)),
    )


def _without_query(metadata: Mapping[str, Any]) -> Mapping[str, Any]:
    """Metadata without what the retriever said of one query, when a document is written back."""
    route = metadata.get(_PATH)
    if not isinstance(route, Route):
        return metadata
    return {key: value for key, value in metadata.items() if key not in (_PATH, *route.beside)}


def _one_each(name: str, values: Iterable[Any] | None, of: Sequence[Any], default: Any) -> Iterable[Any]:
    if values is None:
        return repeat(default, len(of))
    if isinstance(values, str):
        raise InvalidTypeError(f"{name} takes a list, got the string {values!r}")
    values = list(values)
    if len(values) != len(of):
        raise InvalidInputError(f"expected {len(of)} {name}, one for each document, got {len(values)}")
    return values
