"""Searches that walk the search image: same scores, nothing that should not be found, and how it is made."""

from __future__ import annotations

import os
import random
import threading
import time
from datetime import timedelta
from types import SimpleNamespace

import numpy as np
import pytest

from mllm_plugin import Document, MemoryIndex, clock
from mllm_plugin.config import MemoryConfig, SearchConfig, TreeConfig
from mllm_plugin.errors import InvalidInputError, StoreBusyError
from mllm_plugin.hierarchy import Hierarchy
from mllm_plugin.hierarchy.base import Ranker
from mllm_plugin.hierarchy.modules import MappedRanker
from mllm_plugin.image import ImageFolder, generation, keeper
from mllm_plugin.image.generation import _Writer
from mllm_plugin.image.keeper import FOLDER_NAME, Images
from mllm_plugin.search import imaged
from mllm_plugin.store.snapshot import Snapshot
from tests.helpers.image_tools import documents
from tests.helpers.toy import ToyEncoder

_TREE = TreeConfig(fan_out=4)
_QUERIES = ["word3 word7", "word41 word5 word9", "word11"]


@pytest.fixture(autouse=True)
def at_once(monkeypatch):
    """Images are made after the first walk that has none."""
    monkeypatch.setattr(keeper, "_PAYS", 1)
    monkeypatch.setattr(keeper, "_REST", 0.0)


@pytest.fixture
def walks(monkeypatch):
    """How many walks went over an image, and how many over the file."""
    counts = {"image": 0, "file": 0}
    real = Images.walked

    def walked(*args):
        found = real(*args)
        counts["file" if found is None else "image"] += 1
        return found

    monkeypatch.setattr(Images, "walked", walked)
    return counts


@pytest.fixture
def begun(monkeypatch) -> threading.Event:
    """Set when an image is being made, which then goes on until it is broken off."""
    begun, real = threading.Event(), keeper.read_levels

    def slow(snapshot, row, go_on, **how):
        begun.set()
        while go_on():
            time.sleep(0.001)
        return real(snapshot, row, go_on, **how)

    monkeypatch.setattr(keeper, "read_levels", slow)
    return begun


def open_memory(folder, *, image_from: int | None = 1, **options) -> MemoryIndex:
    config = MemoryConfig(tree=_TREE, search=SearchConfig(image_from=image_from))
    return MemoryIndex.open(
        folder, encoder=ToyEncoder(), config=config, **{"hierarchy": "identity"} | options
    )


def make_image(memory, namespace=()) -> None:
    """Searches until it is made."""
    memory.search("word1", mode="beam", namespace=namespace)
    memory._handle.images.settle(60)
    assert generations(memory)


def generations(memory) -> list:
    return list((memory.path / "image").glob("*.image"))


def found(memory, query, **options) -> list[tuple[str, float]]:
    return [(hit.document_id, hit.score) for hit in memory.search(query, k=400, **{"mode": "beam"} | options)]


@pytest.fixture
def memory(tmp_path):
    with open_memory(tmp_path / "memory") as memory:
        memory.add(documents(200))
        yield memory


def test_it_finds_what_the_scan_finds_with_the_same_scores(memory, walks):
    make_image(memory)
    walks["image"] = walks["file"] = 0
    for query in _QUERIES:
        assert found(memory, query, beam_width=500) == found(memory, query, mode="exact")
        narrow = dict(found(memory, query, beam_width=4))
        assert narrow.items() <= dict(found(memory, query, mode="exact")).items()
    assert walks == {"image": 6, "file": 0}
    together = memory.search_batch(_QUERIES, k=9, beam_width=3, mode="beam")
    for query, hits in zip(_QUERIES, together, strict=True):
        assert hits == memory.search(query, k=9, beam_width=3, mode="beam")
    assert walks == {"image": 10, "file": 0}


