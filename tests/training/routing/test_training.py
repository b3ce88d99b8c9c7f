"""Training on small memories: what is learned, resumed and kept; measuring walks as the memory walks."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from mllm_plugin import Document, InvalidInputError, MemoryConfig, MemoryIndex, TreeConfig
from mllm_plugin.hierarchy import Hierarchy, MappedRanker
from mllm_plugin.search.query import View, make_queries
from mllm_plugin.search.walk import Beam, beam_at, walk
from mllm_plugin.store.decoded import EmbeddingChunkCache, load_embedding_chunk
from mllm_plugin.training.losses import listwise_loss, softmax_loss
from mllm_plugin.training.questions import held_out_queries
from mllm_plugin.training.routing import loop as stages
from mllm_plugin.training.routing.config import TrainingConfig
from mllm_plugin.training.routing.evaluate import Trial, best_below, make_trial
from mllm_plugin.training.routing.fit import assemble, compare, fit, identity_scores, recall_at
from mllm_plugin.training.routing.grouping import Grouping, draw_grouping
from mllm_plugin.training.routing.modules import HierarchyModule
from mllm_plugin.training.routing.run import train_memory
from mllm_plugin.training.routing.samples import (
    Samples,
    collect_samples,
    draw_spans,
    read_leaves,
    routed_chunks,
)
from tests.helpers.toy import ToyEncoder

DIM = 16
TREE = TreeConfig(fan_out=6)
SMALL = TrainingConfig(
    steps=30, batch=32, chunks=400, redraw=10, evaluate_every=10, beam=6, hidden=4, seeds=2, beam_width=64
)
TOPICS = [
    "oak",
    "elm",
    "ash",
    "fir",
    "yew",
    "bay",
    "fig",
    "nut",
    "sap",
    "bud",
    "bark",
    "root",
    "leaf",
    "twig",
]


def texts(count: int, seed: int = 0) -> list[str]:
    rng = np.random.default_rng(seed)
    return [" ".join(rng.choice(TOPICS, 12)) + f" n{rng.integers(60)}" for _ in range(count)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("training") / "memory"
    config = MemoryConfig(tree=TREE)
    with MemoryIndex.open(path, encoder=ToyEncoder(DIM), config=config) as memory:
        memory.add(Document(text, id=f"d{place}") for place, text in enumerate(texts(500)))
    return path


@pytest.fixture
def memory(folder):
    with MemoryIndex.open(folder, encoder=ToyEncoder(DIM)) as opened:
        yield opened


def skewed(count: int = 400, seed: int = 0) -> Samples:
    """Queries that lie where a fixed rotation puts them: cosine is wrong, a map of the query is right."""
    rng = np.random.default_rng(seed)
    leaves = rng.normal(size=(600, DIM)).astype(np.float32)
    leaves /= np.linalg.norm(leaves, axis=1, keepdims=True)
    turn = np.linalg.qr(np.eye(DIM) + 0.4 * rng.normal(size=(DIM, DIM)))[0].astype(np.float32)
    wanted = rng.integers(len(leaves), size=count)
    targets = np.argsort(-(leaves[wanted] @ leaves.T), axis=1)[:, :5]
    return Samples(leaves, leaves[wanted] @ turn, targets, np.arange(count) % 5 == 0)


def test_samples_are_what_an_exact_search_finds(memory):
    queries, held_out = draw_spans(memory, 40, seed=3)
    samples = collect_samples(memory, queries, held_out, progress=False)
    ids, leaves = read_leaves(memory)
    assert np.array_equal(samples.leaves, leaves)
    assert 0 < samples.held_out.sum() < 40
    for place in range(0, 40, 10):
        hits = [hit.chunk_id for hit in memory.search(queries[place], k=10, mode="flat")]
        routed = routed_chunks(memory, make_queries([queries[place]], None, memory.encoder, 128))[0]
        wanted = samples.targets[place][samples.targets[place] >= 0]
        assert [chunk for chunk in hits if chunk not in routed] == ids[wanted].tolist()


def test_spans_come_from_the_documents_and_keep_apart_what_is_held_out(memory):
    spans, held_out = draw_spans(memory, 60, seed=1)
    documents = [one.text for one in memory.documents()]
    assert all(any(span in text for text in documents) for span in spans)
    assert all(5 <= len(span.split()) <= 24 for span in spans)
    assert draw_spans(memory, 60, seed=1) == (spans, held_out)


def test_queries_of_one_document_are_never_on_both_sides():
    queries = {f"q{place}": "text" for place in range(400)}
    qrels = {f"q{place}": {f"d{place // 4}": 1} for place in range(400)}
    marks = held_out_queries(queries, qrels)
    assert 0.03 < np.mean(list(marks.values())) < 0.25
    assert all(marks[f"q{4 * place}"] == marks[f"q{4 * place + 3}"] for place in range(100))


def test_queries_about_one_group_are_never_on_both_sides():
    queries = {f"q{place}": "text" for place in range(400)}
    qrels = {f"q{place}": {f"d{place}": 1} for place in range(400)}
    groups = {f"d{place}": str(place // 4) for place in range(396)}
    marks = held_out_queries(queries, qrels, groups)
    assert 0.03 < np.mean(list(marks.values())) < 0.25
    assert all(len({marks[f"q{4 * place + one}"] for one in range(4)}) == 1 for place in range(99))


def test_a_group_field_that_no_document_has_is_refused(memory, tmp_path):
    with pytest.raises(InvalidInputError, match="'contract'"):
        train_memory(memory, tmp_path, group_by="contract", spans=60, config=SMALL, progress=False)


def test_the_beam_is_narrower_above_the_lowest_nodes():
    assert [beam_at(level, 96) for level in (2, 3, 4)] == [96, 48, 48]
    assert beam_at(3, 1) == 4


def test_groupings_are_trees_that_change():
    leaves = skewed().leaves
    first, second = (
        draw_grouping(leaves, TREE, most=300, rng=np.random.default_rng(seed)) for seed in (1, 2)
    )
    assert len(first.rows) == 300
    assert first.sizes[-1] <= 6 < first.sizes[0]
    assert all(np.bincount(parent).min() > 0 for parent in first.parents)
    assert not np.array_equal(first.rows, second.rows)
    top = first.ancestors(np.array([[0, -1]]), first.levels[-1])
    assert top[0, 1] == -1
    assert 0 <= top[0, 0] < first.sizes[-1]


@pytest.mark.parametrize("loss", [listwise_loss, softmax_loss])
def test_a_loss_falls_when_wanted_scores_rise(loss):
    torch = pytest.importorskip("torch")
    targets = torch.tensor([[0.5, 0.5, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0]])
    scores = torch.tensor([[1.0, 1.0, 1.0, float("-inf")]] * 2, requires_grad=True)
    value = loss(scores, targets)
    value.backward()
    assert torch.isfinite(scores.grad).all()
    assert (scores.grad[0, :2] < 0).all()
    assert scores.grad[0, 2] > 0
    assert not scores.grad[1].any()
    assert loss(scores + 2 * (targets > 0), targets) < value


def test_training_learns_what_cosine_gets_wrong():
    fitted = fit(
        skewed(), TREE, SMALL.model_copy(update={"steps": 120, "learning_rate": 1e-2}), progress=False
    )
    assert fitted.comparison.better
    assert fitted.comparison.misses_trained < 0.8 * fitted.comparison.misses_identity
    assert {row["stage"] for row in fitted.history.rows} == {1, 2}
    assert set(fitted.hierarchy.level_encoders) == {2, 3}
    assert "untrained" in fitted.comparison.summary()


def test_untrained_modules_walk_as_the_identity():
    samples = skewed()
    module = HierarchyModule(DIM, SMALL)
    trial = make_trial(samples, TREE, SMALL)
    plain = {"scale": 1.0, "offset": 0.0, "path": 0.0, "slack": float("inf")}
    import torch

    compared = compare(module, {2: plain, 3: plain}, trial, 16, torch.device("cpu"))
    for width, (scored, recall) in compared.identity.items():
        assert compared.trained[width] == pytest.approx((scored, recall), abs=0.02)


def test_a_hierarchy_in_place_is_a_rival_too():
    samples = skewed()
    first = fit(samples, TREE, SMALL.model_copy(update={"steps": 60, "learning_rate": 1e-2}), progress=False)
    second = fit(samples, TREE, SMALL.model_copy(update={"steps": 1}), rival=first.hierarchy, progress=False)
    assert second.comparison.misses_rival < second.comparison.misses_identity
    assert not second.comparison.better
    assert "in place" in second.comparison.summary()


def test_mixed_precision_learns_too(monkeypatch):
    import torch

    half = SMALL.model_copy(update={"steps": 60, "learning_rate": 1e-2})
    monkeypatch.setattr(stages, "mixed_precision", lambda _: torch.autocast("cpu", torch.bfloat16))
    fitted = fit(skewed(), TREE, half, device="cpu", progress=False)
    assert fitted.comparison.better


@pytest.mark.cuda
def test_on_cuda():
    import torch

    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    longer = SMALL.model_copy(update={"steps": 60, "learning_rate": 1e-2})
    assert fit(skewed(), TREE, longer, device="cuda", progress=False).comparison.better


def test_an_interrupted_run_goes_on_where_it_was(tmp_path, monkeypatch):
    samples = skewed()
    whole = fit(samples, TREE, SMALL, progress=False)
    step = stages.Loop.step

    def stopping(run, stage, levels, place, optimizer):
        if (stage, place) == (2, 17):
            raise KeyboardInterrupt
        return step(run, stage, levels, place, optimizer)

    monkeypatch.setattr(stages.Loop, "step", stopping)
    with pytest.raises(KeyboardInterrupt):
        fit(samples, TREE, SMALL, checkpoint=tmp_path, progress=False)
    taken: list[tuple[int, int]] = []

    def counting(run, stage, levels, place, optimizer):
        taken.append((stage, place))
        return step(run, stage, levels, place, optimizer)

    monkeypatch.setattr(stages.Loop, "step", counting)
    resumed = fit(samples, TREE, SMALL, checkpoint=tmp_path, progress=False)
    assert taken[0] == (2, 10)
    assert resumed.history.rows[-1] == whole.history.rows[-1]
    for level, ranker in whole.hierarchy.rankers.items():
        for name, value in ranker.tensors.items():
            assert np.array_equal(resumed.hierarchy.rankers[level].tensors[name], value), name
    assert not list(tmp_path.glob("*.new"))


def test_measuring_walks_as_the_memory_does(memory):
    """The simulated walk over the memory's own tree reaches the same chunks at the same cost."""
    trial, ids = real_trial(memory)
    rng = np.random.default_rng(0)
    tensors = {"map": (0.2 * rng.normal(size=(DIM, DIM))).astype(np.float32)}
    numbers = {"scale": 0.9, "offset": 0.1, "path": 0.2, "slack": 0.25}
    tensors |= {name: np.array([value], np.float32) for name, value in numbers.items()}
    ranker = MappedRanker(tensors)
    levels = trial.grouping.levels
    scores = [ranker.score(trial.queries[:, None], nodes) for nodes in real_nodes(memory)]
    hierarchy = Hierarchy(rankers={2: ranker})
    for width in (2, 5, 12):
        for slack in (None, 0.25):
            ranker.slack = slack
            walks = trial.walk(scores, width=width, slacks=[slack] * len(levels), paths=[0.2] * len(levels))
            with memory.snapshot() as snapshot:
                row = snapshot.namespace(())
                view = View(snapshot, row, EmbeddingChunkCache(1 << 20), hierarchy, memory.config.lexical)
                queries = make_queries(list(trial.queries), None, memory.encoder, 128)
                found = walk(view, queries, Beam(width, need=1), most=10**6)
            for place, one in enumerate(found):
                assert one.scored == round(walks.scored[place] * len(ids))
                reached = np.isin(ids[trial.targets[place]], one.ids).mean()
                assert walks.recall[place] == pytest.approx(reached)


