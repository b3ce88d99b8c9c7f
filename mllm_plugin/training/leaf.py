"""Trains the leaf ranker: weights of cosine, windows and words by a listwise loss, then its calibration.

The negatives are hard by themselves: they are the chunks that a flat search ranks highest. A judgement is
about a document, so a document counts with its best chunk. The weights are drawn to where they started, since
what a memory will hold is not what the training saw.

Shapes: b queries, n candidates, f inputs of a fit, d dimensions.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from mllm_plugin.config import LeafConfig
from mllm_plugin.errors import InvalidInputError
from mllm_plugin.hierarchy.leaf import FEATURES, Setting
from mllm_plugin.memory import MemoryIndex
from mllm_plugin.search.query import Query, View, make_queries
from mllm_plugin.search.rank import Candidates, evidence_of
from mllm_plugin.search.scan import scan
from mllm_plugin.shapes import Bool, Float, Float16, Float32, Float64, Int64
from mllm_plugin.store.decoded import EmbeddingChunkCache, build_image
from mllm_plugin.store.namespaces import check_namespace
from mllm_plugin.training.losses import listwise_loss
from mllm_plugin.types import Namespace

_BATCH = 64
_BLOCK_BYTES = 1 << 28
_START_SCALE = 12.0  # of the softmax over candidates; trained
_HIDDEN = -1e4  # score of padding: finite, so that no gradient is NaN
_CALIBRATED = 10  # best chunks per query that relevance is fitted on


@dataclass(frozen=True)
class LeafEvidence:
    """What the leaf ranker knows of the candidates of one query, and which documents answer it.

    Attributes:
        features: Cosine, window and lexical evidence of the candidates.
        documents: Document id of each candidate.
        relevant: Ids of the documents that answer the query.
        vectors: Pooled embeddings, when they were asked for.
        chunks: That were searched, see `Setting`; 0 where that is not known.
    """

    features: Float32[np.ndarray, "n 3"]
    documents: tuple[str, ...]
    relevant: frozenset[str]
    vectors: Float16[np.ndarray, "n d"] | None = None
    chunks: int = 0

    def without_answers(self) -> LeafEvidence:
        """What a memory would find that cannot answer the query."""
        rows = [row for row, document in enumerate(self.documents) if document not in self.relevant]
        documents = tuple(self.documents[row] for row in rows)
        return replace(self, features=self.features[rows], documents=documents, vectors=None)

    def setting(self, scores: Float[np.ndarray, " n"]) -> Setting:
        """Of the search, given the scores of the candidates, which are at least one."""
        return Setting.of(scores, self.chunks)

    def ranking(self, scores: Float[np.ndarray, " n"], depth: int = 10) -> list[str]:
        """The `depth` best documents by scores of the candidates."""
        order = np.argsort(-scores, kind="stable")
        return list(dict.fromkeys(self.documents[row] for row in order))[:depth]


class LeafTraining(BaseModel):
    """How the leaf ranker is trained."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    steps: int = Field(default=300, ge=1)
    """Optimiser steps."""
    batch: int = Field(default=48, ge=1)
    """Queries per step, all of one set; the sets take turns."""
    learning_rate: float = Field(default=5e-3, gt=0)
    """Of Adam, falling to zero."""
    hold: float = Field(default=3.0, ge=0)
    """Pull of the weights towards those they started from."""
    seed: int = Field(default=0, ge=0)
    """Of the batches."""


class LeafModule(nn.Module):
    """See `LeafRanker`; starts as the formula of a `LeafConfig`."""

    start: Tensor

    def __init__(self, config: LeafConfig = LeafConfig()) -> None:
        super().__init__()
        start = torch.tensor([config.cosine, config.window, config.lexical])
        self.weights = nn.Parameter(start.clone())
        self.scale = nn.Parameter(torch.tensor(_START_SCALE).log())
        self.register_buffer("start", start)

    def forward(self, features: Float[Tensor, "*b 3"]) -> Float[Tensor, "*b"]:
        """Scores of features; the weights keep the sum they started with, so scores stay comparable."""
        weights = self.weights.clamp(min=0)
        weights = weights * (self.start.sum() / weights.sum().clamp(min=1e-6))
        return (features * weights).sum(dim=-1)

    def strain(self) -> Tensor:
        """Squared distance of the weights from their start."""
        return (self.weights - self.start).square().sum()

    def numbers(self) -> Float32[np.ndarray, " 3"]:
        """The weights as `LeafRanker` takes them."""
        with torch.no_grad():
            return self(torch.eye(3)).numpy().astype(np.float32)