@pytest.mark.parametrize(
    "options",
    [{}, {"filter": {"year": {"$lt": 9}}}, {"unique_documents": True}],
    ids=str,
)
@pytest.mark.parametrize("listed", [True, False])
def test_a_scan_of_it_is_a_scan_of_the_file(tmp_path, walks, options, listed, monkeypatch):
    monkeypatch.setattr(imaged, "_LISTED_FROM", 30 if listed else 10**6)
    with open_memory(tmp_path / "memory") as memory:
        memory.add(documents(200))
        make_image(memory)
        memory.add(Document(f"word{number} word7 of late", id=f"late{number}") for number in range(20))
        memory.mask(["d3", "late4"])
        walks["image"] = walks["file"] = 0
        ours = [memory.search(query, k=9, mode="flat", **options) for query in _QUERIES]
        assert memory.search_batch(_QUERIES, k=9, mode="flat", **options) == ours
        assert walks == {"image": 4, "file": 0}
    with open_memory(tmp_path / "memory", image_from=None) as memory:
        assert [memory.search(query, k=9, mode="flat", **options) for query in _QUERIES] == ours


def test_its_size_is_in_the_statistics(memory):
    assert memory.stats().image_bytes == 0
    make_image(memory)
    assert memory.stats().image_bytes == generations(memory)[0].stat().st_size > 0
    memory.remove(next(iter(memory.documents())).id)
    assert memory.stats().image_bytes == 0


def test_trained_rankers_are_followed(tmp_path, walks):
    rng = np.random.default_rng(0)
    tensors = {
        "map": 0.5 * rng.normal(size=(16, 16)).astype(np.float32),
        "scale": np.array([0.7]),
        "offset": np.array([0.1]),
        "path": np.array([0.4]),
        "slack": np.array([np.inf]),
    }
    hierarchy = Hierarchy(rankers={level: MappedRanker(tensors) for level in (2, 4)})
    with open_memory(tmp_path, hierarchy=hierarchy) as memory:
        memory.add(documents(200))
        before = [memory.search(query, k=10, beam_width=4, mode="beam") for query in _QUERIES]
        make_image(memory)
        walks["image"] = walks["file"] = 0
        after = [memory.search(query, k=10, beam_width=4, mode="beam") for query in _QUERIES]
    assert walks == {"image": 3, "file": 0}
    pairs = [[{hit.chunk_id for hit in hits} for hits in pair] for pair in zip(before, after, strict=True)]
    assert sum(len(one & other) for one, other in pairs) >= 27


class _Own(Ranker):
    def score(self, queries, embeddings):
        return -np.einsum("bmd,nrd->bn", queries, embeddings)


def test_rankers_of_ones_own_are_asked(tmp_path, walks):
    hierarchy = Hierarchy(rankers={2: _Own()})
    with open_memory(tmp_path, hierarchy=hierarchy) as memory:
        memory.add(documents(60))
        assert found(memory, "word3", beam_width=200) == found(memory, "word3", mode="exact")
        memory._handle.images.settle(60)
        assert not generations(memory)
    assert walks == {"image": 0, "file": 0}


@pytest.mark.parametrize("seed", range(4))
def test_random_edits_after_it_was_made(memory, walks, seed, monkeypatch):
    monkeypatch.setattr(keeper, "_TOO_MANY", 1e9)
    make_image(memory)
    monkeypatch.setattr(keeper, "_REST", 1e9)  # what is removed drops it, and it is not made again
    monkeypatch.setattr(Images, "forget", lambda self, wait: True)
    rng = random.Random(seed)
    walks["image"] = walks["file"] = 0
    for step in range(12):
        ids = [document.id for document in memory.documents()]
        action = rng.choice(["add", "remove", "mask", "unmask", "update"])
        if action == "add":
            memory.add(documents(rng.randrange(1, 30), seed=step + 100 * seed, prefix=f"n{step}-"))
        elif action == "remove":
            memory.remove(rng.sample(ids, rng.randrange(1, 12)))
        elif action == "mask":
            memory.mask(rng.sample(ids, rng.randrange(1, 12)), label=rng.choice("ab"))
        elif action == "unmask":
            memory.unmask(label=rng.choice("ab"))
        else:
            memory.add(documents(5, seed=step + 1))
        if rng.random() < 0.3:
            memory.compact(regroup=True)
        for query in _QUERIES:
            options = {"filter": {"year": 1}} if rng.random() < 0.2 else {}
            assert found(memory, query, beam_width=900, **options) == found(
                memory, query, mode="exact", **options
            )
    assert walks == {"image": 36, "file": 0}


