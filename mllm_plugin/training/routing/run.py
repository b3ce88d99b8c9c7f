"""`train_memory`: from an open memory to a folder of weights that is kept only if it does better."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mllm_plugin.errors import InvalidInputError
from mllm_plugin.hierarchy import Hierarchy, LeafRanker, document_mark
from mllm_plugin.memory import MemoryIndex
from mllm_plugin.models.files import choose_device
from mllm_plugin.store.namespaces import check_namespace
from mllm_plugin.training import distributed
from mllm_plugin.training.curves import write_curves
from mllm_plugin.training.leaf import LeafEvidence, collect_evidence, train_leaf
from mllm_plugin.training.losses import Loss, listwise_loss
from mllm_plugin.training.questions import HELD_OUT_SHARE, Qrels, held_out_queries, relevant
from mllm_plugin.training.routing.config import TrainingConfig
from mllm_plugin.training.routing.fit import Fitted, curves, fit, panels
from mllm_plugin.training.routing.samples import Samples, collect_samples, draw_spans
from mllm_plugin.types import Namespace

_LEAST_QUERIES = 20
_LEAF_QUERIES = 2000


@dataclass(frozen=True)
class TrainingReport:
    """What `train_memory` did.

    Attributes:
        folder: Where the weights are; None when nothing was gained and nothing was written.
        fingerprint: Of the weights; empty when there are none.
        routing: What the level encoders and rankers gained, and which were taken, in words.
        leaf: What the leaf ranker gained, in words; empty without labelled queries.
        kept: Parts that are kept: "routing", "leaf".
        queries: Queries trained and measured on, spans included.
        seconds: It took.
    """

    folder: Path | None
    fingerprint: str
    routing: str
    leaf: str
    kept: tuple[str, ...]
    queries: int
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        """Returns a JSON-ready dictionary."""
        return {**self.__dict__, "folder": None if self.folder is None else str(self.folder)}


@dataclass(frozen=True)
class LeafFit:
    """A trained leaf ranker's tensors, and nDCG@10 on held-out queries before and after."""

    tensors: dict[str, NDArray[np.float32]]
    before: float
    after: float

    @property
    def better(self) -> bool:
        """Whether training gained anything."""
        return self.after > self.before

    def summary(self) -> str:
        """What was gained, in words."""
        return f"held-out questions, nDCG@10: {self.before:.4f} before, {self.after:.4f} after"


def train_memory(
    memory: MemoryIndex,
    out: str | Path,
    *,
    queries: Mapping[str, str] | None = None,
    qrels: Qrels | None = None,
    group_by: str | None = None,
    spans: int = 4000,
    namespace: Namespace | str = (),
    config: TrainingConfig = TrainingConfig(),
    device: str | None = None,
    loss: Loss = listwise_loss,
    progress: bool = True,
) -> TrainingReport:
    """Trains level encoders, rankers and, with labels, the leaf ranker on a memory's own documents.

    Routing is trained twice, with level encoders and with rankers alone; what misses less of the held-out
    questions is taken. A part that does no better is saved as the memory has it. An interrupted run goes on
    when it is called again with the same arguments.

    Args:
        memory: Opened with its encoder.
        out: Folder for the weights, the curves and the checkpoints.
        queries: Texts by id, if there are any.
        qrels: Grades of documents by query id; queries without a relevant document train routing only.
        group_by: Metadata field that tells which documents belong together (a contract, an article); what is
            measured then comes from groups that were not trained on.
        spans: Spans of the documents to use as questions; 0 for none.
        namespace: Whose documents.
        config: Settings of the routing part; one that names its `parts` is trained in that way alone.
        device: "cpu", "cuda"; CUDA when there is one.
        loss: Objective of the routing part.
        progress: Show progress bars.

    Raises:
        InvalidInputError: There is too little to train on, or no such device.
    """
    started, folder = time.perf_counter(), Path(out)
    choose_device(device)  # before the long part
    queries, qrels = queries or {}, qrels or {}
    marks = held_out_queries(queries, qrels, _groups(memory, namespace, group_by))
    texts, held_out = _questions(memory, queries, marks, spans, namespace, config.seed)
    samples = collect_samples(memory, texts, held_out, namespace=namespace, progress=progress)
    runs = [
        (
            way,
            fit(
                samples,
                memory.config.tree,
                way,
                device=device,
                rival=_in_place(memory),
                checkpoint=folder / "checkpoints" / _run_name(samples, way),
                loss=loss,
                progress=progress,
            ),
        )
        for way in _ways(config)
    ]
    config, fitted = min(runs, key=lambda run: (not run[1].comparison.better, run[1].comparison.left))
    leaf = _fit_leaf(memory, queries, qrels, marks, namespace, config.seed)
    better = {"routing": fitted.comparison.better, "leaf": leaf is not None and leaf.better}
    kept = [name for name, gained in better.items() if gained]
    fingerprint = ""
    if kept and distributed.is_first():
        fingerprint = _save(folder, memory, namespace, fitted, leaf, kept, config)
    if distributed.is_first():
        write_curves(curves(fitted), panels(fitted), folder)
    return TrainingReport(
        folder=folder if kept else None,
        fingerprint=fingerprint,
        routing=_routing(fitted),
        leaf=leaf.summary() if leaf is not None else "",
        kept=tuple(kept),
        queries=len(texts),
        seconds=time.perf_counter() - started,
    )


