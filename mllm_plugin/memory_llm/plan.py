"""From a question and what the memory recalls to a prompt that fits the model's context."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from mllm_plugin.errors import InvalidInputError
from mllm_plugin.llm import Prompt, PromptLayout
from mllm_plugin.llm.starts import Start
from mllm_plugin.memory_llm.answer import AnswerMode, Dropped, Source
from mllm_plugin.memory_llm.block import MemoryBlock, choose_block
from mllm_plugin.memory_llm.config import MemoryLLMConfig
from mllm_plugin.memory_llm.nodes import choose_labels, topics_text
from mllm_plugin.memory_llm.passages import Passage, choose_passages, cut_passage
from mllm_plugin.memory_llm.question import Turns
from mllm_plugin.types import MemoryEmbedding, Recall

_EMPTY = MemoryBlock((), {}, {})
_OTHER = "…"  # a question like no other


@dataclass(frozen=True)
class Plan:
    """What the model will read.

    Attributes:
        prompt: Token ids and the place of the memory block.
        passages: What is spelled out, best first.
        block: What the reader wrote.
        dropped: What was left out.
        text_tokens: Tokens of what is spelled out.
        unknown: How likely the memory does not hold the answer, where nothing that it has is relevant enough
            to be read and the model is not asked; else None.
        labels: Nodes whose labels are spelled out, coarse to fine.
    """

    prompt: Prompt
    passages: tuple[Passage, ...]
    block: MemoryBlock
    dropped: Dropped
    text_tokens: int
    unknown: float | None = None
    labels: tuple[MemoryEmbedding, ...] = ()

    @classmethod
    def unread(cls, unknown: float) -> Plan:
        """Of a question that the model is not asked."""
        return cls(Prompt(()), (), _EMPTY, Dropped(), 0, unknown)

    @property
    def mode(self) -> AnswerMode:
        """What the model reads with."""
        if self.block.pieces:
            return "both" if self.passages or self.labels else "memory"
        return "text" if self.passages or self.labels else "none"

    @property
    def memory(self) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Vectors [n, h] and levels [n] as the model reads them."""
        if not self.block.pieces:
            return np.zeros((0, 0), np.float32), np.zeros(0, np.int64)
        return self.block.tensors()

    def sources(self) -> Iterator[Source]:
        """What is read: first what is spelled out, then embeddings."""
        for node in self.labels:
            words = ", ".join(node.words)
            yield Source("", node.node_id, 0, 0, node.level, node.score, True, words, node.namespace)
        for passage in self.passages:
            hit = passage.hit
            yield Source(
                hit.document_id,
                hit.chunk_id,
                passage.start,
                passage.end,
                1,
                hit.score,
                True,
                passage.text,
                hit.namespace,
            )
        for piece in self.block.in_order if self.block.pieces else ():
            yield Source(
                piece.document_id,
                piece.node_id,
                piece.start,
                piece.end,
                piece.level,
                piece.score,
                False,
                "",
                piece.namespace,
            )


@dataclass(frozen=True)
class Planner:
    """Makes plans for one model.

    Attributes:
        layout: Of its prompts.
        context: Longest input and output together.
    """

    layout: PromptLayout
    context: int

    def plan(self, turns: Turns, recall: Recall, config: MemoryLLMConfig, read: Recall | None) -> Plan:
        """Chooses passages and vectors, and drops what does not fit, the least relevant first.

        Args:
            turns: What is asked.
            recall: What the memory has for it.
            config: What is to be read.
            read: The same with what the reader wrote; None for text only.

        Raises:
            InvalidInputError: The question alone is too long.
        """
        wanted = 0 if config.mode in ("memory", "none") else config.spelled(embeddings=read is not None)
        hits, windows = recall.hits[:wanted], recall.levels.get(0, ())
        passages = choose_passages(hits, windows, config.text_tokens, self.layout.count)
        block = _EMPTY if read is None else choose_block(read, config, passages)
        labels = choose_labels(recall, config.labels)
        room = self.context - config.max_new_tokens
        draft = _Draft(self, turns, tuple(passages), block, room, labels)
        fitted = draft.fit(windows)
        dropped = Dropped(
            passages=len(hits) - len(fitted.passages),
            cut=sum(passage.is_cut for passage in fitted.passages),
            turns=len(turns.history) - len(fitted.turns.history),
            labels=len(labels) - len(fitted.labels),
            **fitted.block.dropped,
        )
        tokens = sum(map(self.layout.count, fitted.texts()))
        return Plan(fitted.started(), fitted.passages, fitted.block, dropped, tokens, labels=fitted.labels)


