"""A Chroma persistent folder, read by Chroma's own client."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mllm_plugin.extras import needs
from mllm_plugin.transfer.records import Record, to_record
from mllm_plugin.transfer.source import Columns, Source, choose

_BATCH = 500


def read_chroma(folder: Path, columns: Columns) -> Source:
    """Streams a collection: id, document, metadata and embedding of each row.

    Raises:
        MissingDependencyError: chromadb is not installed.
        NotFoundError: There is no such collection.
    """
    with needs("chroma", "a Chroma folder"):
        import chromadb  # pyright: ignore[reportMissingImports]
        from chromadb.config import Settings  # pyright: ignore[reportMissingImports]
    client = chromadb.PersistentClient(str(folder), settings=Settings(anonymized_telemetry=False))
    names = sorted(collection.name for collection in client.list_collections())
    name = choose("Chroma collection", names, columns.collection, "--collection")
    collection = client.get_collection(name, embedding_function=None)
    source = Source(iter(()), hint=_embedding_function(collection))
    source.records = _rows(collection, source.skipped)
    return source


def _rows(collection: Any, skipped: list[str]) -> Iterator[Record]:
    for offset in range(0, collection.count(), _BATCH):
        page = collection.get(include=["embeddings", "documents", "metadatas"], limit=_BATCH, offset=offset)
        rows = zip(page["ids"], page["documents"], page["metadatas"], page["embeddings"], strict=True)
        for identifier, text, metadata, embedding in rows:
            if text and text.strip():
                item = {"id": identifier, "text": text, "metadata": metadata}
                yield to_record(item, f"Chroma row {identifier!r}", embedding.tolist())
            else:
                skipped.append(identifier)


def _embedding_function(collection: Any) -> str:
    """What the collection says; it need not be true: anybody may have passed vectors of another model."""
    function = (collection.configuration_json or {}).get("embedding_function") or {}
    name = function.get("name", "")
    model = (function.get("config") or {}).get("model_name", "")
    if name == "default":
        model = "sentence-transformers/all-MiniLM-L6-v2"
    return (
        f"the collection's embedding function is {name!r}{f', model {model}' if model else ''}"
        if name
        else ""
    )