def collect_evidence(
    memory: MemoryIndex,
    queries: Mapping[str, str],
    qrels: Mapping[str, Mapping[str, int]],
    *,
    most: int = 100,
    namespace: Namespace | str = (),
    vectors: bool = False,
) -> list[LeafEvidence]:
    """Reads the evidence of each query's best chunks by cosine and words, found by a flat search.

    Args:
        memory: Open.
        queries: Texts by query id.
        qrels: Grades by document id, by query id; above 0 is relevant; a query may be left out.
        most: Candidates per query.
        namespace: Where to search.
        vectors: Keep the embeddings of the candidates too.

    Raises:
        InvalidInputError: The namespace holds no live chunk.
    """
    names, found = list(queries), []
    with memory.snapshot() as snapshot:
        row = snapshot.namespace(check_namespace(namespace))
        if row is None or not row.live_chunks:
            raise InvalidInputError(f"namespace {namespace!r} holds no live chunk to train on")
        blocks = EmbeddingChunkCache(_BLOCK_BYTES)
        view = View(snapshot, row, blocks, memory.hierarchy, memory.config.lexical)
        image = build_image(snapshot, row)
        for start in range(0, len(names), _BATCH):
            part = names[start : start + _BATCH]
            texts = [queries[name] for name in part]
            asked = make_queries(texts, None, memory.encoder, memory.config.chunking.chunk_tokens)
            candidates = scan(view, image, asked, most=most)
            for name, query, one in zip(part, asked, candidates, strict=True):
                relevant = frozenset(doc for doc, grade in qrels.get(name, {}).items() if grade > 0)
                found.append(_evidence(view, query, one, relevant, vectors))
    return found


def train_leaf(
    evidence: Mapping[str, Sequence[LeafEvidence]],
    *,
    start: LeafConfig = LeafConfig(),
    training: LeafTraining = LeafTraining(),
) -> dict[str, NDArray[np.float32]]:
    """Trains weights and calibration; takes seconds.

    Args:
        evidence: Sets of queries by name, each of the same weight; add identifier questions as a set, so that
            words keep theirs.
        start: Where the weights start.
        training: Settings.

    Returns:
        Tensors for `LeafRanker`.

    Raises:
        InvalidInputError: No query has a relevant document among its candidates, and another one.
    """
    useful = {name: list(filter(_teaches, rows)) for name, rows in evidence.items()}
    sets = [_pad(rows) for rows in useful.values() if rows]
    if not sets:
        raise InvalidInputError("no query has both a relevant document and another one among its candidates")
    module = LeafModule(start)
    optimizer = torch.optim.Adam(module.parameters(), lr=training.learning_rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, training.steps)
    rng = np.random.default_rng(training.seed)
    for step in range(training.steps):
        features, groups, targets = sets[step % len(sets)]
        rows = torch.from_numpy(rng.integers(len(features), size=training.batch))
        scores = best_chunks(module(features[rows]), groups[rows]) * module.scale.exp()
        loss = listwise_loss(scores, targets[rows]) + training.hold * module.strain()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    weights = module.numbers()
    return {"weights": weights, **calibrate_relevance(evidence, weights)}


def calibrate_relevance(
    evidence: Mapping[str, Sequence[LeafEvidence]], weights: NDArray[np.float32]
) -> dict[str, NDArray[np.float32]]:
    """The logistic fit of relevance on scores of every query's best chunks, and on what their search tells.

    Every query that has an answer counts a second time without it, so that relevance knows searches which
    have none. All sets weigh the same, and so do relevant and other chunks of a set: how many documents of a
    memory answer a question is not known before.

    Returns:
        Tensors for `LeafRanker`: `relevance` [2], and where the searches are known `setting` [f].

    Raises:
        InvalidInputError: No set has both relevant and other chunks among the best.
    """
    inputs, labels, shares = [], [], []
    for rows in evidence.values():
        found, relevant = _best_inputs(rows, weights)
        if relevant.any() and not relevant.all():
            inputs.append(found)
            labels.append(relevant)
            shares.append(np.where(relevant, 0.5 / relevant.mean(), 0.5 / (~relevant).mean()) / len(found))
    if not inputs:
        raise InvalidInputError("relevance needs both relevant and other documents among the candidates")
    fitted = logistic_fit(*map(np.concatenate, (inputs, labels, shares))).astype(np.float32)
    tensors = {"relevance": fitted[[0, -1]].clip([0, -np.inf])}  # never against the order of the scores
    return {**tensors, "setting": fitted[1:-1]} if fitted[1:-1].any() else tensors


