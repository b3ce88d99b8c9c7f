"""Trained modules as they run, their weights on disk, and a memory that works with them."""

from __future__ import annotations

import json

import numpy as np
import pytest

from mllm_plugin import Document, EncoderMismatchError, InvalidInputError, MemoryIndex, NotFoundError
from mllm_plugin.hierarchy import (
    AttentionLevelEncoder,
    CosineRanker,
    Hierarchy,
    MappedRanker,
    MeanLevelEncoder,
    document_mark,
    shipped_weights,
)
from tests.helpers.file_tools import rows, value
from tests.helpers.toy import ToyEncoder

DIM = 16
WORDS = ["oak", "elm", "ash", "fir", "yew", "bay", "fig", "nut", "sap", "bud"]


def unit(rng: np.random.Generator, *shape: int) -> np.ndarray:
    values = rng.normal(size=shape)
    return (values / np.linalg.norm(values, axis=-1, keepdims=True)).astype(np.float32)


def encoder_tensors(rng: np.random.Generator, layers: int = 1, size: float = 0.3) -> dict[str, np.ndarray]:
    shapes = {
        "seeds": (2, DIM),
        "spread": (2,),
        "query": (2, DIM),
        "gates": (2, DIM),
        "down": (4, DIM),
        "up": (DIM, 4),
    }
    return {
        f"{layer}.{name}": (size * rng.normal(size=shape)).astype(np.float32)
        for layer in range(layers)
        for name, shape in shapes.items()
    }


def ranker_tensors(rng: np.random.Generator, size: float = 0.1, **numbers: float) -> dict[str, np.ndarray]:
    values = {"scale": 1.0, "offset": 0.0, "path": 0.0, "slack": float("inf")} | numbers
    map_ = (size * rng.normal(size=(DIM, DIM))).astype(np.float32)
    return {"map": map_} | {name: np.array([value], dtype=np.float32) for name, value in values.items()}


def trained(seed: int = 0, **numbers: float) -> Hierarchy:
    """Random weights as if they had been trained."""
    rng = np.random.default_rng(seed)
    return Hierarchy(
        level_encoders={level: AttentionLevelEncoder(encoder_tensors(rng, level - 1)) for level in (2, 3)},
        rankers={level: MappedRanker(ranker_tensors(rng, **numbers)) for level in (2, 3)},
        fingerprint="untitled",
    )


def documents(count: int = 300) -> list[Document]:
    rng = np.random.default_rng(1)
    return [Document(" ".join(rng.choice(WORDS, 6)) + f" x{place}", id=f"d{place}") for place in range(count)]


@pytest.fixture
def folder(tmp_path):
    path = tmp_path / "weights"
    trained(slack=0.3, path=0.1).save(path, encoder=ToyEncoder(DIM).fingerprint)
    return path


def test_weights_of_zero_are_the_identity():
    rng = np.random.default_rng(0)
    children = unit(rng, 9, 1, DIM).astype(np.float16)
    live = np.arange(9) % 3 > 0
    zero = {name: 0 * value for name, value in encoder_tensors(rng, 2).items()}
    mean = MeanLevelEncoder().fold(children, live)
    assert np.array_equal(AttentionLevelEncoder(zero).fold(children, live), mean)
    queries, nodes = unit(rng, 3, 2, DIM), unit(rng, 7, 1, DIM)
    ranker = MappedRanker(ranker_tensors(rng, size=0))
    assert np.allclose(ranker.score(queries, nodes), CosineRanker().score(queries, nodes), atol=1e-6)
    assert ranker.slack is None


class Farthest(CosineRanker):
    """A caller's own, which inherits what it does not follow."""

    def score(self, queries, embeddings):
        return -super().score(queries, embeddings)


