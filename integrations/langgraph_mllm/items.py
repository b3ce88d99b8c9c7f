"""Items of a store as documents of a memory.

An item is one document per indexed text, its pieces, so that each has an embedding of its own. Every piece
has the item's value in its metadata, for filters; the first has the item's key as its id. An item that is
not indexed is one document with a label, a vector of zeros and no words.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from langgraph.store.base import Item, SearchItem

from mllm_plugin import Document, Hit
from mllm_plugin.types import Namespace, StoredDocument

VALUE, ABOUT = "value", "langgraph"  # keys of the metadata: what the caller stored, and what the store knows
UNINDEXED = "langgraph:unindexed"
_NO_TEXT = "-"
_MARK = "\x1f"


def document_id(key: str, piece: int = 0) -> str:
    """The id of a piece; no two pieces of any two keys have the same."""
    plain = piece == 0 and key and not key.startswith(_MARK)
    return key if plain else f"{_MARK}{piece}{_MARK}{key}"


def is_first(name: str) -> bool:
    """Whether an id is that of an item's first piece."""
    return not name.startswith(_MARK) or name.startswith(f"{_MARK}0{_MARK}")


@dataclass(frozen=True)
class StoredItem:
    """An item as it is stored.

    Attributes:
        pieces: How many of its texts are indexed.
        ttl: Minutes from the last read or write until it expires; None for never.
    """

    namespace: Namespace
    key: str
    value: dict[str, Any]
    created_at: datetime
    updated_at: datetime
    pieces: int
    ttl: float | None

    def ids(self) -> list[str]:
        """Of its documents."""
        return [document_id(self.key, piece) for piece in range(max(1, self.pieces))]

    def expires_at(self, now: datetime) -> datetime | None:
        """When it expires if it is read now."""
        return None if self.ttl is None else now + timedelta(minutes=self.ttl)

    def documents(self, texts: Sequence[str], now: datetime) -> list[Document]:
        """The documents that hold it, one for each text that is indexed."""
        about = {
            "key": self.key,
            "created_at": self.created_at.isoformat(),
            "updated_at": self.updated_at.isoformat(),
            "pieces": self.pieces,
            "ttl": self.ttl,
        }
        return [
            Document(
                text=text,
                id=document_id(self.key, piece),
                metadata={VALUE: self.value, ABOUT: about | {"piece": piece}},
                labels=() if texts else (UNINDEXED,),
                expires_at=self.expires_at(now),
            )
            for piece, text in enumerate(texts or [_NO_TEXT])
        ]

    def item(self) -> Item:
        """As `get` returns it."""
        return Item(**self._fields())

    def found(self, score: float | None = None) -> SearchItem:
        """As `search` returns it."""
        return SearchItem(**self._fields(), score=score)

    def _fields(self) -> dict[str, Any]:
        names = ("namespace", "key", "value", "created_at", "updated_at")
        return {name: getattr(self, name) for name in names}


def stored_item(document: StoredDocument | Hit) -> StoredItem | None:
    """The item that a document is a piece of; None where a store did not write it."""
    about, value = document.metadata.get(ABOUT), document.metadata.get(VALUE)
    if not isinstance(about, Mapping) or not isinstance(value, dict) or "pieces" not in about:
        return None
    return StoredItem(
        namespace=document.namespace,
        key=about["key"],
        value=value,
        created_at=datetime.fromisoformat(about["created_at"]),
        updated_at=datetime.fromisoformat(about["updated_at"]),
        pieces=about["pieces"],
        ttl=about["ttl"],
    )
