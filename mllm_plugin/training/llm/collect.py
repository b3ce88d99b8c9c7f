"""From a memory to examples: labelled questions with what the memory recalls, or passages to go on with."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from mllm_plugin.errors import InvalidInputError
from mllm_plugin.hierarchy import document_mark
from mllm_plugin.memory import MemoryIndex
from mllm_plugin.protocols import TextEncoder
from mllm_plugin.store.namespaces import check_namespace
from mllm_plugin.training.llm.examples import Examples, Question
from mllm_plugin.types import MemoryEmbedding, Namespace

CONTINUE = "Continue the text."
_BATCH = 32
_NODES = 2
_WORD = re.compile(r"\S+")
_HEAD_WORDS, _TAIL_WORDS = (24, 80), (8, 24)


@dataclass(frozen=True)
class Labelled:
    """A question, its answers, and the documents that hold them."""

    text: str
    answers: tuple[str, ...]
    documents: tuple[str, ...]
    held_out: bool = False


def collect_examples(
    memory: MemoryIndex,
    questions: Sequence[Labelled],
    *,
    k: int = 5,
    kinds: Mapping[str, TextEncoder] | None = None,
    namespace: Namespace | str = (),
    progress: bool = True,
) -> Examples:
    """Asks a memory every question and keeps what it recalls.

    Args:
        memory: Opened with its encoder.
        questions: With their answers.
        k: Chunks per question.
        kinds: Encoders with other windows than the memory's, by a name that ends in their tokens per window;
            their windows are computed from the chunks' texts.
        namespace: Whose documents.
        progress: Show progress bars.

    Raises:
        InvalidInputError: Nothing is recalled for any question.
    """
    where = check_namespace(namespace)
    table = _Table(memory)
    rows, vectors = [], []
    bar = tqdm(total=len(questions), desc="recalling", disable=not progress)
    for start in range(0, len(questions), _BATCH):
        part = questions[start : start + _BATCH]
        texts = [one.text for one in part]
        found = memory.recall_batch(texts, k=k, nodes=_NODES, namespace=where)
        vectors.append(memory.encoder.encode_queries(texts))
        rows += [table.add(one, recall) for one, recall in zip(part, found, strict=True)]
        bar.update(len(part))
    bar.close()
    if not any(row.chunks for row in rows):
        raise InvalidInputError("the memory recalls nothing for the questions; is it empty?")
    return table.finish(rows, np.concatenate(vectors), kinds or {}, where, progress)


class _Table:
    """Chunks and nodes seen so far, each once."""

    def __init__(self, memory: MemoryIndex) -> None:
        self.memory = memory
        self.chunks: dict[int, int] = {}
        self.nodes: dict[tuple[int, int], int] = {}
        self.texts: list[str] = []
        self.pooled: list[NDArray[np.float32]] = []
        self.windows: list[NDArray[np.float32]] = []
        self.node_vectors: list[NDArray[np.float32]] = []
        self.node_levels: list[int] = []
        self.documents: set[str] = set()

    def add(self, question: Labelled, recall) -> Question:  # noqa: ANN001 - a Recall
        windows: dict[int, list[MemoryEmbedding]] = {}
        for window in recall.levels.get(0, ()):
            windows.setdefault(window.node_id, []).append(window)
        pooled = {one.node_id: one for one in recall.levels.get(1, ())}
        chunks = []
        for hit in recall.hits:
            if hit.chunk_id not in self.chunks:
                self.chunks[hit.chunk_id] = len(self.texts)
                self.texts.append(hit.text)
                self.pooled.append(pooled[hit.chunk_id].vectors[0])
                ordered = sorted(windows.get(hit.chunk_id, ()), key=lambda one: one.start)
                self.windows.append(_stacked([one.vectors for one in ordered], self.memory.dim))
                self.documents.add(hit.document_id)
            chunks.append(self.chunks[hit.chunk_id])
        return Question(
            text=question.text,
            answers=question.answers,
            chunk=_holder(question, recall.hits, chunks),
            chunks=tuple(chunks),
            nodes=self._nodes(recall.levels),
            held_out=question.held_out,
        )

    def _nodes(self, levels: Mapping[int, Sequence[MemoryEmbedding]]) -> tuple[int, ...]:
        found = []
        for level in sorted((one for one in levels if one >= 2), reverse=True):
            for node in levels[level]:
                key = (level, node.node_id)
                if key not in self.nodes:
                    self.nodes[key] = len(self.node_vectors)
                    self.node_vectors.append(node.vectors[0])
                    self.node_levels.append(level)
                found.append(self.nodes[key])
        return tuple(found)

    def finish(
        self,
        questions: list[Question],
        queries: NDArray[np.float32],
        kinds: Mapping[str, TextEncoder],
        namespace: Namespace,
        progress: bool,
    ) -> Examples:
        dim = self.memory.dim
        windows = {_own_kind(self.memory): self.windows}
        for kind, encoder in kinds.items():
            windows[kind] = encode_windows(encoder, self.texts, dim, progress=progress)
        return Examples(
            encoder=self.memory.encoder.fingerprint,
            questions=questions,
            queries=queries,
            texts=self.texts,
            pooled=_stacked(self.pooled, dim),
            windows={kind: _stacked(rows, dim) for kind, rows in windows.items()},
            ends={kind: np.cumsum([len(one) for one in rows]) for kind, rows in windows.items()},
            nodes=_stacked(self.node_vectors, dim),
            node_levels=np.array(self.node_levels, dtype=np.int64),
            documents=sorted(document_mark(namespace, one) for one in self.documents),
        )


def _stacked(rows: Sequence[NDArray[np.float32]], dim: int) -> NDArray[np.float32]:
    parts = [np.asarray(one, dtype=np.float32).reshape(-1, dim) for one in rows]
    return np.concatenate([np.zeros((0, dim), np.float32), *parts])


def _own_kind(memory: MemoryIndex) -> str:
    return str(getattr(memory.encoder, "window_tokens", 16))


def _holder(question: Labelled, hits: Sequence, chunks: Sequence[int]) -> int:
    """Row of the best chunk of a right document that spells an answer out; -1 for none."""
    for hit, row in zip(hits, chunks, strict=True):
        right = not question.documents or hit.document_id in question.documents
        if right and any(answer.lower() in hit.text.lower() for answer in question.answers):
            return row
    return -1


def encode_windows(
    encoder: TextEncoder, texts: Sequence[str], dim: int, *, progress: bool = True
) -> list[NDArray[np.float32]]:
    """Windows [w, d] of each text; none where the encoder has none."""
    found: list[NDArray[np.float32]] = []
    for start in tqdm(range(0, len(texts), 256), desc="encoding", disable=not progress):
        part = list(texts[start : start + 256])
        windows = encoder.encode_documents(part)[1]
        found += windows if windows is not None else [np.zeros((0, dim), np.float32)] * len(part)
    return found


def collect_passages(
    memory: MemoryIndex,
    count: int,
    *,
    namespace: Namespace | str = (),
    held_out: float = 0.1,
    seed: int = 0,
    progress: bool = True,
) -> Examples:
    """Draws passages of the documents: the first part becomes memory tokens, the rest is the answer.

    Args:
        memory: Opened with its encoder.
        count: Passages wanted.
        namespace: Whose documents.
        held_out: Share of the documents whose passages are for measuring only.
        seed: Chooses documents and places.
        progress: Show a progress bar.

    Raises:
        InvalidInputError: No document is long enough.
    """
    where, rng = check_namespace(namespace), np.random.default_rng(seed)
    documents = [(one.id, one.text) for one in memory.documents(namespace=where) if not one.masks]
    drawn = list(_passages(documents, count, held_out, rng))
    if not drawn:
        raise InvalidInputError(
            f"no document of {namespace!r} has {_HEAD_WORDS[0] + _TAIL_WORDS[0]} words, so there is nothing "
            f"to go on with; add longer documents, or train on questions"
        )
    heads, encoder = [head for _, head, _, _ in drawn], memory.encoder
    windows = encode_windows(encoder, heads, memory.dim, progress=progress)
    questions = [
        Question(text=CONTINUE, answers=(tail,), chunk=row, chunks=(row,), held_out=measured)
        for row, (_, _, tail, measured) in enumerate(drawn)
    ]
    pooled = np.asarray(encoder.encode_documents(heads)[0], dtype=np.float32)
    kind = _own_kind(memory)
    return Examples(
        encoder=encoder.fingerprint,
        questions=questions,
        queries=pooled,
        texts=heads,
        pooled=pooled,
        windows={kind: _stacked(windows, memory.dim)},
        ends={kind: np.cumsum([len(one) for one in windows])},
        nodes=np.zeros((0, memory.dim), np.float32),
        node_levels=np.zeros(0, np.int64),
        documents=sorted({document_mark(where, name) for name, _, _, _ in drawn}),
    )


def _passages(  # noqa: ANN202 - iterator of (document id, head, tail, held out)
    documents: Sequence[tuple[str, str]], count: int, held_out: float, rng: np.random.Generator
):
    words = [[match.span() for match in _WORD.finditer(text)] for _, text in documents]
    least = _HEAD_WORDS[0] + _TAIL_WORDS[0]
    sizes = np.array([len(one) if len(one) >= least else 0 for one in words], dtype=float)
    if not sizes.any():
        return
    measured = rng.random(len(documents)) < held_out
    for place in rng.choice(len(documents), count, p=sizes / sizes.sum()).tolist():
        name, text = documents[place]
        spans = words[place]
        tail = int(rng.integers(_TAIL_WORDS[0], _TAIL_WORDS[1] + 1))
        tail = min(tail, len(spans) - _HEAD_WORDS[0])
        head = int(rng.integers(_HEAD_WORDS[0], min(_HEAD_WORDS[1], len(spans) - tail) + 1))
        first = int(rng.integers(0, len(spans) - head - tail + 1))
        cut = spans[first + head - 1][1]
        last = spans[first + head + tail - 1][1]
        yield name, text[spans[first][0] : cut], text[cut:last].strip(), bool(measured[place])
