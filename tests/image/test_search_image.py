"""The search image: what is derived from the file, on disk and walked."""

from __future__ import annotations

import mmap
import os
import random
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from mllm_plugin import Document, MemoryConfig, MemoryIndex, TreeConfig
from mllm_plugin.config import LexicalConfig
from mllm_plugin.image import (
    ImageFolder,
    Plan,
    SpaceWindows,
    exact_order,
    lexical,
    nearest,
    plain,
    read_delta,
    read_space,
    source,
    tensors,
    walk,
)
from mllm_plugin.image import folder as folder_module
from mllm_plugin.image.kernels import kernels
from mllm_plugin.image.placed import placed
from mllm_plugin.image.source import read_levels
from mllm_plugin.store import snapshot as snapshot_module
from mllm_plugin.store.snapshot import rare_terms
from mllm_plugin.text.lexical import QueryTerms, term_hash
from tests.helpers.file_tools import rows
from tests.helpers.image_tools import all_found, documents
from tests.helpers.toy import ToyEncoder

CONFIG = MemoryConfig(tree=TreeConfig(fan_out=4), level0=False)
_WORDS = [f"word{place}" for place in range(60)]


def open_library(folder) -> MemoryIndex:
    return MemoryIndex.open(folder, encoder=ToyEncoder(), config=CONFIG, hierarchy="identity")


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    with open_library(tmp_path_factory.mktemp("image")) as memory:
        memory.add(documents(300))
        memory.add(documents(20, prefix="other"), namespace="other")
        yield memory


@pytest.fixture
def own_library(library, tmp_path):
    library.backup(tmp_path / "memory.db")
    with open_library(tmp_path) as memory:
        yield memory


@pytest.fixture
def queries():
    return np.random.default_rng(3).normal(size=(5, 2, 16)).astype(np.float32)


def space_of(memory, namespace=()):
    with memory.snapshot() as snapshot:
        return read_space(snapshot, snapshot.namespace(namespace))


def delta_of(memory, space):
    with memory.snapshot() as snapshot:
        return read_delta(snapshot, snapshot.namespace(()), space)


def live_chunks(memory) -> set[int]:
    query = (
        "SELECT chunk_id FROM chunks JOIN documents USING (document_rowid) "
        "WHERE masked = 0 AND namespace_id = (SELECT namespace_id FROM namespaces WHERE path = '')"
    )
    return {chunk for (chunk,) in rows(memory, query)}


def chunks_in(space, live) -> set[int]:
    return set(space.chunk_ids[live[space.nodes :] > 0].tolist())


def test_the_arrays_hold_every_level(library):
    space = space_of(library)
    levels = library.stats().namespaces[0].levels
    assert np.diff(space.bounds).tolist() == [level.embeddings for level in reversed(levels)]
    assert chunks_in(space, space.live) == live_chunks(library)
    assert space.counts(np.ones(len(space.chunk_ids), bool))[: space.bounds[1]].sum() == 300
    assert (space.counts(space.live[space.nodes :] > 0) == space.live).all()


def test_a_walk_that_keeps_everything_finds_what_the_scan_finds(library, queries):
    space = space_of(library)
    wide, scan = (walk(space, queries, Plan(width)) for width in (1000, None))
    for query, one, other in zip(queries, wide, scan, strict=True):
        assert one.best(10).tolist() == other.best(10).tolist()
        vectors = space.halves.astype(np.float32)
        truth = np.argsort(-(vectors @ query.T).max(axis=1), kind="stable")[:5]
        assert set(exact_order(space, query[None], [one.best(20)], 5)[0][0].tolist()) == set(truth.tolist())


def test_a_batch_gives_what_single_queries_give(library, queries):
    space = space_of(library)
    for place, together in enumerate(walk(space, queries, Plan(6))):
        alone = walk(space, queries[place : place + 1], Plan(6))[0]
        assert (alone.chunks == together.chunks).all()
        assert (alone.scores == together.scores).all()
        assert alone.scored == together.scored < len(space.ids)


@pytest.mark.parametrize("width", [1, 6, None])
@pytest.mark.parametrize("mapped", [False, True], ids=["one query", "a query per level"])
@pytest.mark.parametrize("kind", ["compiled", "torch", "streamed"])
def test_all_kernels_agree_to_the_bit(library, queries, monkeypatch, width, mapped, kind):
    space = space_of(library)
    if mapped:
        queries = np.random.default_rng(4).normal(size=(5, len(space.bounds) - 1, 2, 16)).astype(np.float32)
    counts = space.counts(np.arange(len(space.chunk_ids)) % 7 == 0)
    plan = Plan(width, need=9, paths=[0.3] * (len(space.bounds) - 1))
    own = space
    if kind == "compiled":
        pytest.importorskip("numba")
        assert space.kernels is not plain
    else:
        if kind == "streamed":
            leave_room_for(monkeypatch, space, chunks=50)
        own = placed(space, torch.device("cpu"))
        assert own.kernels is tensors
        assert isinstance(own.tree(space.live)[0], tensors.Streamed) == (kind == "streamed")
    found = [all_found(own, queries, plan, chosen) for chosen in (None, counts)]
    monkeypatch.setattr("mllm_plugin.image.space.kernels", lambda: plain)
    assert found == [all_found(space, queries, plan, chosen) for chosen in (None, counts)]