def test_filters(memory, walks):
    make_image(memory)
    walks["image"] = walks["file"] = 0
    for condition in ({"year": 3}, {"year": {"$lt": 10}}):
        for query in _QUERIES:
            exact = found(memory, query, mode="exact", filter=condition)
            assert dict(found(memory, query, filter=condition, beam_width=2)).items() <= dict(exact).items()
            assert found(memory, query, filter=condition, beam_width=900) == exact
    assert found(memory, "word3", filter={"year": 99}) == []
    assert len(memory.search("word3", k=10, mode="beam", filter={"year": 3}, beam_width=1)) == 10
    assert walks == {"image": 13, "file": 0}


def test_what_expires_is_not_found(memory, walks, monkeypatch):
    later = clock.now() + timedelta(hours=1)
    memory.add([Document(one.text, id=one.id, expires_at=later) for one in documents(20, prefix="short")])
    make_image(memory)
    assert any(name.startswith("short") for name, _ in found(memory, "word3", beam_width=900))
    monkeypatch.setattr(clock, "now", lambda: later + timedelta(seconds=1))
    walks["image"] = walks["file"] = 0
    with open_memory(memory.path, read_only=True) as reader:
        assert not any(name.startswith("short") for name, _ in found(reader, "word3", beam_width=900))
        assert found(reader, "word3", beam_width=900) == found(reader, "word3", mode="exact")
    assert not any(name.startswith("short") for name, _ in found(memory, "word3", beam_width=900))
    assert found(memory, "word3", beam_width=900) == found(memory, "word3", mode="exact")
    assert walks["image"] == 4


def test_nothing_removed_stays_on_disk(memory):
    with memory.snapshot() as snapshot:
        row = snapshot.namespace(())
        node = next(iter(snapshot.lowest_nodes(row.namespace_id)))
        block = snapshot.children(node)
        [name] = {place.document_id for place in snapshot.places(block.ids[:1].tolist()).values()}
    vector = block.vectors[0, 0].astype("<f2").tobytes()
    make_image(memory)
    assert vector in generations(memory)[0].read_bytes()
    assert memory.remove([name]).erased
    files = [path for path in memory.path.rglob("*") if path.is_file()]
    assert not any(vector in path.read_bytes() for path in files)
    make_image(memory)
    assert vector not in generations(memory)[0].read_bytes()
    memory.add(documents(1, seed=9))  # replaces d0
    assert not generations(memory)


def test_a_removal_breaks_off_what_is_being_made(memory, begun):
    memory.search("word1", mode="beam")
    assert begun.wait(30)
    assert memory.remove(["d1"], wait=5).erased
    assert not generations(memory)


def test_a_removal_breaks_off_what_is_being_written(memory, monkeypatch):
    begun, real = threading.Event(), _Writer._append

    def slow(writer, view):
        begun.set()
        time.sleep(0.05)
        real(writer, view)

    monkeypatch.setattr(generation, "_AT_ONCE", 64)
    monkeypatch.setattr(_Writer, "_append", slow)
    memory.search("word1", mode="beam")
    assert begun.wait(30)
    assert memory.remove(["d1"], wait=5).erased
    assert not generations(memory)
    memory._handle.images.settle(60)
    assert not list((memory.path / FOLDER_NAME).glob("*.image*"))