@pytest.mark.parametrize(("m", "r"), [(1, 1), (3, 1), (1, 2), (3, 2)])
@pytest.mark.parametrize("ranker", [None, Farthest(), "trained"], ids=["cosine", "own", "trained"])
def test_scores_of_each_are_those_of_one_at_a_time(ranker, m, r):
    rng = np.random.default_rng(m + 7 * r)
    if ranker == "trained":
        ranker = MappedRanker(ranker_tensors(rng, scale=0.7, offset=0.3))
    hierarchy = Hierarchy(rankers={} if ranker is None else {2: ranker})
    query, embeddings = unit(rng, m, DIM), unit(rng, 37, r, DIM)
    expected = [hierarchy.ranker(2).score(query[None], one[None])[0, 0] for one in embeddings]
    found = hierarchy.score_each(2, query, embeddings)
    assert found.dtype == np.float32
    assert found.tolist() == [float(one) for one in expected]
    assert hierarchy.score_each(2, query, embeddings[5:6]).tolist() == found[5:6].tolist()


def test_a_fold_depends_on_live_children_alone():
    rng = np.random.default_rng(0)
    children, live = unit(rng, 12, 1, DIM).astype(np.float16), np.arange(12) % 4 > 0
    encoder = AttentionLevelEncoder(encoder_tensors(rng, 2))
    folded = encoder.fold(children, live)
    alone = encoder.fold(children[live], np.ones(live.sum(), bool))
    assert np.array_equal(folded, alone)
    assert not np.array_equal(folded, MeanLevelEncoder().fold(children, live))
    changed = np.where(live[:, None, None], children, np.float16(7))
    assert np.array_equal(encoder.fold(changed, live), folded)
    assert not encoder.fold(children, np.zeros(12, bool)).any()


@pytest.mark.parametrize("layers", [1, 2])
def test_torch_twin_gives_the_same_nodes_and_scores(layers):
    torch = pytest.importorskip("torch")
    from mllm_plugin.training.routing.modules import LevelEncoderModule, RankerModule

    rng = np.random.default_rng(0)
    module = LevelEncoderModule(DIM, layers=layers, seeds=3, hidden=5)
    ranker = RankerModule(DIM)
    with torch.no_grad():
        for parameter in [*module.parameters(), *ranker.parameters()]:
            parameter += 0.2 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1))
    groups = [unit(rng, size, 1, DIM).astype(np.float16) for size in (1, 5, 40)]
    children = torch.from_numpy(np.concatenate(groups)[:, 0].astype(np.float32))
    group = torch.repeat_interleave(torch.arange(3), torch.tensor([1, 5, 40]))
    nodes = module(children, group, 3).detach().numpy()
    numpy_encoder = AttentionLevelEncoder(module.tensors())
    for children_, node in zip(groups, nodes, strict=True):
        folded = numpy_encoder.fold(children_, np.ones(len(children_), bool))[0]
        assert np.allclose(folded, node, atol=2e-3)
    queries = unit(rng, 4, 1, DIM)
    numbers = {"scale": 0.5, "offset": 0.1, "path": 0.0, "slack": 0.2}
    scores = MappedRanker(ranker.tensors(numbers)).score(queries, nodes[:, None])
    expected = 0.5 * ranker(torch.from_numpy(queries[:, 0]), torch.from_numpy(nodes)).detach().numpy() + 0.1
    assert np.allclose(scores, expected, atol=1e-5)


def test_saved_and_loaded_is_the_same(folder):
    loaded = Hierarchy.load(folder)
    assert loaded.fingerprint == Hierarchy.load(folder).fingerprint
    assert loaded.fingerprint.startswith("learned:")
    again = folder.parent / "again"
    assert loaded.save(again, encoder=ToyEncoder(DIM).fingerprint) == loaded.fingerprint
    assert loaded.ranker(2).slack == pytest.approx(0.3)
    assert loaded.ranker(7).path_weight == pytest.approx(0.1)  # levels above reuse the highest
    assert loaded.ranker(1).path_weight == 0
    other = trained(seed=1).save(again, encoder=ToyEncoder(DIM).fingerprint)
    assert other != loaded.fingerprint