def leave_room_for(monkeypatch, space, chunks):
    """A device that holds the nodes and so many chunks of a space."""
    needed = space.codes[: space.nodes + chunks].nbytes + space.scales.nbytes + space.first.nbytes
    monkeypatch.setattr("mllm_plugin.image.placed._room", lambda device: needed + 2 * space.live.nbytes)


def test_what_has_no_room_on_a_device_is_read_from_the_image(library, queries, monkeypatch):
    """Once for a whole batch, and no more than is compared."""
    space, read = space_of(library), []
    leave_room_for(monkeypatch, space, chunks=50)
    own = placed(space, torch.device("cpu"))
    streamed = own.tree(space.live)[0]

    class Watched(np.ndarray):
        def __getitem__(self, rows):
            found = super().__getitem__(rows)
            read.append(len(found))
            return found

    assert len(streamed._there) == space.nodes + 50
    monkeypatch.setattr(streamed, "_rest", streamed._rest.view(Watched))
    found = walk(own, queries, Plan(3))
    away = {row for one in found for row in one.chunks.tolist() if row >= 50}
    assert away
    assert sum(read) == len(away)
    assert streamed[torch.tensor([0, len(space.ids) - 1])].tolist() == space.codes[[0, -1]].tolist()


def test_a_space_without_room_for_its_nodes_is_walked_where_it_is(library, monkeypatch):
    space = space_of(library)
    leave_room_for(monkeypatch, space, chunks=-1)
    assert placed(space, torch.device("cpu")) is space


def test_the_nearest_are_the_best_that_the_walk_reaches(library, queries, monkeypatch):
    space = space_of(library)
    for width in (5, None):
        plan = Plan(width)
        fused, scored = nearest(space, queries, plan, 7)
        for query, one, found, count in zip(queries, fused, walk(space, queries, plan), scored, strict=True):
            assert one.tolist() == exact_order(space, query[None], [found.best(21)], 7)[0][0].tolist()
            assert found.scored == count
        monkeypatch.setattr(type(space), "checked", False)
        stepwise, counted = nearest(space, queries, plan, 7)
        monkeypatch.undo()
        assert [one.tolist() for one in stepwise] == [one.tolist() for one in fused]
        assert counted.tolist() == scored.tolist()


@pytest.mark.parametrize("compiled", [True, False])
def test_lexical_evidence_is_that_of_the_file(library, monkeypatch, compiled):
    if compiled:
        pytest.importorskip("numba")
    else:
        monkeypatch.setattr("mllm_plugin.image.descent.kernels", lambda: plain)
    space, config = space_of(library), LexicalConfig()
    text = "word3 words3 word7 word7 unheard"
    frequencies = {term_hash(word): 40 + place for place, word in enumerate(_WORDS)}
    query = QueryTerms.of(text, frequencies, 300, 2700)
    order = np.argsort(space.terms.hashes, kind="stable")
    hashes, rows, counts = (
        one[order] for one in (space.terms.hashes, space.terms.rows(), space.terms.counts)
    )
    bounds = [np.searchsorted(hashes, query.hashes, side=side) for side in ("left", "right")]
    found = [(rows[a:b], counts[a:b]) for a, b in zip(*bounds, strict=True)]
    chunks = np.arange(0, 300, 3)
    expected = query.score(found, space.terms.lengths, config)
    assert len(set(expected.tolist())) > 5
    assert lexical(space, query, chunks, config).tolist() == expected[::3].tolist()
    lists, saturation = space.terms.lists, (config.k1, config.b, query.mean_length)
    known = (lists.rows, lists.counts, *lists.bounds(query.hashes), space.terms.lengths)
    weigh = (kernels() if compiled else plain).weigh_lists
    assert weigh(*known, query.terms, query.weights, saturation).tolist() == expected.tolist()


def test_a_filter_widens_the_beam_until_enough_is_held(library, queries):
    space = space_of(library)
    chosen = np.arange(len(space.chunk_ids)) % 60 == 0
    for found in walk(space, queries, Plan(1, need=5), space.counts(chosen)):
        assert len(found.chunks) == 5
        assert chosen[found.chunks].all()