@pytest.mark.parametrize(("up_to", "free"), [(0, 1 << 40), (60, 1 << 40), (60, 1 << 10)])
def test_windows_are_in_the_image_up_to_a_size_and_where_the_disk_has_room(
    tmp_path, monkeypatch, up_to, free
):
    config = MemoryConfig(search=SearchConfig(image_from=0, image_windows=up_to))
    monkeypatch.setattr(keeper.shutil, "disk_usage", lambda _: SimpleNamespace(free=free))
    with MemoryIndex.open(tmp_path, encoder=ToyEncoder(), hierarchy="identity", config=config) as memory:
        memory.add(documents(60))
        plain = found(memory, "word3", mode="beam", beam_width=900)
        make_image(memory)
        read, windows = [], Snapshot.windows
        monkeypatch.setattr(Snapshot, "windows", lambda self, ids: read.extend(ids) or windows(self, ids))
        assert found(memory, "word3", mode="beam", beam_width=900) == plain
        assert (len(read) == 0) == (up_to > 0 and free > 1 << 20)


def test_terms_are_looked_up_in_the_image_until_something_is_written(memory, monkeypatch):
    make_image(memory)
    asked, look_up = [], Snapshot.frequencies
    monkeypatch.setattr(Snapshot, "frequencies", lambda self, *how: asked.append(1) or look_up(self, *how))
    before = found(memory, "word3 word7")
    assert not asked
    memory.add([Document("word7 at last", id="late")])
    after = found(memory, "word3 word7")
    assert asked
    assert after != before
    assert set(after) <= set(found(memory, "word3 word7", mode="exact"))


def test_one_that_is_published_too_late_is_not_used(memory, monkeypatch):
    real = ImageFolder.publish

    def publish(self, *args):
        other = ImageFolder(self.folder)  # of another process
        assert other.forget()
        return real(self, *args)

    monkeypatch.setattr(ImageFolder, "publish", publish)
    memory.search("word1", mode="beam")
    memory._handle.images.settle(60)
    assert not generations(memory)


def test_a_backup_that_is_put_back_is_not_taken_for_what_the_image_holds(tmp_path, walks):
    with open_memory(tmp_path / "memory") as memory:
        memory.add(documents(60))
        memory.backup(tmp_path / "old.db")
        memory.add(documents(60, seed=5, prefix="first"))
        make_image(memory)
    (tmp_path / "memory" / "memory.db").write_bytes((tmp_path / "old.db").read_bytes())
    with open_memory(tmp_path / "memory") as memory:
        memory.add(documents(60, seed=6, prefix="then"))  # the same numbers of writes and nodes
        for query in _QUERIES:
            assert found(memory, query, beam_width=900) == found(memory, query, mode="exact")
        assert not any(name.startswith("first") for name, _ in found(memory, "word3", beam_width=900))
        memory._handle.images.settle(60)
        walks["image"] = 0
        assert found(memory, "word3", beam_width=900) == found(memory, "word3", mode="exact")
        assert walks["image"] == 1


def test_small_namespaces_and_switched_off_ones_have_none(tmp_path, walks):
    for name, image_from in (("small", 61), ("off", None)):
        with open_memory(tmp_path / name, image_from=image_from) as memory:
            memory.add(documents(60))
            memory.search("word1", mode="beam")
            memory._handle.images.settle(60)
            assert not (memory.path / "image").exists()
    assert walks["image"] == 0


def test_a_search_does_not_wait_and_closing_leaves_no_thread(tmp_path, monkeypatch):
    asked = threading.Event()

    def slow(snapshot, row, go_on, **how):
        asked.set()
        while go_on():
            time.sleep(0.001)

    monkeypatch.setattr(keeper, "read_levels", slow)
    with open_memory(tmp_path) as memory:
        memory.add(documents(60))
        memory.search("word1", mode="beam")
        assert asked.wait(30)
        assert len(memory.search("word1", k=5, mode="beam")) == 5
        memory.add(documents(3, prefix="more"))
        assert any(thread.name == "search image" for thread in threading.enumerate())
    assert not any(thread.name == "search image" for thread in threading.enumerate())


