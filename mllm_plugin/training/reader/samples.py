"""What a memory gives to train a reader on: its documents, and questions about them where there are some."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from mllm_plugin.errors import InvalidInputError
from mllm_plugin.hierarchy import document_mark
from mllm_plugin.memory import MemoryIndex
from mllm_plugin.store.namespaces import check_namespace
from mllm_plugin.text.chunking import split_text
from mllm_plugin.training.questions import HELD_OUT_SHARE, Qrels, Queries, relevant
from mllm_plugin.training.reader.prompts import Prompts
from mllm_plugin.training.reader.tasks import Sampler
from mllm_plugin.training.reader.texts import HELD_OUT, Asked, Cut, Ragged, ReaderTexts, prepare
from mllm_plugin.types import Namespace

Section = tuple[str, str]

_SECTION = 8  # chunks; a long document is held out in part
_LEAST, _LEAST_HELD_OUT = 8, 2
_BLANKS_ASKED = 2  # per chunk


@dataclass(frozen=True)
class Material:
    """What there is to train on.

    Attributes:
        texts: Chunks, blanks and questions.
        marks: Of the documents that they are from, see `document_mark`.
        measured: What is measured with, "questions" or "blanks".
    """

    texts: ReaderTexts
    marks: list[str]
    measured: str

    @property
    def questions(self) -> int:
        """Questions that are trained on."""
        return int((~self.texts.held_out).sum())

    @property
    def held_out(self) -> int:
        """Questions, or blanks, to measure with."""
        return int(self.texts.held_out.sum())


def collect(
    memory: MemoryIndex,
    tokenizer: Any,
    prompts: Prompts,
    *,
    queries: Queries | None = None,
    qrels: Qrels | None = None,
    namespace: Namespace | str = (),
    seed: int = 0,
) -> Material:
    """Reads a memory's documents; about a tenth of their text is for measuring only.

    Args:
        memory: Masked documents are left out.
        tokenizer: Of the language model.
        prompts: Its.
        queries: Rows with `text` and `answers`, by id.
        qrels: Grades of documents by query id; where a question has none, the documents that a search finds
            and that have an answer stand in.
        namespace: Whose documents.
        seed: Chooses what is held out.

    Raises:
        InvalidInputError: There is too little text, or nothing to measure with.
    """
    where = check_namespace(namespace)
    documents = {
        document.id: document.text for document in memory.documents(namespace=where) if not document.masks
    }
    asked = _asked(memory, documents, queries or {}, qrels or {}, where)
    cut = _cut(memory)
    kept, measured = _parted(list(_sections(documents, cut)), asked, np.random.default_rng(seed))
    texts = prepare([(kept, asked)], tokenizer, held_out=(measured, asked), cut=cut, seed=seed)
    _check(texts)
    marks = sorted(document_mark(where, name) for name in documents)
    if len(set(texts.asked[texts.held_out])) >= _LEAST_HELD_OUT:
        return Material(texts, marks, "questions")
    texts = _blanks_as_questions(texts, prompts, seed)
    if len(set(texts.asked[texts.held_out])) < _LEAST_HELD_OUT:
        raise InvalidInputError(
            "the held-out text has no word to ask for, so there is nothing to measure with; pass questions "
            "with their answers (queries)"
        )
    return Material(texts, marks, "blanks")


def _cut(memory: MemoryIndex) -> Cut:
    """Chunks as the memory has them, since those are what will be read."""
    offsets = memory.encoder.token_offsets
    return lambda text: split_text(text, memory.config.chunking.chunk_tokens, offsets)


def _sections(documents: Mapping[str, str], cut: Cut) -> Iterator[Section]:
    for name, text in documents.items():
        spans = cut(text)
        for start in range(0, len(spans), _SECTION):
            part = spans[start : start + _SECTION]
            yield name, text[part[0].start : part[-1].end]


def _parted(
    sections: Sequence[Section], asked: Sequence[Asked], rng: np.random.Generator
) -> tuple[list[Section], list[Section]]:
    """Sections to train on and to measure with: a tenth each of those with answers and of the others."""
    answers: dict[str, list[str]] = {}
    for one in asked:
        answers.setdefault(one.document, []).extend(one.answers)
    order = rng.permutation(len(sections)).tolist()
    has = [any(answer in text for answer in answers.get(name, ())) for name, text in sections]
    chosen: set[int] = set()
    for wanted in (True, False):
        pool = [place for place in order if has[place] == wanted]
        least = max(0, _LEAST_HELD_OUT - len(chosen))
        chosen |= set(pool[: max(least, round(HELD_OUT_SHARE * len(pool)))])
    return (
        [one for place, one in enumerate(sections) if place not in chosen],
        [one for place, one in enumerate(sections) if place in chosen],
    )


def _asked(
    memory: MemoryIndex,
    documents: Mapping[str, str],
    queries: Queries,
    qrels: Qrels,
    namespace: Namespace,
) -> list[Asked]:
    """Questions with an answer that stands in a document."""
    rows = {query: (str(row["text"]), _answers(row)) for query, row in queries.items() if _answers(row)}
    graded = {query: relevant(qrels, query) for query in rows}
    open_ones = [query for query in rows if not graded[query]]
    found = memory.search_batch([rows[query][0] for query in open_ones], namespace=namespace, reranker=None)
    for query, hits in zip(open_ones, found, strict=True):
        graded[query] = [hit.document_id for hit in hits]
    asked = []
    for query, (text, answers) in rows.items():
        names = (one for one in graded[query] if _holds(documents.get(one, ""), answers))
        if (name := next(names, None)) is not None:
            asked.append(Asked(text, answers, name))
    if queries and not asked:
        raise InvalidInputError(
            f"none of the {len(queries)} questions has an answer that stands, letter by letter, in a "
            f"document of namespace {namespace!r}; pass rows with `text` and `answers`, or no questions"
        )
    return asked


def _answers(row: Mapping[str, Any]) -> tuple[str, ...]:
    return tuple(str(answer) for answer in row.get("answers", ()) if str(answer).strip())


def _holds(text: str, answers: Iterable[str]) -> bool:
    return any(answer in text for answer in answers)


def _check(texts: ReaderTexts) -> None:
    measured = int((texts.sources == HELD_OUT).sum())
    trained = len(texts.sources) - measured
    if trained < _LEAST or measured < _LEAST_HELD_OUT:
        raise InvalidInputError(
            f"the memory has {trained + measured} chunks to train a reader on, expected "
            f"{_LEAST + _LEAST_HELD_OUT} at least ({_LEAST_HELD_OUT} of them to measure with); add documents"
        )


def _blanks_as_questions(texts: ReaderTexts, prompts: Prompts, seed: int) -> ReaderTexts:
    """Blanks of the held-out chunks in place of the few questions that there may be."""
    rng, sampler, counts = np.random.default_rng(seed), Sampler(texts, prompts), {}
    asked, questions, answers = [], [], []
    for number, blank in enumerate(texts.blanks):
        chunk = int(blank[0])
        if texts.sources[chunk] == HELD_OUT and counts.setdefault(chunk, 0) < _BLANKS_ASKED:
            counts[chunk] += 1
            asked.append(chunk)
            questions.append(sampler.cloze(texts.chunks[chunk], blank, rng))
            answers.append(texts.fillings[number])
    trained = np.flatnonzero(~texts.held_out).tolist()
    return replace(
        texts,
        asked=np.array([*texts.asked[trained], *asked], np.int32),
        questions=Ragged.of([*(texts.questions[n] for n in trained), *questions]),
        answers=Ragged.of([*(texts.answers[n] for n in trained), *answers]),
        held_out=np.arange(len(trained) + len(asked)) >= len(trained),
    )