def test_what_was_written_since_joins_the_arrays(own_library):
    library = own_library
    space = space_of(library)
    library.add(documents(5, seed=1, prefix="later"))
    library.mask(["d3", "d4"])
    library.remove([f"d{place}" for place in range(10, 16)])
    delta = delta_of(library, space)
    old, new = chunks_in(space, delta.live), chunks_in(delta.added, delta.added.live)
    assert not old & new
    assert old | new == live_chunks(library)
    assert len(old) > 100
    assert (space.counts(delta.live[space.nodes :] > 0) == delta.live).all()


def test_a_tiny_memory_grows(library, tmp_path):
    with MemoryIndex.open(tmp_path / "tiny", encoder=ToyEncoder(), config=CONFIG) as memory:
        memory.add(documents(3))
        space = space_of(memory)
        assert len(space.bounds) == 2
        assert len(walk(space, np.ones((1, 1, 16), np.float32), Plan(4))[0].chunks) == 3
        memory.add(documents(30, prefix="more"))
        delta = delta_of(memory, space)
        assert chunks_in(space, delta.live) | chunks_in(delta.added, delta.added.live) == live_chunks(memory)


def test_a_generation_gives_what_memory_gives(library, queries, tmp_path):
    spaces = {7: space_of(library), 9: space_of(library, ("other",))}
    folder = ImageFolder(tmp_path / "image")
    assert folder.space(7, "one") is None
    assert folder.publish(spaces.items(), folder.epoch(), "another")
    assert folder.publish(spaces.items(), folder.epoch(), "one")
    assert len(list((tmp_path / "image").glob("*.image"))) == 1
    assert ImageFolder(tmp_path / "image").space(7, "another") is None
    for namespace_id, space in spaces.items():
        mapped = folder.space(namespace_id, "one")
        for one, other in zip(walk(mapped, queries, Plan(6)), walk(space, queries, Plan(6)), strict=True):
            assert (one.chunks == other.chunks).all()
            assert (one.scores == other.scores).all()
            assert (mapped.vectors(one.chunks) == space.vectors(other.chunks)).all()
        assert not mapped.checked
    assert folder.check_all()
    assert folder.space(7, "one").checked
    other = ImageFolder(tmp_path / "image")
    assert other.space(7, "one") is not None
    assert folder.forget()
    assert not other.check_all()  # of what was removed


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="looks at open files as Linux shows them")
def test_a_large_file_is_gone_at_once_and_freed_soon(library, tmp_path, monkeypatch):
    monkeypatch.setattr(folder_module, "_LARGE", 1000)
    folder = ImageFolder(tmp_path / "image")
    assert folder.publish([(1, space_of(library))], folder.epoch(), "one")
    [path] = (tmp_path / "image").glob("*.image")
    assert folder.forget()
    assert not path.exists()
    until = time.monotonic() + 10
    while held_open(path) and time.monotonic() < until:
        time.sleep(0.01)
    assert not held_open(path)


def test_a_large_file_is_freed_at_once_where_no_thread_is_to_be_had(library, tmp_path, monkeypatch):
    def none(_):
        raise RuntimeError("can't create new thread at interpreter shutdown")

    monkeypatch.setattr(folder_module, "_LARGE", 1000)
    folder = ImageFolder(tmp_path / "image")
    assert folder.publish([(1, space_of(library))], folder.epoch(), "one")
    [path] = (tmp_path / "image").glob("*.image")
    monkeypatch.setattr(folder_module.threading.Timer, "start", none)
    assert folder.forget()
    assert not path.exists()
    if Path("/proc/self/fd").is_dir():
        assert not held_open(path)


def held_open(path: Path) -> bool:
    """Whether this process has a file open that may have been removed."""
    names = []
    for one in Path("/proc/self/fd").iterdir():
        with suppress(OSError):
            names.append(os.readlink(one))
    return any(name.startswith(str(path)) for name in names)


def test_nothing_forgotten_comes_back(library, tmp_path):
    folder, other = (ImageFolder(tmp_path / "image") for _ in range(2))
    epoch, spaces = folder.epoch(), [(1, space_of(library))]
    assert folder.forget()
    assert not folder.publish(spaces, epoch, "one")  # read before anything was there to forget
    epoch = folder.epoch()
    folder.publish(spaces, epoch, "one")
    assert other.space(1, "one") is not None
    assert folder.forget()
    assert other.space(1, "one") is None
    assert not list((tmp_path / "image").glob("*.image*"))
    assert not folder.publish(spaces, epoch, "one")  # read before it was forgotten
    assert folder.space(1, "one") is None
    assert not list((tmp_path / "image").glob("*.image*"))
    assert folder.publish(spaces, folder.epoch(), "one")