def _ways(config: TrainingConfig) -> list[TrainingConfig]:
    """With level encoders and without, unless the configuration names the parts."""
    if "parts" in config.model_fields_set:
        return [config]
    return [config.model_copy(update={"parts": ("rankers",)}), config]


def _routing(fitted: Fitted) -> str:
    nodes = "folded by trained encoders" if fitted.hierarchy.level_encoders else "means"
    return f"{fitted.comparison.summary()}; nodes are {nodes}"


def _questions(
    memory: MemoryIndex,
    queries: Mapping[str, str],
    marks: Mapping[str, bool],
    spans: int,
    namespace: Namespace | str,
    seed: int,
) -> tuple[list[str], list[bool]]:
    texts, held_out = list(queries.values()), [marks[query] for query in queries]
    if spans:
        drawn, measured = draw_spans(memory, spans, namespace=namespace, held_out=HELD_OUT_SHARE, seed=seed)
        texts += drawn
        held_out += measured if not queries else [False] * len(drawn)  # labelled ones measure better
    if len(texts) < _LEAST_QUERIES or not any(held_out) or all(held_out):
        raise InvalidInputError(
            f"{len(texts)} questions, {sum(held_out)} of them held out, are too few to train on; "
            f"pass more queries, or spans of the documents"
        )
    return texts, held_out


def _groups(memory: MemoryIndex, namespace: Namespace | str, field: str | None) -> dict[str, str]:
    if field is None:
        return {}
    found = {
        document.id: str(document.metadata[field])
        for document in memory.documents(namespace=namespace)
        if field in document.metadata
    }
    if not found:
        raise InvalidInputError(f"no document of namespace {namespace!r} has the metadata field {field!r}")
    return found


def _in_place(memory: MemoryIndex) -> Hierarchy | None:
    """The memory's hierarchy where it is more than the identity."""
    hierarchy = memory.hierarchy
    return hierarchy if hierarchy.level_encoders or hierarchy.rankers else None


def _fit_leaf(
    memory: MemoryIndex,
    queries: Mapping[str, str],
    qrels: Qrels,
    held_out_marks: Mapping[str, bool],
    namespace: Namespace | str,
    seed: int,
) -> LeafFit | None:
    labelled = {query: text for query, text in queries.items() if relevant(qrels, query)}
    parts = []
    for measured in (False, True):
        names = [query for query in labelled if held_out_marks[query] == measured]
        names = np.random.default_rng(seed).permutation(names)[:_LEAF_QUERIES].tolist()
        parts.append({query: labelled[query] for query in names})
    if any(len(part) < _LEAST_QUERIES for part in parts):
        return None
    train, held_out = (collect_evidence(memory, part, qrels, namespace=namespace) for part in parts)
    tensors = train_leaf({"labelled": train}, start=memory.config.leaf)
    before, after = memory.hierarchy.leaf_ranker, LeafRanker(memory.config.leaf, tensors)
    return LeafFit(tensors, _ndcg(held_out, before), _ndcg(held_out, after))


def _ndcg(evidence: Sequence[LeafEvidence], ranker: LeafRanker, depth: int = 10) -> float:
    """Mean nDCG@10 of documents with binary relevance."""
    discounts = 1 / np.log2(np.arange(2, depth + 2))
    values = []
    for one in evidence:
        ranking = one.ranking(ranker.score(*one.features.T), depth)
        gains = discounts[: len(ranking)][[document in one.relevant for document in ranking]]
        values.append(gains.sum() / discounts[: max(1, len(one.relevant))].sum())
    return float(np.mean(values))


def _save(
    folder: Path,
    memory: MemoryIndex,
    namespace: Namespace | str,
    fitted: Fitted,
    leaf: LeafFit | None,
    kept: list[str],
    config: TrainingConfig,
) -> str:
    before = memory.hierarchy if memory.hierarchy.weights is not None else Hierarchy()
    routing = fitted.hierarchy if "routing" in kept else before
    tensors = leaf.tensors if leaf is not None and "leaf" in kept else before.leaf_ranker.tensors
    chosen = Hierarchy(
        level_encoders=routing.level_encoders,
        rankers=routing.rankers,
        leaf_ranker=LeafRanker(memory.config.leaf, tensors),
    )
    where = check_namespace(namespace)
    seen = {document_mark(where, document.id) for document in memory.documents(namespace=where)}
    if before.weights is not None:
        seen |= set(before.weights.config.documents)  # a part of them may be in what is saved
    about = {
        "config": config.model_dump(),
        "routing": _routing(fitted),
        "leaf": leaf.summary() if leaf is not None else "",
    }
    return chosen.save(folder, encoder=memory.encoder.fingerprint, about=about, documents=sorted(seen))


def _run_name(samples: Samples, config: TrainingConfig) -> str:
    """Tells runs apart, so that a checkpoint is taken up only by the run that wrote it."""
    digest = hashlib.sha256(config.model_dump_json().encode())
    for array in (samples.leaves, samples.queries, samples.targets, samples.held_out):
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()[:16]