def test_a_damaged_one_is_made_anew(memory, walks):
    make_image(memory)
    [path] = generations(memory)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    memory.close()
    with open_memory(memory.path) as again:
        assert found(again, "word3", beam_width=900) == found(again, "word3", mode="exact")
        again._handle.images.settle(60)
        walks["image"] = 0
        assert found(again, "word3", beam_width=900) == found(again, "word3", mode="exact")
        assert walks["image"] == 1


def test_readers_use_it_and_write_none(memory, walks):
    make_image(memory)
    [path] = generations(memory)
    before = path.read_bytes()
    with open_memory(memory.path, read_only=True) as reader:
        walks["image"] = 0
        assert found(reader, "word3", beam_width=900) == found(memory, "word3", mode="exact")
        assert walks["image"] == 1
        path.write_bytes(before[:-9])
        walks["image"] = 0
    with open_memory(memory.path, read_only=True) as reader:
        assert found(reader, "word3", beam_width=900) == found(memory, "word3", mode="exact")
        reader._handle.images.settle(60)
        assert walks["image"] == 0
        assert path.exists()


def test_a_backup_has_none_and_verify_minds_none(memory, tmp_path):
    make_image(memory)
    (tmp_path / "copy").mkdir()
    memory.backup(tmp_path / "copy" / "memory.db")
    assert [path.name for path in (tmp_path / "copy").iterdir()] == ["memory.db"]
    assert memory.verify().ok
    with open_memory(tmp_path / "copy") as copy:
        assert found(copy, "word3", beam_width=900) == found(memory, "word3", mode="exact")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no forks here")
@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_a_fork_while_it_is_made(memory, begun):
    truth = found(memory, "word3", mode="exact")
    memory.search("word1", mode="beam")
    assert begun.wait(30)
    child = os.fork()
    if not child:
        code = 1
        try:
            code = int(found(memory, "word3", beam_width=900) != truth)
        finally:
            os._exit(code)
    assert os.waitpid(child, 0)[1] == 0
    assert found(memory, "word3", beam_width=900) == truth


def test_a_writer_that_takes_long_does_not_keep_it_from_being_named(memory, walks, monkeypatch):
    real, tries = memory._handle.edit, []

    def edit(wait=None):
        if len(tries) < 3 and threading.current_thread().name == "search image":
            tries.append(wait)
            raise StoreBusyError("another writer")
        return real(wait)

    monkeypatch.setattr(memory._handle, "edit", edit)
    make_image(memory)
    assert len(tries) == 3
    walks["image"] = 0
    memory.search("word3", mode="beam")
    assert walks["image"] == 1


@pytest.mark.parametrize("mode", ["flat", "beam"])
def test_a_search_on_a_device_finds_the_same(memory, monkeypatch, mode):
    """The arrays go there with the first search that uses them, and come back with a removal."""
    monkeypatch.setattr(keeper, "_AT_HAND", ())
    make_image(memory)
    options = {"mode": mode, "k": 9, "beam_width": 5}

    def answers(memory):
        some = {"filter": {"year": {"$lt": 9}}}
        return [memory.search_batch(_QUERIES, **options), memory.search_batch(_QUERIES, **options, **some)]

    def names(answers):
        return {hit.document_id for batch in answers for hits in batch for hit in hits}

    memory.add([Document("word7 of late", id="late")])
    expected = answers(memory)
    with open_memory(memory.path, device="cpu") as there:
        assert answers(there) == expected
        moved = there._handle.images._placed
        assert [type(arrays).__name__ for _, arrays in moved.values()] == ["Placed"]
        best = expected[0][1][0].document_id
        there.mask([best])
        assert best not in names(answers(there))
        there.unmask([best])
        assert answers(there) == expected
        there.remove([best])
        assert not moved
        assert best not in names(answers(there))


def test_a_device_that_is_not_there_is_named(tmp_path):
    with pytest.raises(InvalidInputError, match="device 'nowhere' cannot be used here"):
        open_memory(tmp_path / "memory", device="nowhere")
    assert not list(tmp_path.iterdir())