def real_trial(memory: MemoryIndex) -> tuple[Trial, np.ndarray]:
    """A trial over the memory's own tree, and the chunks' ids."""
    ids, leaves = read_leaves(memory)
    with memory.snapshot() as snapshot:
        nodes = {node.node_id: node.parent_id for node in snapshot.nodes(snapshot.namespace(()))}
        homes = {chunk: place.node_id for chunk, place in snapshot.places(ids.tolist()).items()}
    parents, children = [], [homes[chunk] for chunk in ids.tolist()]
    while any(nodes[node] is not None for node in children):
        known = sorted(set(children))
        parents.append(np.searchsorted(known, children))
        children = [nodes[node] for node in known]
    queries = np.random.default_rng(5).normal(size=(20, DIM)).astype(np.float32)
    queries /= np.linalg.norm(queries, axis=1, keepdims=True)
    targets = np.argsort(-(queries @ leaves.T), axis=1)[:, :8]
    return Trial(Grouping(np.arange(len(ids)), tuple(parents)), leaves, queries, targets), ids


def real_nodes(memory: MemoryIndex) -> list[np.ndarray]:
    """Vectors [g, 1, d] of the memory's nodes per level from 2 up, in order of their ids."""
    found: dict[int, dict[int, np.ndarray]] = {}
    with memory.snapshot() as snapshot:
        for node in snapshot.nodes(snapshot.namespace(())):
            if node.level > 2:
                block = load_embedding_chunk(snapshot, node.node_id)
                below = zip(block.ids.tolist(), block.vectors, strict=True)
                found.setdefault(node.level - 1, {}).update(below)
    return [np.stack([rows[node] for node in sorted(rows)]) for _, rows in sorted(found.items())]