def logistic_fit(
    inputs: Float64[np.ndarray, "n f"],
    labels: Bool[np.ndarray, " n"],
    shares: Float64[np.ndarray, " n"],
    *,
    ridge: float = 1e-4,
    steps: int = 50,
) -> Float64[np.ndarray, " f+1"]:
    """Weights of the inputs, and the offset, of the logistic fit of labels.

    Args:
        inputs: Numbers that tell of the labels.
        labels: What is to be told.
        shares: Weight of each in the fit.
        ridge: Keeps the weights finite where an input parts the labels without a mistake.
        steps: Of Newton's method.
    """
    middle, shares = inputs.mean(axis=0), shares / shares.sum()
    inputs = np.column_stack([inputs - middle, np.ones(len(inputs))])
    weights, penalty = np.zeros(inputs.shape[1]), np.diag([*np.full(len(middle), ridge), 1e-12])
    for _ in range(steps):
        chance = 1 / (1 + np.exp(-np.clip(inputs @ weights, -30, 30)))
        curvature = inputs.T @ (inputs * (shares * chance * (1 - chance))[:, None]) + penalty
        weights += np.linalg.solve(curvature, inputs.T @ (shares * (labels - chance)) - penalty @ weights)
    weights[-1] -= weights[:-1] @ middle
    return weights


def best_chunks(scores: Float[Tensor, "b n"], groups: Int64[Tensor, "b n"]) -> Float[Tensor, "b n+1"]:
    """The best score of each document from scores of candidates.

    Args:
        scores: Of candidates, padding too.
        groups: Document of each candidate, from 1 up; 0 is padding.
    """
    shown = scores.masked_fill(groups == 0, _HIDDEN)
    hidden = scores.new_full((len(scores), scores.shape[1] + 1), _HIDDEN)
    return hidden.scatter_reduce(1, groups, shown, "amax")


def _evidence(
    view: View, query: Query, candidates: Candidates, relevant: frozenset[str], vectors: bool
) -> LeafEvidence:
    cosine, window = evidence_of(view, query, candidates)
    features = np.stack([cosine, window, candidates.lexical], axis=1).astype(np.float32)
    return LeafEvidence(
        features,
        tuple(_documents(view, candidates.ids)),
        relevant,
        candidates.vectors.astype(np.float16) if vectors else None,
        chunks=view.answers,
    )


def _documents(view: View, ids: NDArray[np.int64]) -> Iterator[str]:
    """Document id of each chunk."""
    places = view.snapshot.places(ids.tolist())
    return (places[chunk].document_id for chunk in ids.tolist())


def _best_inputs(
    rows: Sequence[LeafEvidence], weights: Float32[np.ndarray, " 3"]
) -> tuple[Float64[np.ndarray, "n f"], Bool[np.ndarray, " n"]]:
    """Score and setting of the best chunks of all queries, and whether they are relevant."""
    inputs, relevant = [np.zeros((0, 1 + FEATURES))], [np.zeros(0, dtype=bool)]
    for one in (*rows, *(row.without_answers() for row in rows if row.relevant)):
        scores = one.features.astype(np.float64) @ weights
        best = np.argsort(-scores)[:_CALIBRATED]
        known = one.setting(scores).features() if one.chunks and len(best) else np.zeros(FEATURES)
        inputs.append(np.column_stack([scores[best], np.tile(known, (len(best), 1))]))
        relevant.append(np.array([one.documents[row] in one.relevant for row in best], dtype=bool))
    return np.concatenate(inputs), np.concatenate(relevant)


def _teaches(one: LeafEvidence) -> bool:
    found = set(one.documents)
    return bool(found & one.relevant) and bool(found - one.relevant)


def _pad(
    rows: Sequence[LeafEvidence],
) -> tuple[Float[Tensor, "b n 3"], Int64[Tensor, "b n"], Float[Tensor, "b n+1"]]:
    """Features, document of each candidate (0: none), share of each document."""
    most = max(len(one.documents) for one in rows)
    features = torch.zeros(len(rows), most, 3)
    groups = torch.zeros(len(rows), most, dtype=torch.long)
    targets = torch.zeros(len(rows), most + 1)
    for row, one in enumerate(rows):
        places = {doc: place for place, doc in enumerate(dict.fromkeys(one.documents), 1)}
        features[row, : len(one.documents)] = torch.from_numpy(one.features)
        groups[row, : len(one.documents)] = torch.tensor([places[doc] for doc in one.documents])
        wanted = [places[doc] for doc in places if doc in one.relevant]
        targets[row, wanted] = 1 / len(wanted)
    return features, groups, targets
