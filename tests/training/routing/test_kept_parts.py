"""What `train_memory` saves: the parts that did better, and the rest as the memory has it."""

from __future__ import annotations

import numpy as np
import pytest

from mllm_plugin import Document, LexicalConfig, MemoryConfig, MemoryIndex
from mllm_plugin.hierarchy import Hierarchy, LeafRanker, MappedRanker, document_mark
from mllm_plugin.training import Comparison, Fitted, TrainingConfig, train_memory
from mllm_plugin.training.curves import History
from mllm_plugin.training.routing import run as runs
from tests.helpers.toy import ToyEncoder

DIM = 16
LEAF = {"weights": np.array([1, 2, 3], np.float32), "relevance": np.ones(2, np.float32)}


def ranker(path: float) -> MappedRanker:
    numbers = {"scale": 1.0, "offset": 0.0, "path": path, "slack": 0.5}
    tensors = {name: np.array([value], np.float32) for name, value in numbers.items()}
    return MappedRanker({"map": np.zeros((DIM, DIM), np.float32), **tensors})


@pytest.fixture
def memory(tmp_path):
    """A memory whose hierarchy was trained on another document."""
    had = Hierarchy(rankers={2: ranker(0.25)}, leaf_ranker=LeafRanker(tensors=LEAF))
    had.save(tmp_path / "had", encoder=ToyEncoder(DIM).fingerprint, documents=["an older document"])
    config = MemoryConfig(lexical=LexicalConfig(posting_limit=1))  # so that there is something left to find
    with MemoryIndex.open(
        tmp_path / "m", encoder=ToyEncoder(DIM), config=config, hierarchy=tmp_path / "had"
    ) as opened:
        opened.add(Document(f"one two three four five six n{place}", id=f"d{place}") for place in range(60))
        yield opened


@pytest.fixture
def trained(monkeypatch, memory, tmp_path):
    """Runs `train_memory` with a routing part that does better or not, and a trained leaf ranker or none."""

    def train(*, routing: bool, leaf: bool):
        curve = {8: (0.1, 0.5)}
        compared = Comparison(curve, curve, 8, 0.5, 0.4 if routing else 0.6)
        fitted = Fitted(Hierarchy(rankers={2: ranker(0.75)}), History(), compared, 0.0)
        found = runs.LeafFit({**LEAF, "weights": np.full(3, 0.5, np.float32)}, 0.1, 0.2) if leaf else None
        monkeypatch.setattr(runs, "fit", lambda *_, **__: fitted)
        monkeypatch.setattr(runs, "_fit_leaf", lambda *_: found)
        monkeypatch.setattr(runs, "write_curves", lambda *_: None)
        return train_memory(memory, tmp_path / "out", spans=40, progress=False)

    return train


@pytest.mark.parametrize(("routing", "leaf"), [(True, False), (False, True), (True, True)])
def test_a_part_that_did_no_better_stays_as_it_was(trained, routing, leaf):
    report = trained(routing=routing, leaf=leaf)
    saved = Hierarchy.load(report.folder)
    assert report.kept == ("routing",) * routing + ("leaf",) * leaf
    assert saved.ranker(2).path_weight == (0.75 if routing else 0.25)
    assert saved.leaf_ranker.tensors["weights"].tolist() == ([0.5] * 3 if leaf else [1, 2, 3])
    assert {"an older document", document_mark((), "d7")} <= set(saved.weights.config.documents)


@pytest.mark.parametrize("better", [("rankers",), ("encoders", "rankers")])
def test_the_way_that_misses_less_is_taken(monkeypatch, memory, tmp_path, better):
    tried = []

    def fit(samples, tree, config, **_):
        tried.append(config.parts)
        curve = {8: (0.1, 0.5)}
        compared = Comparison(curve, curve, 8, 0.5, 0.2 if config.parts == better else 0.3)
        path = float(len(config.parts))
        return Fitted(Hierarchy(rankers={2: ranker(path)}), History(), compared, 0.0)

    monkeypatch.setattr(runs, "fit", fit)
    monkeypatch.setattr(runs, "write_curves", lambda *_: None)
    report = train_memory(memory, tmp_path / "out", spans=40, progress=False)
    assert Hierarchy.load(report.folder).ranker(2).path_weight == len(better)
    assert sorted(tried) == [("encoders", "rankers"), ("rankers",)]
    tried.clear()
    train_memory(
        memory, tmp_path / "one", spans=40, config=TrainingConfig(parts=("rankers",)), progress=False
    )
    assert tried == [("rankers",)]


def test_a_way_that_is_better_goes_before_one_that_misses_nothing_either_way(monkeypatch, memory, tmp_path):
    def fit(samples, tree, config, **_):
        curve = {8: (0.1, 0.5)}
        misses = (0.0, 0.0) if config.parts == ("rankers",) else (0.06, 0.02)
        return Fitted(
            Hierarchy(rankers={2: ranker(len(config.parts))}),
            History(),
            Comparison(curve, curve, 8, *misses),
            0.0,
        )

    monkeypatch.setattr(runs, "fit", fit)
    monkeypatch.setattr(runs, "write_curves", lambda *_: None)
    report = train_memory(memory, tmp_path / "out", spans=40, progress=False)
    saved = Hierarchy.load(report.folder)
    assert saved.ranker(2).path_weight == 2
    assert saved.weights.config.about["config"]["parts"] == ["encoders", "rankers"]


def test_nothing_is_saved_when_nothing_did_better(trained, tmp_path):
    report = trained(routing=False, leaf=False)
    assert (report.folder, report.fingerprint, report.kept) == (None, "", ())
    assert not (tmp_path / "out" / "hierarchy.json").exists()
