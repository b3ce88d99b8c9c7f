"""Random histories against a dictionary with brute-force search; every invariant holds after every step."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from mllm_plugin import Document, IndexBuilder, MemoryConfig, MemoryIndex, TreeConfig
from mllm_plugin.config import SearchConfig
from mllm_plugin.image import keeper
from tests.helpers.toy import ToyEncoder

_WORDS = [f"word{number}" for number in range(40)]
_TEXTS = st.lists(st.sampled_from(_WORDS), min_size=1, max_size=30).map(" ".join)
_NAMESPACES = st.sampled_from([(), ("team",), ("team", "ann")])
_IDS = st.integers(0, 60).map(lambda number: f"doc{number}")
# Small groups, so that a few dozen chunks make several levels.
_CONFIG = MemoryConfig(tree=TreeConfig(fan_out=3, cap_factor=2), search=SearchConfig(image_from=8))


@pytest.fixture(autouse=True)
def images_at_once(monkeypatch):
    """A search image is made after the first walk that has none."""
    monkeypatch.setattr(keeper, "_PAYS", 1)
    monkeypatch.setattr(keeper, "_REST", 0.0)


class MemoryMachine(RuleBasedStateMachine):
    """The model: per namespace, text, year and mask labels by id."""

    @initialize()
    def start(self) -> None:
        self.folder = Path(tempfile.mkdtemp())
        self.encoder = ToyEncoder()
        self.memory = MemoryIndex.open(self.folder, encoder=self.encoder, config=_CONFIG)
        self.model: dict[tuple[str, ...], dict[str, dict]] = {}

    def teardown(self) -> None:
        if hasattr(self, "memory"):
            self.memory.close()
            shutil.rmtree(self.folder)

    def _put(self, namespace, texts: dict[str, str], year: int) -> list[Document]:
        documents = [Document(text, id=name, metadata={"year": year}) for name, text in texts.items()]
        known = self.model.setdefault(namespace, {})
        for name, text in texts.items():
            masks = known[name]["masks"] if name in known else set()
            known[name] = {"text": text, "year": year, "masks": masks}
        return documents

    @rule(
        namespace=_NAMESPACES,
        texts=st.dictionaries(_IDS, _TEXTS, min_size=1, max_size=12),
        year=st.integers(0, 3),
    )
    def add(self, namespace, texts, year):
        self.memory.add(self._put(namespace, texts, year), namespace=namespace, split=False)

    @rule(
        namespace=_NAMESPACES,
        texts=st.dictionaries(_IDS, _TEXTS, min_size=5, max_size=40),
        year=st.integers(0, 3),
    )
    def build(self, namespace, texts, year):
        builder = IndexBuilder(self.memory, batch_size=7, progress=False, namespace=namespace, split=False)
        builder.build(self._put(namespace, texts, year))

    @rule(namespace=_NAMESPACES, ids=st.sets(_IDS, min_size=1, max_size=10))
    def remove(self, namespace, ids):
        known = self.model.get(namespace, {})
        report = self.memory.remove(sorted(ids), namespace=namespace)
        assert report.documents == len(ids & known.keys())
        assert report.erased
        for name in ids:
            known.pop(name, None)

    @rule(namespace=_NAMESPACES, year=st.integers(0, 3))
    def remove_year(self, namespace, year):
        self.memory.remove(filter={"year": year}, namespace=namespace)
        known = self.model.get(namespace, {})
        self.model[namespace] = {name: one for name, one in known.items() if one["year"] != year}

    @rule(namespace=_NAMESPACES, data=st.data(), label=st.sampled_from(["draft", "stale"]))
    def mask(self, namespace, data, label):
        known = self.model.get(namespace, {})
        if known:
            ids = data.draw(st.sets(st.sampled_from(sorted(known)), min_size=1, max_size=8))
            self.memory.mask(sorted(ids), label=label, namespace=namespace)
            for name in ids:
                known[name]["masks"].add(label)

    @rule(namespace=_NAMESPACES, label=st.sampled_from(["draft", "stale", None]))
    def unmask(self, namespace, label):
        self.memory.unmask(label=label, namespace=namespace)
        for one in self.model.get(namespace, {}).values():
            one["masks"] -= {label} if label else set(one["masks"])

    @rule()
    def reopen(self):
        self.memory.close()
        self.memory = MemoryIndex.open(self.folder, encoder=self.encoder)

    @rule(namespace=_NAMESPACES)
    def make_image(self, namespace):
        self.memory.search("word1", mode="beam", namespace=namespace)
        self.memory._handle.images.settle(60)

    @rule(regroup=st.booleans())
    def compact(self, regroup):
        self.memory.compact(regroup=regroup)

    @precondition(lambda self: self.model)
    @rule(
        namespace=_NAMESPACES,
        query=_TEXTS,
        mode=st.sampled_from(["beam", "flat", "exact"]),
        year=st.none() | st.integers(0, 3),
    )
    def search(self, namespace, query, mode, year):
        live = {
            name: one["text"]
            for name, one in self.model.get(namespace, {}).items()
            if not one["masks"] and year in (None, one["year"])
        }
        condition = None if year is None else {"year": year}
        hits = self.memory.search(
            query, k=100, mode=mode, beam_width=1000, namespace=namespace, filter=condition
        )
        assert sorted(hit.document_id for hit in hits) == sorted(live)
        assert all(hit.text == live[hit.document_id] for hit in hits)
        scores = [hit.score for hit in hits]
        assert scores == sorted(scores, reverse=True)
        exact = self.memory.search(query, k=100, exact=True, namespace=namespace, filter=condition)
        assert [(hit.document_id, hit.score) for hit in hits] == [
            (hit.document_id, hit.score) for hit in exact
        ]
        best = self._cosines(query, live)
        for hit in hits[:3]:
            assert hit.path[-1].score == hit.score
            assert np.isclose(best[hit.document_id], self._cosine_of(hit, query), atol=1e-2)

    def _cosines(self, query: str, texts: dict[str, str]) -> dict[str, float]:
        vector = ToyEncoder().encode_queries([query])[0]
        return {
            name: float(ToyEncoder().encode_documents([text])[0][0] @ vector) for name, text in texts.items()
        }

    def _cosine_of(self, hit, query: str) -> float:
        """Dense part of a score, with a ranker that has no other evidence: the query as a plain vector."""
        vector = ToyEncoder().encode_queries([query])[0]
        found = self.memory.search(vector, k=100, exact=True, namespace=hit.namespace)
        one = next(other for other in found if other.chunk_id == hit.chunk_id)
        window = ToyEncoder()._windows(hit.text) @ vector
        return one.score - float(window.max())

    @invariant()
    def everything_holds(self):
        if hasattr(self, "memory"):
            report = self.memory.verify()
            assert report.ok, report.problems
            expected = sum(len(known) for known in self.model.values())
            assert report.checked.get("documents", 0) == expected


MemoryMachine.TestCase.settings = settings(
    max_examples=40, stateful_step_count=30, deadline=None, suppress_health_check=list(HealthCheck)
)
TestMemoryMachine = MemoryMachine.TestCase