@dataclass(frozen=True)
class _Draft:
    """A prompt on its way into the room there is."""

    planner: Planner
    turns: Turns
    passages: tuple[Passage, ...]
    block: MemoryBlock
    room: int
    labels: tuple[MemoryEmbedding, ...] = ()

    def texts(self) -> list[str]:
        """What is spelled out."""
        topics = [topics_text(self.labels)] if self.labels else []
        return topics + [passage.text for passage in self.passages]

    def prompt(self) -> Prompt:
        return self.planner.layout.build(
            self.turns.question,
            passages=self.texts(),
            memory_tokens=len(self.block.pieces),
            history=self.turns.messages,
        )

    def started(self) -> Prompt:
        """The prompt, with its first passage's relevance and the part that other questions about it share."""
        prompt = self.prompt()
        if self.block.pieces or not self.passages:
            return prompt
        first = self.passages[0]
        prompt = replace(prompt, relevance=first.hit.relevance)
        if self.labels or self.turns.messages or first.is_cut:
            return prompt
        other = self.planner.layout.build(_OTHER, passages=[first.text]).ids
        shared = next((n for n, (a, b) in enumerate(zip(prompt.ids, other, strict=False)) if a != b), 0)
        return replace(prompt, start=Start(first.hit.chunk_id, shared)) if shared else prompt

    def excess(self) -> int:
        return len(self.prompt()) - self.room

    def fit(self, windows: Sequence[MemoryEmbedding]) -> _Draft:
        """Drops old turns, labels, windows, passages, and at last chunks, as far as needed."""
        fitted = self
        if fitted.excess() > 0:
            fitted = fitted._without_turns()
            fitted = fitted._without_labels()
            fitted = fitted._without_embeddings(windows_only=True)
            fitted = fitted._without_passages(windows)
            fitted = fitted._without_embeddings(windows_only=False)
            if (excess := fitted.excess()) > 0:
                raise InvalidInputError(
                    f"the question does not fit the model: {fitted.room + excess} tokens, expected at most "
                    f"{fitted.room} (its context of {self.planner.context} less max_new_tokens); shorten it, "
                    f"or lower max_new_tokens"
                )
        return fitted

    def _without_turns(self) -> _Draft:
        """Drops as few of the oldest turns as needed, by halving."""
        choices = self.turns.shortened()
        low, high = 0, len(choices) - 1
        while low < high:
            middle = (low + high) // 2
            if replace(self, turns=choices[middle]).excess() <= 0:
                high = middle
            else:
                low = middle + 1
        return replace(self, turns=choices[low])

    def _without_labels(self) -> _Draft:
        draft = self
        while draft.labels and draft.excess() > 0:
            draft = replace(draft, labels=draft.labels[1:])
        return draft

    def _without_embeddings(self, *, windows_only: bool) -> _Draft:
        draft = self
        while (excess := draft.excess()) > 0:
            block = draft.block.without_last(excess, windows_only=windows_only)
            if len(block.pieces) == len(draft.block.pieces):
                break
            draft = replace(draft, block=block)
        return draft

    def _without_passages(self, windows: Sequence[MemoryEmbedding]) -> _Draft:
        draft, count = self, self.planner.layout.count
        while draft.passages and (excess := draft.excess()) > 0:
            *others, last = draft.passages
            draft = replace(draft, passages=tuple(others))
            budget = count(last.text) - excess - 2  # two for what joining texts may cost
            cut = cut_passage(last, windows, budget, count) if budget > 0 else None
            if cut is not None and cut.text != last.text:
                shorter = replace(draft, passages=(*others, cut))
                draft = shorter if shorter.excess() <= 0 else draft
        return draft