def test_own_modules_are_saved_by_kind(tmp_path):
    class Median:
        kind = "median"

        def __init__(self, tensors):
            self.tensors = tensors

        def fold(self, children, live):
            return np.median(children[live], axis=0)

    Hierarchy(level_encoders={2: Median({"unused": np.ones(1)})}).save(tmp_path, encoder="e")
    with pytest.raises(InvalidInputError, match="kind 'median'"):
        Hierarchy.load(tmp_path)
    assert isinstance(Hierarchy.load(tmp_path, kinds={"median": Median}).level_encoders[2], Median)
    with pytest.raises(InvalidInputError, match="needs `kind` and `tensors`"):
        Hierarchy(rankers={2: CosineRanker()}).save(tmp_path, encoder="e")


def test_weights_that_cannot_be_read(tmp_path, folder):
    with pytest.raises(NotFoundError, match=r"hierarchy.json and hierarchy.safetensors are missing"):
        Hierarchy.load(tmp_path / "nowhere")
    (folder / "hierarchy.safetensors").write_bytes(b"no tensors")
    with pytest.raises(InvalidInputError, match="cannot be read"):
        Hierarchy.load(folder)
    (folder / "hierarchy.json").write_text("{}")
    with pytest.raises(InvalidInputError, match="cannot be read"):
        Hierarchy.load(folder)


def test_a_memory_keeps_a_copy_of_its_weights(tmp_path, folder):
    with MemoryIndex.open(tmp_path / "m", encoder=ToyEncoder(DIM), hierarchy=folder) as memory:
        memory.add(documents())
        fingerprint = memory.hierarchy.fingerprint
        assert memory.verify().ok
    (folder / "hierarchy.json").unlink()
    with MemoryIndex.open(tmp_path / "m", encoder=ToyEncoder(DIM)) as memory:
        assert memory.hierarchy.fingerprint == fingerprint
        memory.remove(["d1", "d2"])
        memory.mask(["d3"])
        assert memory.verify().ok
        with pytest.raises(InvalidInputError, match=r"install"):
            MemoryIndex.open(tmp_path / "m", encoder=ToyEncoder(DIM), hierarchy="identity")


def test_weights_for_another_encoder_are_refused(tmp_path, folder):
    with pytest.raises(EncoderMismatchError, match="trained for encoder"):
        MemoryIndex.open(tmp_path / "m", encoder=ToyEncoder(8), hierarchy=folder)
    memory = MemoryIndex.open(tmp_path / "n", encoder=ToyEncoder(8))
    with memory, pytest.raises(EncoderMismatchError, match="trained for encoder"):
        memory.install(folder)


def test_installing_and_going_back_restores_every_vector(tmp_path, folder):
    with MemoryIndex.open(tmp_path / "m", encoder=ToyEncoder(DIM)) as memory:
        memory.add(documents(1500))
        memory.add(documents(40), namespace="other")
        before = _vectors(memory)
        report = memory.install(folder)
        assert (report.replaced, report.nodes) == ("identity", len(before) - _roots(memory))
        assert memory.verify().ok
        assert not all(np.array_equal(a, b) for a, b in zip(before, _vectors(memory), strict=True))
        assert memory.install(folder).nodes == 0
        memory.install("identity")
        assert memory.verify().ok
        assert all(np.array_equal(a, b) for a, b in zip(before, _vectors(memory), strict=True))


def test_another_opening_follows_an_install(tmp_path, folder):
    with (
        MemoryIndex.open(tmp_path / "m", encoder=ToyEncoder(DIM)) as first,
        MemoryIndex.open(tmp_path / "m", encoder=ToyEncoder(DIM)) as second,
    ):
        first.add(documents())
        second.search("oak", mode="beam")
        first.install(folder)
        assert second.search("oak elm", k=3, mode="beam") == first.search("oak elm", k=3, mode="beam")
        second.add([Document("oak yew new", id="new")])
        assert second.hierarchy.fingerprint == first.hierarchy.fingerprint != "identity"
        assert first.verify().ok


