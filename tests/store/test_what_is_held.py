"""What is decoded once and held: embedding chunks, images of namespaces; neither is ever stale."""

from __future__ import annotations

import numpy as np
import pytest

from mllm_plugin import Document, MemoryConfig, MemoryIndex, TreeConfig
from mllm_plugin.config import LexicalConfig
from mllm_plugin.store.decoded import EmbeddingChunkCache, ImageCache, build_image, load_embedding_chunk
from mllm_plugin.text.lexical import QueryTerms, term_hash
from tests.helpers.robustness_tools import some_documents
from tests.helpers.toy import ToyEncoder


@pytest.fixture
def memory(tmp_path):
    config = MemoryConfig(tree=TreeConfig(fan_out=4))
    with MemoryIndex.open(tmp_path, encoder=ToyEncoder(), config=config) as opened:
        opened.add(some_documents(40))
        yield opened


def live_ids(image):
    return sorted(np.concatenate([part.ids[part.live] for part in image.parts]).tolist())


def stored_ids(snapshot, row):
    nodes = [snapshot.children(node) for node in snapshot.lowest_nodes(row.namespace_id)]
    return sorted(np.concatenate([node.ids[node.live > 0] for node in nodes]).tolist())


def test_an_image_after_edits_is_the_image_made_anew(memory):
    image, taken_over = None, 0
    for edit in (lambda: None, lambda: memory.mask("d3"), lambda: memory.remove(["d7", "d8"])):
        edit()
        before = image
        memory.add([Document(f"w1 w2 new{memory.count()}")])
        with memory.snapshot() as snapshot:
            row = snapshot.namespace(())
            image, anew = build_image(snapshot, row, image), build_image(snapshot, row)
            assert live_ids(image) == live_ids(anew) == stored_ids(snapshot, row)
            assert image.version == row.version
        taken_over += before is not None and image.parts[0].vectors is before.parts[0].vectors
    assert taken_over


def test_an_image_scores_words_by_the_entries_of_the_query_alone(memory):
    with memory.snapshot() as snapshot:
        (part,) = build_image(snapshot, snapshot.namespace(())).parts
        (hit,) = memory.search("d17", k=1)
    scores = part.lexical(QueryTerms.of("d17", {term_hash("d17"): 1}, 40, 520), LexicalConfig())
    assert part.ids[np.flatnonzero(scores)].tolist() == [hit.chunk_id]


def test_images_are_held_up_to_a_limit_and_the_one_in_use_is_whole(memory):
    memory.add(some_documents(40), namespace="other")
    images = ImageCache(1)
    with memory.snapshot() as snapshot:
        first, second = snapshot.namespaces()
        held = images.get(snapshot, first)
        assert images.get(snapshot, first) is held
        images.get(snapshot, second)
        assert images.get(snapshot, first) is not held
        assert live_ids(images.get(snapshot, first)) == live_ids(held)


def test_embedding_chunks_are_named_by_the_write_that_changed_them(memory):
    cache = EmbeddingChunkCache(1 << 20)
    with memory.snapshot() as snapshot:
        row = snapshot.namespace(())
        root = (row.root_id, row.root_version)
        before = cache.get(snapshot, *root)
        assert cache.get(snapshot, *root) is before
    memory.mask("d3")
    with memory.snapshot() as snapshot:
        row = snapshot.namespace(())
        after = cache.get(snapshot, row.root_id, row.root_version)
        assert after is not before
        assert after.live.sum() == before.live.sum() - 1
        stored = load_embedding_chunk(snapshot, row.root_id)
        child = int(stored.ids[0])
        assert after.vector(child).tobytes() == stored.vectors[0].tobytes()