def test_a_damaged_image_is_dropped_and_never_answers_wrong(library, queries, tmp_path):
    folder, space = tmp_path / "image", space_of(library)
    truth = _answers(space, queries)
    rng, dropped = random.Random(0), 0
    for _ in range(120):
        image = ImageFolder(folder)
        image.publish([(1, space)], image.epoch(), "one")
        path = next(folder.glob("*.image"))
        data = bytearray(path.read_bytes())
        if rng.random() < 0.2:
            data = data[: rng.randrange(len(data))]
        else:
            data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        path.write_bytes(data)
        found = ImageFolder(folder).walked(1, "one", lambda mapped: _answers(mapped, queries))
        dropped += found is None
        assert found is None or found == truth
        assert (found is None) == (not path.exists())
    assert dropped > 100


def _answers(space, queries):
    found = walk(space, queries, Plan(6))
    best = [space.vectors(one.best(5)).tolist() for one in found]
    return best, [(one.chunks.tolist(), one.scores.tolist()) for one in found]


@pytest.mark.parametrize("compiled", [True, False])
def test_windows_and_embeddings_are_those_of_the_file(tmp_path, monkeypatch, compiled):
    if compiled:
        pytest.importorskip("numba")
    else:
        for user in ("descent", "space"):
            monkeypatch.setattr(f"mllm_plugin.image.{user}.kernels", lambda: plain)
    with MemoryIndex.open(tmp_path, encoder=ToyEncoder(), hierarchy="identity") as memory:
        memory.add(documents(40))
        memory.add([Document("one vector", id="bare")], embeddings=[np.ones(16)], split=False)
        with memory.snapshot() as snapshot:
            row = snapshot.namespace(())
            space = read_levels(snapshot, row).space()
            chunks = np.random.default_rng(0).permutation(len(space.chunk_ids))[:35]
            stored = snapshot.windows(space.chunk_ids[chunks])
            probes = np.random.default_rng(1).normal(size=(3, 16)).astype(np.float32)
            mine = SpaceWindows(space, chunks)
            assert mine.sizes.tolist() == stored.sizes.tolist()
            assert mine.best(probes).tolist() == stored.best(probes).tolist()
            assert space.vectors(chunks).dtype == np.float32
            assert (space.vectors(chunks) == space.halves[chunks].astype(np.float32)).all()


def test_many_windows_lie_in_a_file_without_a_name_until_they_are_written(tmp_path, monkeypatch):
    aside = tmp_path / "aside"
    aside.mkdir()
    with MemoryIndex.open(tmp_path / "memory", encoder=ToyEncoder(), hierarchy="identity") as memory:
        memory.add(documents(40))
        with memory.snapshot() as snapshot:
            row = snapshot.namespace(())
            held = read_levels(snapshot, row).windows
            monkeypatch.setattr(source, "_IN_MEMORY", 100)
            mapped = read_levels(snapshot, row, aside=aside).windows
            assert read_levels(snapshot, row, windows=False).windows is None
            steps = iter([True] * 6)
            assert read_levels(snapshot, row, lambda: next(steps, False), aside=aside) is None  # broken off
    assert not any(aside.iterdir())
    assert isinstance(source_of(held.codes), bytes)
    assert isinstance(source_of(mapped.codes), mmap.mmap)
    assert len(held.codes) == held.sizes.sum() > 40
    for name in ("codes", "scales", "sizes"):
        assert np.array_equal(getattr(mapped, name), getattr(held, name))


def source_of(array):
    """What an array's bytes lie in."""
    while isinstance(array, np.ndarray):
        array = array.base
    return array.obj if isinstance(array, memoryview) else array


def test_terms_are_as_frequent_as_in_the_file(tmp_path, monkeypatch):
    monkeypatch.setattr(snapshot_module, "_TERMS_AT_ONCE", 7)
    with open_library(tmp_path) as memory:
        memory.add(documents(60))
        memory.mask("d3")
        with memory.snapshot() as snapshot:
            row = snapshot.namespace(())
            space = read_levels(snapshot, row).space()
            asked = {term_hash(word) for word in (*_WORDS, "nowhere", "")}
            expected = snapshot.frequencies(row, asked)
    assert space.frequencies_of(asked) == expected
    assert len(expected) > 10
    assert space.frequencies_of(set()) == {}
    without = replace(space, vocabulary=space.vocabulary[:0], frequencies=space.frequencies[:0])
    assert without.frequencies_of(asked) == {}


def test_rare_words_lead_to_the_chunks_that_have_them(library):
    with library.snapshot() as snapshot:
        row = snapshot.namespace(())
        space = read_levels(snapshot, row).space()
        known = snapshot.frequencies(row, [term_hash(word) for word in ("word3", "word7", "nowhere")])
        rare, expected = rare_terms(known), [chunk for chunk, _ in snapshot.routed_chunks(row, known)]
    assert len(rare) == 2
    assert sorted(space.chunk_ids[space.routed(rare, 512)].tolist()) == expected
    first = space.routed(rare, rare[0][0])
    assert len(first) == rare[0][0]