def test_best_below_is_the_best_chunk_of_each_node():
    samples = skewed()
    trial = make_trial(samples, TREE, SMALL)
    best = best_below(trial, np.arange(3))
    members = trial.grouping.parents[0] == 4
    assert best[0][1, 4] == pytest.approx((trial.leaves[members] @ trial.queries[1]).max(), abs=1e-5)
    assert best[-1].max() == pytest.approx(best[0].max())


def test_a_curve_is_read_between_its_points():
    assert recall_at({1: (0.1, 0.5), 2: (0.3, 0.9)}, 0.2) == pytest.approx(0.7)
    assert recall_at({1: (0.1, 0.5), 2: (0.3, 0.9)}, 0.9) == 0.9


def test_a_memory_is_trained_without_labels_and_the_weights_fit_it(tmp_path, memory):
    report = train_memory(memory, tmp_path / "out", spans=200, config=SMALL, progress=False)
    assert report.leaf == ""
    assert "misses" in report.routing
    curves = json.loads((tmp_path / "out" / "curves.json").read_text())
    assert len(curves["history"]) >= 6
    if report.folder is None:
        pytest.skip("nothing was gained on this toy memory, so nothing is kept")
    with MemoryIndex.open(tmp_path / "m", encoder=ToyEncoder(DIM), hierarchy=tmp_path / "out") as other:
        other.add(Document(text, id=f"d{place}") for place, text in enumerate(texts(100)))
        assert other.hierarchy.fingerprint == report.fingerprint
        assert other.verify().ok
        assert other.remove(["d5"]).weights == (report.fingerprint,)


