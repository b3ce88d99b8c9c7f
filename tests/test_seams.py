"""What can be swapped: who inherits a seam writes what is needed; what inherits nothing works too."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest

from mllm_plugin import Document, InvalidTypeError, MemoryConfig, MemoryIndex, TreeConfig
from mllm_plugin.encoders import FrameworkEncoder, as_encoder
from mllm_plugin.hierarchy import CosineRanker, Hierarchy
from mllm_plugin.protocols import Ranker, TextEncoder
from mllm_plugin.text.chunking import word_offsets
from tests.helpers.toy import ToyEncoder

CONFIG = MemoryConfig(tree=TreeConfig(fan_out=4))
DOCUMENTS = [Document(f"fact {place} about thing {place % 7}", id=f"{place}") for place in range(60)]


class Inheriting(TextEncoder):
    """Only what is needed."""

    dim, fingerprint = 16, "toy:16:1"

    def encode_documents(self, texts):
        return ToyEncoder().encode_documents(texts)

    def encode_queries(self, texts):
        return ToyEncoder().encode_queries(texts)


class Duck:
    """Inherits nothing."""

    def __init__(self, dim=16):
        self._toy = ToyEncoder(dim)
        self.dim, self.fingerprint, self.encoded = dim, self._toy.fingerprint, self._toy.encoded

    def encode_documents(self, texts):
        return self._toy.encode_documents(texts)

    def encode_queries(self, texts):
        return self._toy.encode_queries(texts)


class Willing(Duck):
    """Inherits no seam, and has optional members."""

    max_tokens = 3
    anonymous = True

    def token_offsets(self, text):
        return word_offsets(text)

    def encode_query_windows(self, texts):
        return self.encode_queries(texts), self._toy.encode_documents(texts)[1]

    def cannot_read(self, texts):
        return ["é" in text for text in texts]


def found(folder, encoder, **options):
    with MemoryIndex.open(folder, encoder=encoder, config=CONFIG, **options) as memory:
        memory.add(DOCUMENTS)
        assert memory.verify().ok
        return [(hit.text, hit.score) for hit in memory.search("fact 9", mode="beam")]


def test_an_encoder_that_inherits_does_what_one_that_does_not_does(tmp_path):
    assert found(tmp_path / "a", Inheriting()) == found(tmp_path / "b", Duck())


def test_defaults_of_an_encoder():
    encoder = as_encoder(Duck())
    assert isinstance(encoder, TextEncoder)
    assert (encoder.max_tokens, encoder.anonymous) == (None, False)
    assert encoder.token_offsets("a bc").tolist() == word_offsets("a bc").tolist()
    assert [list(spans) for spans in encoder.window_spans(["a", "b"])] == [[], []]
    assert list(encoder.cannot_read(["é"])) == [False]
    pooled, windows = encoder.encode_query_windows(["a b"])
    assert np.array_equal(pooled, ToyEncoder().encode_queries(["a b"]))
    assert windows is None


def test_optional_members_are_used_where_they_are():
    encoder = as_encoder(Willing())
    assert (encoder.max_tokens, encoder.anonymous) == (3, True)
    assert list(encoder.cannot_read(["é", "e"])) == [True, False]
    assert len(encoder.encode_query_windows(["a b c d e"])[1][0]) == 2


def test_members_that_are_no_part_of_the_seam_stay_reachable(tmp_path):
    own = Duck()
    with MemoryIndex.open(tmp_path, encoder=own) as memory:
        memory.add([Document("a fact")])
        assert memory.encoder.encoded is own.encoded
        assert "a fact" in own.encoded
        assert as_encoder(memory.encoder) is memory.encoder


@pytest.mark.parametrize("again", [copy.deepcopy, lambda one: pickle.loads(pickle.dumps(one))])
def test_a_stand_in_is_copied_with_what_it_stands_for(again):
    encoder = again(as_encoder(Duck(8)))
    assert (encoder.dim, encoder.fingerprint, encoder.anonymous) == (8, "toy:8:1", False)


def test_a_second_encoder_without_spans():
    class Embeddings:
        def embed_documents(self, texts):
            return ToyEncoder().encode_documents(texts)[0].tolist()

        def embed_query(self, text):
            return ToyEncoder().encode_queries([text])[0].tolist()

    encoder = FrameworkEncoder(Embeddings(), windows=Duck())
    assert [list(spans) for spans in encoder.window_spans(["a b"])] == [[]]
    assert len(encoder.encode_documents(["a b c d e"])[1][0]) == 2


def test_what_is_no_ranker_is_refused():
    with pytest.raises(InvalidTypeError, match="object is no Ranker; expected an object with score"):
        Hierarchy(rankers={2: object()})
    with pytest.raises(InvalidTypeError, match="int is no LevelEncoder; expected an object with fold"):
        Hierarchy(level_encoders={2: 3})


class Plain:
    def score(self, queries, embeddings):
        return CosineRanker().score(queries, embeddings)


class Inherited(Ranker):
    def score(self, queries, embeddings):
        return CosineRanker().score(queries, embeddings)


class Sloppy(Plain):
    slack = 0.0


def test_a_ranker_inherits_what_it_leaves_out(tmp_path):
    plain, inherited, sloppy = (
        Hierarchy(rankers={2: one()}, fingerprint="own") for one in (Plain, Inherited, Sloppy)
    )
    assert isinstance(plain.ranker(2), Ranker)
    assert plain.ranker(3) is plain.ranker(2)
    assert (plain.ranker(2).path_weight, plain.ranker(2).slack) == (0.0, None)
    assert sloppy.ranker(2).slack == 0.0
    first, second = (
        found(tmp_path / name, ToyEncoder(), hierarchy=one) for name, one in (("a", plain), ("b", inherited))
    )
    assert first == second == found(tmp_path / "c", ToyEncoder(), hierarchy="identity")


def test_the_modules_are_handed_out_as_they_were_given():
    ranker = Plain()
    assert Hierarchy(rankers={2: ranker}).rankers[2] is ranker
    assert issubclass(type(Hierarchy().ranker(1)), Ranker)
