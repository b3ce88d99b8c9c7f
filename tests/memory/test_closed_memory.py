"""Every call on a closed memory says so, and leaves nothing behind."""

from __future__ import annotations

import pytest

from mllm_plugin import ClosedError, Document, IndexBuilder, MemoryIndex
from tests.helpers.robustness_tools import KEPT, assert_sound
from tests.helpers.toy import ToyEncoder

NEW = [Document("a late comer", id="late")]
CALLS = {
    "add": lambda memory, _: memory.add(NEW),
    "add-nothing": lambda memory, _: memory.add([]),
    "add-vectors": lambda memory, _: memory.add(NEW, embeddings=[[1.0] * 16]),
    "build": lambda memory, _: IndexBuilder(memory, progress=False).build(NEW),
    "search": lambda memory, _: memory.search("ships"),
    "search-batch": lambda memory, _: memory.search_batch(["ships"]),
    "search-empty-batch": lambda memory, _: memory.search_batch([]),
    "recall": lambda memory, _: memory.recall("ships"),
    "recall-empty-batch": lambda memory, _: memory.recall_batch([]),
    "get": lambda memory, _: memory.get(["fox"]),
    "documents": lambda memory, _: list(memory.documents()),
    "namespaces": lambda memory, _: memory.namespaces(),
    "mask": lambda memory, _: memory.mask(["fox"]),
    "unmask": lambda memory, _: memory.unmask(),
    "remove": lambda memory, _: memory.remove(["fox"]),
    "remove-filter": lambda memory, _: memory.remove(filter={}),
    "stats": lambda memory, _: memory.stats(),
    "verify": lambda memory, _: memory.verify(),
    "compact": lambda memory, _: memory.compact(),
    "regroup": lambda memory, _: memory.regroup(),
    "export": lambda memory, _: list(memory.export()),
    "import": lambda memory, _: memory.import_records([{"id": "a", "text": "b"}]),
    "backup": lambda memory, folder: memory.backup(folder / "backup.db"),
}
ASYNC_CALLS = {
    "aadd": lambda memory: memory.aadd(NEW),
    "asearch": lambda memory: memory.asearch("ships"),
    "asearch-batch": lambda memory: memory.asearch_batch(["ships"]),
    "arecall": lambda memory: memory.arecall("ships"),
    "arecall-batch": lambda memory: memory.arecall_batch(["ships"]),
    "aget": lambda memory: memory.aget(["fox"]),
    "amask": lambda memory: memory.amask(["fox"]),
    "aunmask": lambda memory: memory.aunmask(),
    "aremove": lambda memory: memory.aremove(["fox"]),
}


@pytest.fixture(scope="module")
def closed(tmp_path_factory):
    memory = MemoryIndex.open(tmp_path_factory.mktemp("closed") / "memory", encoder=ToyEncoder())
    memory.add(KEPT)
    memory.close()
    return memory


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_call(closed, tmp_path, call):
    seen = len(closed.encoder.encoded)
    files = sorted(path.name for path in closed.path.rglob("*"))
    with pytest.raises(ClosedError, match=r"is closed; open it again"):
        call(closed, tmp_path)
    assert len(closed.encoder.encoded) == seen
    assert sorted(path.name for path in closed.path.rglob("*")) == files
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("call", ASYNC_CALLS.values(), ids=ASYNC_CALLS)
async def test_async_call(closed, call):
    with pytest.raises(ClosedError, match="is closed"):
        await call(closed)


def test_closing_twice_and_reopening(closed):
    closed.close()
    with MemoryIndex.open(closed.path, encoder=ToyEncoder()) as memory:
        assert_sound(memory, [document.id for document in KEPT])


def test_closing_in_the_middle_of_a_listing(stocked):
    listing, records = stocked.documents(), stocked.export()
    assert next(listing).id == "lighthouse"
    assert next(records)["id"] == "lighthouse"
    stocked.close()
    records.close()
    with MemoryIndex.open(stocked.path, encoder=ToyEncoder()) as memory:
        assert memory.remove(["fox"]).erased
        assert_sound(memory, ["lighthouse", "kettle"])


def test_leaving_the_with_block_by_an_error_closes(tmp_path):
    with pytest.raises(KeyError), MemoryIndex.open(tmp_path / "memory", encoder=ToyEncoder()) as memory:
        raise KeyError("reason")
    with pytest.raises(ClosedError):
        memory.stats()
