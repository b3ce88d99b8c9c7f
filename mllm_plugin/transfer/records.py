"""What others store, as records of `MemoryIndex.import_records`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from mllm_plugin.errors import InvalidInputError
from mllm_plugin.records import TIMES, Record, validated

_ID = ("id", "_id", "id_")
_TEXT = ("text", "page_content", "content", "document")
_VECTOR = ("embedding", "vector")
_LISTS = ("namespace", "labels", "masks")
_KNOWN = {*_ID, *_TEXT, *_VECTOR, *_LISTS, "metadata", "split", "chunks", "encoder"}
_OF_AN_EXPORT = {"id", "text", "metadata", "split", *_LISTS}  # other products have times of their own meaning
_PAST = {*TIMES, "version"}


def to_record(item: Any, where: str, vector: Sequence[float] | None = None) -> Record:
    """Returns a record; a vector becomes the one chunk of a document that is not split.

    Args:
        item: A record of `MemoryIndex.export`, or an object with an id (`id`, `_id`, `id_`), a text (`text`,
            `page_content`, `content`, `document`) and perhaps an `embedding` or `vector`, `metadata`,
            `labels`, `namespace`. Other entries become metadata.
        where: Place to name in errors.
        vector: The document's, where the item does not hold it.

    Raises:
        InvalidInputError: It has no id or no text, or a field has the wrong type.
    """
    if not isinstance(item, Mapping):
        raise InvalidInputError(
            f"{where}: expected an object with 'id' and 'text', got {type(item).__name__}"
        )
    record = {"id": _first(item, _ID), "text": _first(item, _TEXT), "metadata": _metadata(item)}
    record |= {name: _several(item.get(name)) for name in _LISTS}
    record |= {"split": item.get("split", True), "encoder": item.get("encoder")}
    record |= {name: item[name] for name in _known(item) & _PAST & item.keys()}
    if isinstance(record["id"], int) and not isinstance(record["id"], bool):
        record["id"] = str(record["id"])
    vector = vector if vector is not None else _first(item, _VECTOR)
    if item.get("chunks"):
        record["chunks"] = item["chunks"]
    elif vector is not None:
        end = len(record["text"]) if isinstance(record["text"], str) else 0
        record |= {"split": False, "chunks": [{"start": 0, "end": end, "embedding": vector}]}
    return validated(record, where)


def vector_width(record: Record) -> int | None:
    """Returns the dimension of a record's vectors, None when it has none."""
    return len(record.chunks[0].embedding) if record.chunks else None


def placed(records: Iterable[Record], namespace: tuple[str, ...], encoder: str | None) -> Iterator[Record]:
    """Puts records below a namespace, and names the encoder of vectors that do not say theirs.

    Args:
        records: From `to_record`.
        namespace: Comes before each record's own.
        encoder: Fingerprint of the encoder that made unnamed vectors; None when nobody said so.

    Raises:
        InvalidInputError: A vector's encoder is unknown.
    """
    for record in records:
        made_by = record.encoder if record.encoder is not None or not record.chunks else encoder
        if record.chunks and made_by is None:
            raise InvalidInputError(
                f"document {record.id!r} has a vector, but nobody says which encoder made it"
            )
        yield record.model_copy(
            update={"namespace": (*namespace, *_several(record.namespace)), "encoder": made_by}
        )


def _metadata(item: Mapping[str, Any]) -> Any:
    """The item's own metadata with all that is not known otherwise; as it is where it is no object."""
    metadata = item.get("metadata") or {}
    if not isinstance(metadata, Mapping):
        return metadata
    return {name: value for name, value in item.items() if name not in _known(item)} | dict(metadata)


def _known(item: Mapping[str, Any]) -> set[str]:
    return _KNOWN | _PAST if item.keys() >= _OF_AN_EXPORT else _KNOWN


def _several(value: Any) -> Any:
    return [value] if isinstance(value, str) else value or []


def _first(item: Mapping[str, Any], names: Sequence[str]) -> Any:
    return next((item[name] for name in names if item.get(name) is not None), None)