def test_too_little_to_train_on(tmp_path, memory):
    with pytest.raises(InvalidInputError, match="too few"):
        train_memory(memory, tmp_path, spans=3, config=SMALL, progress=False)
    with pytest.raises(InvalidInputError, match="holds no"):
        train_memory(memory, tmp_path, namespace="nowhere", config=SMALL, progress=False)
    samples = skewed()
    everything = Samples(samples.leaves, samples.queries, samples.targets, np.ones(400, bool))
    with pytest.raises(InvalidInputError, match="held out"):
        fit(everything, TREE, SMALL, progress=False)


def test_a_loss_of_ones_own(tmp_path):
    seen = []

    def loss(scores, targets):
        seen.append(scores.shape)
        return softmax_loss(scores, targets)

    fit(skewed(), TREE, SMALL.model_copy(update={"steps": 2, "evaluate_every": 2}), loss=loss, progress=False)
    assert seen


_WORKERS = """
import os, sys
sys.path[:0] = {paths!r}
from tests.training.routing.test_training import SMALL, TREE, skewed
from mllm_plugin.training import distributed
from mllm_plugin.training.routing.fit import fit
second = os.fork()  # once torch is loaded, which takes longest
os.environ["RANK"] = os.environ["LOCAL_RANK"] = "0" if second else "1"
distributed.start()
config = SMALL.model_copy(update={{"steps": 20, "learning_rate": 1e-2}})
fitted = fit(skewed(), TREE, config, progress=False)
sys.stdout.write("sum %r\\n" % float(fitted.hierarchy.rankers[2].tensors["map"].sum()))
distributed.stop()
if second:
    sys.exit(os.waitpid(second, 0)[1])
"""


def test_two_processes_train_the_same_weights():
    code = _WORKERS.format(paths=[str(Path(__file__).parents[3])])
    several = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29617", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | several,
        check=True,
        capture_output=True,
        text=True,
        timeout=120,
    )
    sums = [float(line[4:]) for line in done.stdout.splitlines() if line.startswith("sum ")]
    assert len(sums) == 2
    assert sums[0] == pytest.approx(sums[1], abs=1e-4)
    assert sums[0] != 0


def test_assembled_modules_have_every_level():
    module = HierarchyModule(DIM, SMALL)
    numbers = {level: {"scale": 1.0, "offset": 0.0, "path": 0.0, "slack": 0.1} for level in (2, 3)}
    hierarchy = assemble(module, numbers)
    assert hierarchy.ranker(5).slack == pytest.approx(0.1)
    assert len(identity_scores(make_trial(skewed(), TREE, SMALL))) >= 2
