"""What others store, as records of `MemoryIndex.import_records`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from mllm_plugin.errors import InvalidInputError

Record = dict[str, Any]

_ID = ("id", "_id", "id_")
_TEXT = ("text", "page_content", "content", "document")
_VECTOR = ("embedding", "vector")
_KNOWN = {*_ID, *_TEXT, *_VECTOR, "metadata", "labels", "masks", "namespace", "split", "chunks", "encoder"}


def to_record(item: Any, where: str) -> Record:
    """Returns a record; vectors become the one chunk of a document that is not split.

    Args:
        item: A record of `MemoryIndex.export`, or an object with an id (`id`, `_id`, `id_`), a text (`text`,
            `page_content`, `content`, `document`) and perhaps an `embedding` or `vector`, `metadata`,
            `labels`, `namespace`. Other entries become metadata.
        where: Place to name in errors.

    Raises:
        InvalidInputError: It has no id or no text, or a field has the wrong type.
    """
    if not isinstance(item, Mapping):
        raise InvalidInputError(
            f"{where}: expected an object with 'id' and 'text', got {type(item).__name__}"
        )
    text = _first(item, _TEXT)
    if not isinstance(text, str) or not text.strip():
        raise InvalidInputError(f"{where}: 'text' must be a string with something in it, got {_shown(text)}")
    identifier = _first(item, _ID)
    if not isinstance(identifier, str | int) or isinstance(identifier, bool) or identifier == "":
        raise InvalidInputError(f"{where}: 'id' must be a non-empty string, got {_shown(identifier)}")
    record: Record = {
        "id": str(identifier),
        "text": text,
        "metadata": _metadata(item, where),
        "namespace": _strings(item, "namespace", where),
        "labels": _strings(item, "labels", where),
        "masks": _strings(item, "masks", where),
        "split": bool(item.get("split", True)),
    }
    if item.get("chunks"):
        return record | {"chunks": item["chunks"], "encoder": item.get("encoder")}
    vector = _first(item, _VECTOR)
    return record if vector is None else with_vector(record, vector)


def with_vector(record: Record, vector: Sequence[float]) -> Record:
    """Returns the record as one chunk that is never cut, with its vector."""
    return record | {
        "split": False,
        "chunks": [{"start": 0, "end": len(record["text"]), "embedding": vector}],
    }


def vector_width(record: Record) -> int | None:
    """Returns the dimension of a record's vectors, None when it has none."""
    chunks = record.get("chunks")
    return len(chunks[0]["embedding"]) if chunks else None


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
        if record.get("chunks") and record.get("encoder") is None:
            if encoder is None:
                raise InvalidInputError(
                    f"document {record['id']!r} has a vector, but nobody says which encoder made it"
                )
            record = record | {"encoder": encoder}
        yield record | {"namespace": [*namespace, *record.get("namespace", ())]}


def _metadata(item: Mapping[str, Any], where: str) -> dict[str, Any]:
    metadata = item.get("metadata") or {}
    if not isinstance(metadata, Mapping):
        raise InvalidInputError(f"{where}: 'metadata' must be an object, got {_shown(metadata)}")
    return {name: value for name, value in item.items() if name not in _KNOWN} | dict(metadata)


def _strings(item: Mapping[str, Any], name: str, where: str) -> list[str]:
    value = item.get(name) or []
    value = [value] if isinstance(value, str) else value
    if not isinstance(value, list | tuple) or not all(isinstance(one, str) for one in value):
        raise InvalidInputError(f"{where}: {name!r} must be a list of strings, got {_shown(value)}")
    return list(value)


def _first(item: Mapping[str, Any], names: Sequence[str]) -> Any:
    return next((item[name] for name in names if item.get(name) is not None), None)


def _shown(value: Any) -> str:
    return f"{str(value)[:60]!r} ({type(value).__name__})"