def test_a_memory_whose_modules_are_lost_can_take_others(tmp_path):
    own = Hierarchy(level_encoders={2: MeanLevelEncoder()}, fingerprint="of my own")
    with MemoryIndex.open(tmp_path / "m", encoder=ToyEncoder(DIM), hierarchy=own) as memory:
        memory.add(documents(100))
    with MemoryIndex.open(tmp_path / "m", encoder=ToyEncoder(DIM)) as memory:
        with pytest.raises(InvalidInputError, match="'of my own', which it does not hold"):
            memory.search("oak", mode="beam")
        assert memory.install("identity").replaced == "of my own"
        assert memory.verify().ok
        assert memory.search("oak", mode="beam")


def test_a_failed_install_changes_nothing(tmp_path, folder, monkeypatch):
    with MemoryIndex.open(tmp_path / "m", encoder=ToyEncoder(DIM)) as memory:
        memory.add(documents())
        fold = AttentionLevelEncoder.fold

        def failing(module, children, live):
            return fold(module, children, live) if len(children) == 2 else 1 / 0  # not when it is tried

        monkeypatch.setattr(AttentionLevelEncoder, "fold", failing)
        with pytest.raises(ZeroDivisionError):
            memory.install(folder)
        assert memory.verify().ok
        memory.search("oak", mode="beam")
        assert memory.hierarchy.fingerprint == "identity"


@pytest.mark.parametrize("numbers", [{}, {"path": 0.3}, {"slack": 0.2}, {"slack": 0.05, "path": 0.3}])
def test_a_walk_over_everything_equals_exact(tmp_path, numbers):
    hierarchy = trained(**numbers)
    with MemoryIndex.open(tmp_path / "m", encoder=ToyEncoder(DIM), hierarchy=hierarchy) as memory:
        memory.add(documents(1200))
        query = "oak fig x7"
        exact = memory.search(query, k=10, exact=True)
        everything = memory.search(query, k=10, mode="beam", beam_width=5000)
        scored = everything.statistics.embeddings_scored
        if "slack" in numbers:
            assert scored < 1200
            assert len(everything) == 10
        else:
            assert [hit.chunk_id for hit in everything] == [hit.chunk_id for hit in exact]
            assert scored > 1200
        batch = memory.search_batch([query, "nut sap"], k=10, mode="beam", beam_width=5000)[0]
        assert batch == everything


def test_a_margin_never_hides_what_a_filter_lets_through(tmp_path):
    hierarchy = trained(slack=0.01)
    with MemoryIndex.open(tmp_path / "m", encoder=ToyEncoder(DIM), hierarchy=hierarchy) as memory:
        memory.add(
            Document(one.text, id=one.id, metadata={"rare": place % 97 == 0})
            for place, one in enumerate(documents(900))
        )
        hits = memory.search("oak fig", k=9, mode="beam", beam_width=4, filter={"rare": True})
        assert len(hits) == 9


def test_removal_names_the_weights_that_saw_the_document(tmp_path):
    hierarchy = trained()
    marks = [document_mark(("n",), "d5")]
    fingerprint = hierarchy.save(tmp_path / "w", encoder=ToyEncoder(DIM).fingerprint, documents=marks)
    with MemoryIndex.open(tmp_path / "m", encoder=ToyEncoder(DIM), hierarchy=tmp_path / "w") as memory:
        memory.add(documents(10), namespace="n")
        memory.add(documents(10))
        assert memory.remove(["d5"]).weights == ()
        assert memory.remove(["d4"], namespace="n").weights == ()
        assert memory.remove(["d5"], namespace="n").weights == (fingerprint,)
    assert "d5" not in json.loads((tmp_path / "w" / "hierarchy.json").read_text())["documents"]


def test_no_weights_are_shipped_for_an_unknown_encoder(tmp_path):
    assert shipped_weights("unknown") is None
    with MemoryIndex.open(tmp_path / "m", encoder=ToyEncoder(DIM)) as memory:
        assert memory.hierarchy.fingerprint == "identity"


def _vectors(memory: MemoryIndex) -> list[np.ndarray]:
    blocks = rows(memory, "SELECT vectors FROM blocks ORDER BY node_id")
    return [np.frombuffer(data, "<f2") for (data,) in blocks]


def _roots(memory: MemoryIndex) -> int:
    return value(memory, "SELECT count(*) FROM namespaces")
