"""LangGraph's `InMemoryStore` as an oracle, and embeddings that tell any two texts apart."""

from __future__ import annotations

import random
import re
from typing import Any

import numpy as np
from langchain_core.embeddings import Embeddings
from langgraph.store.base import GetOp, ListNamespacesOp, MatchCondition, Op, PutOp, SearchOp
from langgraph.store.memory import InMemoryStore

_LEVELS = 500
_SHUFFLED = random.Random(7).sample(range(_LEVELS), _LEVELS)


class ApartEmbeddings(Embeddings):
    """The cosines of any two numbered texts with "east" and "north" differ by more than rounding does."""

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        return [self._of(text) for text in texts]

    def embed_query(self, text: str) -> list[float]:
        return [float(text == "east"), float(text == "north"), 0.0]

    def _of(self, text: str) -> list[float]:
        number = int((re.findall(r"n(\d+)", text) or [len(text)])[0]) % _LEVELS
        east, north = 0.7 * number / _LEVELS, 0.7 * _SHUFFLED[number] / _LEVELS
        return [east, north, float(np.sqrt(1 - east**2 - north**2))]


class Oracle(InMemoryStore):
    """`InMemoryStore` that keeps nothing of what was replaced, and no namespace without items."""

    def batch(self, ops: Any) -> list[Any]:
        wanted = list(ops)
        reads = iter(self._without_traces([op for op in wanted if not isinstance(op, PutOp)]))
        writes = [op for op in wanted if isinstance(op, PutOp)]
        for op in writes:
            self._vectors[op.namespace].pop(op.key, None)
        self._without_traces(writes)
        return [None if isinstance(op, PutOp) else next(reads) for op in wanted]

    def _without_traces(self, ops: list[Op]) -> list[Any]:
        """`InMemoryStore.batch`, which makes a namespace of whatever is asked for and keeps empty ones."""
        results = super().batch(ops)
        self._drop_empty()
        return results

    def _handle_list_namespaces(self, op: ListNamespacesOp) -> list[tuple[str, ...]]:
        self._drop_empty()
        return super()._handle_list_namespaces(op)

    def _drop_empty(self) -> None:
        for name in [name for name, items in self._data.items() if not items]:
            del self._data[name]


class Operations:
    """Random operations on few namespaces and keys, so that they meet."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)
        self._numbers = self._random.sample(range(_LEVELS), _LEVELS)

    def batch(self) -> list[Op]:
        return [self._one() for _ in range(self._random.choice((1, 1, 1, 2, 4)))]

    def _one(self) -> Op:
        return self._random.choice((self._put, self._put, self._put, self._get, self._search, self._list))()

    def _namespace(self) -> tuple[str, ...]:
        return tuple(self._random.choice("abc") for _ in range(self._random.randint(1, 3)))

    def _key(self) -> str:
        return self._random.choice(("k1", "k2", "\x1f1\x1fk1", "ключ"))

    def _put(self) -> PutOp:
        if self._random.random() < 0.2 or len(self._numbers) < 3:
            return PutOp(self._namespace(), self._key(), None)
        index = self._random.choice((None, None, None, False, ["note"], ["text", "more[*]"], ["absent"]))
        return PutOp(self._namespace(), self._key(), self._value(), index)

    def _value(self) -> dict[str, Any]:
        value: dict[str, Any] = {"text": f"n{self._numbers.pop()}", "n": self._random.randint(0, 5)}
        if self._random.random() < 0.5:
            value["more"] = [f"n{self._numbers.pop()}"]
        if self._random.random() < 0.5:
            value |= {"tags": self._random.choice((["a"], ["a", "b"], [], None)), "flag": self._flip()}
        if self._random.random() < 0.5:
            value["deep"] = {"x": self._random.choice((1, "one", None, [1, 2])), "y": {"z": self._flip()}}
        return value

    def _flip(self) -> bool:
        return self._random.random() < 0.5

    def _get(self) -> GetOp:
        return GetOp(self._namespace(), self._key())

    def _search(self) -> SearchOp:
        return SearchOp(
            self._namespace()[: self._random.randint(0, 2)],
            self._filter(),
            self._random.choice((1, 2, 5, 50)),
            self._random.choice((0, 0, 1, 3)),
            self._random.choice((None, "east", "north")),
        )

    def _filter(self) -> dict[str, Any] | None:
        one = (
            {"n": self._random.randint(0, 5)},
            {"n": {self._random.choice(("$gt", "$gte", "$lt", "$lte", "$ne")): self._random.randint(0, 5)}},
            {"n": {"$gte": 1, "$lt": 4}},
            {"tags": self._random.choice((["a"], ["a", "b"], [], None, "a"))},
            {"tags": {self._random.choice(("$eq", "$ne")): self._random.choice((["a"], None, "a"))}},
            {"flag": self._flip()},
            {"deep": {"x": self._random.choice((1, "one", None, [1, 2], 7))}},
            {"deep": {"y": {"z": self._flip()}, "x": {"$ne": 1}}},
            {"more": [{"$ne": "n1"}]},
        )
        some = self._random.sample(one, self._random.randint(0, 2))
        return {key: value for part in some for key, value in part.items()} or None

    def _list(self) -> ListNamespacesOp:
        paths = [tuple(self._random.choice("abc*") for _ in range(self._random.randint(1, 2)))] * self._flip()
        conditions = tuple(MatchCondition(self._random.choice(("prefix", "suffix")), path) for path in paths)
        depth = self._random.choice((None, 1, 2))
        return ListNamespacesOp(conditions, depth, self._random.choice((2, 100)), self._random.choice((0, 1)))
