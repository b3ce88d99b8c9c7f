"""What a search asks of the file: statements are counted, since time is not to be had in a test."""

from __future__ import annotations

import random
from collections import Counter

import pytest

from mllm_plugin import Document, MemoryIndex
from mllm_plugin.store import database
from tests.helpers.toy import ToyEncoder

_QUERIES = [f"w{number} w{number + 3} w{number % 5}" for number in range(20)]


@pytest.fixture
def statements(monkeypatch) -> Counter:
    """How often each statement was run by a reader."""
    seen, connect = Counter(), database.connect

    def counted(*args):
        connection = connect(*args)
        connection.exec_trace = lambda cursor, sql, bindings: bool(seen.update([sql])) or True
        return connection

    monkeypatch.setattr(database, "connect", counted)
    return seen


@pytest.fixture
def memory(tmp_path, statements):
    with MemoryIndex.open(tmp_path / "memory", encoder=ToyEncoder(), hierarchy="identity") as memory:
        draw = random.Random(0)
        texts = [" ".join(f"w{draw.randrange(40)}" for _ in range(8)) for _ in range(150)]
        memory.add([Document(text, id=f"{number}") for number, text in enumerate(texts)])
        for mode in ("flat", "beam"):  # what is read once stays in memory
            memory.search_batch(_QUERIES, k=150, mode=mode)
        statements.clear()
        yield memory


@pytest.mark.parametrize(("mode", "most"), [("flat", 12), ("beam", 14)])
def test_statements_of_a_search(memory, statements, mode, most):
    assert len(memory.search(_QUERIES[0], k=5, mode=mode)) == 5
    assert statements.total() <= most, statements
    assert max(statements.values()) <= 2, statements
    one = statements.copy()
    statements.clear()
    assert len(memory.search(_QUERIES[0], k=100, mode=mode)) == 100
    assert statements.total() <= one.total() + 1, statements - one


@pytest.mark.parametrize("mode", ["flat", "beam"])
def test_a_batch_asks_for_words_places_and_paths_once(memory, statements, mode):
    memory.search(_QUERIES[0], k=5, mode=mode)
    one = statements.copy()
    statements.clear()
    assert [len(hits) for hits in memory.search_batch(_QUERIES, k=5, mode=mode)] == [5] * len(_QUERIES)
    often = {sql for sql, count in statements.items() if count > one[sql] + 1}
    assert len(often) <= (3 if mode == "beam" else 2), often  # windows and texts, and rare words
