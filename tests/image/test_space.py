"""The arrays of a namespace, in memory and in a mapped file that tells when it is damaged."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from mllm_plugin.image import generation as generation_module
from mllm_plugin.image.descent import SpaceWindows
from mllm_plugin.image.generation import DamagedImageError, Generation, write_generation
from mllm_plugin.image.space import Level, arrange, quantise, with_rare_terms, with_windows
from mllm_plugin.store.codec import Windows
from mllm_plugin.text.lexical import TermCounts, term_hash

DIM = 16
TEXTS = ["red", "red blue", "blue", "green", "red"]


def level(ids, live, sizes=()):
    vectors = np.random.default_rng(len(ids)).normal(size=(len(ids), DIM)).astype(np.float16)
    return Level(np.array(ids), np.array(live), np.array(ids) + 100, vectors, np.array(sizes, np.int64))


@pytest.fixture
def space():
    """Two nodes over five chunks, of which the third is masked; chunk 40 has no window."""
    levels = [level([2, 3], [1, 3], [2, 3]), level([50, 10, 30, 40, 20], [1, 0, 1, 1, 1])]
    found = with_rare_terms(arrange(levels, TermCounts.of(TEXTS), 9), 2)
    sizes = np.array([1, 2, 1, 0, 3])
    codes = np.random.default_rng(1).integers(-127, 128, size=(7, DIM), dtype=np.int8)
    return with_windows(found, Windows(codes, np.full(7, 0.01, np.float32), sizes))


def test_rows_lie_level_by_level_children_side_by_side(space):
    assert (space.nodes, space.lowest) == (2, (0, 2))
    assert space.bounds.tolist() == [0, 2, 7]
    assert space.first.tolist() == [2, 4, 7]
    assert space.chunk_ids.tolist() == [50, 10, 30, 40, 20]
    assert space.versions.tolist() == [102, 103]
    assert space.counts(np.array([True, False, True, False, True])).tolist() == [1, 2, 1, 0, 1, 0, 1]
    assert space.places(np.array([20, 7, 50])).tolist() == [4, 0]


def test_codes_are_the_vectors_to_a_127th_of_their_peak():
    vectors = np.random.default_rng(0).normal(size=(4, 8)).astype(np.float32)
    vectors[2] = 0
    codes, scales = quantise(vectors)
    assert (
        np.abs(codes.astype(np.float32) * scales[:, None] - vectors).max(axis=1) <= scales / 2 + 1e-6
    ).all()
    assert np.abs(codes).max(axis=1).tolist() == [127, 127, 0, 127]


def test_rare_terms_lead_to_their_chunks(space):
    def routed(*words, most=10):
        rare = sorted((TEXTS_WITH[word], term_hash(word)) for word in words)
        return space.chunk_ids[space.routed(rare, most)].tolist()

    assert routed("blue") == [10, 30]
    assert routed("green", "blue") == [10, 30, 40]
    assert routed("green", "blue", most=2) == [40]  # the rarest alone
    assert routed("red") == []  # three chunks have it


TEXTS_WITH = {word: sum(word in text.split() for text in TEXTS) for word in ("red", "blue", "green")}


def test_windows_are_those_of_the_chunks_asked_for(space):
    rows = [4, 5, 6, 1, 2]  # of chunks 4, 3 and 1, of which 3 has none
    asked = Windows(space.window_codes[rows], space.window_scales[rows], np.array([3, 0, 2]))
    probes = np.random.default_rng(2).normal(size=(2, DIM)).astype(np.float32)
    expected = asked.best(probes).tolist()
    none = np.zeros(0, np.int64)
    for found in (
        SpaceWindows(space, np.array([4, 3, 1])),
        SpaceWindows(space, none, asked),
        SpaceWindows(space, np.array([4]), Windows(asked.codes[3:], asked.scales[3:], np.array([0, 2]))),
    ):
        assert found.sizes.tolist() == [3, 0, 2]
        assert found.best(probes).tolist() == expected


@pytest.fixture
def path(space, tmp_path):
    write_generation(tmp_path / "one", "identity", [(3, space), (5, space)])
    return tmp_path / "one"


def test_a_mapped_file_holds_what_was_written(path, space):
    generation = Generation.open(path)
    assert generation.identity == "identity"
    assert generation.space(4) is None
    mapped = generation.space(5)
    assert mapped is not None
    for name in ("bounds", "first", "ids", "live", "codes", "halves", "rare_chunks", "window_codes"):
        assert getattr(mapped, name).tobytes() == getattr(space, name).tobytes(), name
    assert mapped.terms.hashes.tolist() == space.terms.hashes.tolist()
    assert not mapped.checked
    generation.blocks.check_all(lambda: False)
    assert not mapped.checked
    generation.blocks.check_all()
    assert mapped.checked


def test_checking_all_finds_damage_and_a_file_that_is_gone(path, tmp_path):
    generation = Generation.open(path)
    data = bytearray(path.read_bytes())
    data[200] ^= 4
    path.write_bytes(data)
    with pytest.raises(DamagedImageError, match="checksum"):
        generation.blocks.check_all()
    path.unlink()
    with pytest.raises(FileNotFoundError):
        generation.blocks.check_all()
    assert not generation.blocks.complete


@pytest.mark.skipif(sys.platform != "linux", reason="of Linux")
def test_a_file_may_be_larger_than_memory(tmp_path):
    with (tmp_path / "large").open("wb+") as stream:
        stream.truncate(1 << 40)
        mapped = generation_module._mapped(stream.fileno())
        assert len(mapped) == 1 << 40
        assert mapped[-1] == 0
        mapped.close()


@pytest.mark.parametrize("size", [0, 10, -1])
def test_a_file_that_was_cut_is_told(path, size):
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(DamagedImageError):
        Generation.open(path)


def test_a_turned_bit_is_told_when_it_is_touched(path):
    data = bytearray(path.read_bytes())
    data[100] ^= 1
    path.write_bytes(data)
    with pytest.raises(DamagedImageError, match="checksum"):
        Generation.open(path).space(3)
