"""Draws what a step trains on: groups of questions about one text, put in several ways.

A draw depends on the seed and the number of the step alone, so that a resumed run sees what an uninterrupted
one would have seen.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mllm_plugin.llm.prompt import Prompt, PromptLayout, memory_order
from mllm_plugin.training.llm.config import LLMTrainingConfig
from mllm_plugin.training.llm.examples import Examples, Question
from mllm_plugin.training.llm.packing import Branch, Memories, Unit

RECITE = "Repeat the text of the memory."
_SECOND_TEXT = 0.2  # how often two chunks are spelled out beside memory tokens
_TEXTS = (0.45, 0.25, 0.1, 0.1, 0.1)  # how often one to five are while the LLM reads text only
_RECITED_TOKENS = 64
_CUT = (0.3, 0.8)
_WORD = re.compile(r"\S+")


@dataclass(frozen=True)
class Way:
    """One way of putting a group's questions.

    Args:
        mode: "memory", "both", "text" or "none".
        memories: The memory block; None for none.
        passages: Texts spelled out.
        teacher: Whether the passages hold the answers in full.
    """

    mode: str
    memories: Memories | None
    passages: tuple[str, ...] = ()
    teacher: bool = False


class Drawer:
    """Draws units of examples.

    Args:
        examples: What there is to learn.
        layout: Of the prompts.
        config: How it is put.
    """

    def __init__(self, examples: Examples, layout: PromptLayout, config: LLMTrainingConfig) -> None:
        self.examples, self.layout, self.config = examples, layout, config
        self._groups: dict[int, list[list[int]]] = {}
        by_chunk: dict[int, list[int]] = {}
        for number, question in enumerate(examples.questions):
            if not question.held_out and question.chunk >= 0:
                by_chunk.setdefault(question.chunk, []).append(number)
        self._by_chunk = list(by_chunk.values())
        self.questions = sum(map(len, self._by_chunk))

    def step(self, number: int) -> list[Unit]:
        """Units of a step, the first being 0."""
        config, units = self.config, []
        for place in range(number * config.groups, (number + 1) * config.groups):
            rng = np.random.default_rng([config.seed, 1, place])
            units += self.units(self._group(place), number, rng)
        return units

    def _group(self, place: int) -> list[int]:
        """The group at a place of the endless sequence of epochs."""
        epoch = 0
        while place >= len(self._epoch(epoch)):
            place -= len(self._epoch(epoch))
            epoch += 1
        return self._epoch(epoch)[place]

    def _epoch(self, epoch: int) -> list[list[int]]:
        if epoch not in self._groups:
            rng, size = np.random.default_rng([self.config.seed, 0, epoch]), self.config.share
            found = []
            for members in self._by_chunk:
                order = rng.permutation(members).tolist()
                found += [order[start : start + size] for start in range(0, len(order), size)]
            self._groups[epoch] = [found[one] for one in rng.permutation(len(found)).tolist()]
        return self._groups[epoch]

    # -- one group

    def units(self, group: Sequence[int], step: int, rng: np.random.Generator) -> list[Unit]:
        """A group of questions about one chunk, put in the ways drawn for it."""
        shares, taught = self.config.shares, step < self.config.text_steps
        if taught:
            return [self.unit(group, Way("text", None, self._texts(self._recalled(group, rng))))]
        chunks = self._chunks(group, step, rng)
        gold = self.examples.questions[group[0]].chunk
        spelled = chunks[: 1 + int(rng.random() < _SECOND_TEXT)]
        passages, whole = self._texts(spelled), gold in spelled
        cut = rng.random() < self.config.cut
        shown = tuple(_cut(one, rng) for one in passages) if cut else passages
        kind = self._kind(rng)
        block = self.block(group, chunks, kind, rng)
        ways = (
            (shares.memory, Way("memory", block)),
            (shares.both, Way("both", block, shown, whole and not cut)),
            (shares.text, Way("text", None, passages, whole)),
        )
        found = []
        for share, way in ways:
            members = [one for one in group if rng.random() < share]
            if members:
                found.append(self.unit(members, way))
        if rng.random() < shares.recite or not found:
            found.append(self._recitation(gold, self._kind(rng)))
        return found

    def _texts(self, chunks: Sequence[int]) -> tuple[str, ...]:
        return tuple(self.examples.texts[one] for one in chunks)

    def _recalled(self, group: Sequence[int], rng: np.random.Generator) -> list[int]:
        """One to five chunks as recalled for one of the questions, the right one among them."""
        count = int(rng.choice(len(_TEXTS), p=_TEXTS)) + 1
        return self._first(self._lead(group, rng), count)

    def _lead(self, group: Sequence[int], rng: np.random.Generator) -> Question:
        return self.examples.questions[group[int(rng.integers(len(group)))]]

    @staticmethod
    def _first(question: Question, count: int) -> list[int]:
        """The first recalled chunks, the last of them making room for the right one where it is missing."""
        chosen = list(question.chunks[:count])
        return chosen if question.chunk in chosen else [*chosen[:-1], question.chunk]

    def _chunks(self, group: Sequence[int], step: int, rng: np.random.Generator) -> list[int]:
        """Chunks that the group reads, best first: at first the right one, in the end all recalled ones."""
        lead = self._lead(group, rng)
        done = max(0, step - self.config.text_steps)
        share = 1.0 if not self.config.curriculum_steps else min(1.0, done / self.config.curriculum_steps)
        limit = 1 + round(share * (len(lead.chunks) - 1))
        count = limit if rng.random() < 0.5 else int(rng.integers(1, limit + 1))
        return self._first(lead, count)

    def _kind(self, rng: np.random.Generator) -> str:
        """A kind of windows: the memory's own as often as the configuration says."""
        own, *others = self.examples.windows
        if not others or rng.random() < self.config.own_windows:
            return own
        return others[int(rng.integers(len(others)))]

    def block(
        self,
        group: Sequence[int],
        chunks: Sequence[int],
        kind: str,
        rng: np.random.Generator | None = None,
        most: int | None = None,
    ) -> Memories:
        """The memory block of chunks: windows that fit any question of the group, and upper levels.

        Args:
            group: Numbers of the questions.
            chunks: Best first.
            kind: Of the windows.
            rng: Draws how many windows and whether there are upper levels; None for all.
            most: Most windows; drawn from the configuration's range when left out.
        """
        examples = self.examples
        if most is None:
            low, high = self.config.windows
            most = high if rng is None else int(rng.integers(low, high + 1))
        found = [examples.windows_of(one, kind) for one in chunks]
        windows = np.concatenate(found)
        ranks = np.repeat(np.arange(len(found)), [len(one) for one in found])
        scores = (windows @ examples.queries[list(group)].T).max(axis=1, initial=-2.0)
        kept = np.sort(np.argsort(-scores, kind="stable")[:most])
        vectors, levels, order = [windows[kept]], [np.zeros(len(kept), np.int64)], [ranks[kept]]
        if rng is None or rng.random() < self.config.upper or not len(kept):
            nodes = list(examples.questions[group[0]].nodes)
            vectors += [examples.pooled[list(chunks)], examples.nodes[nodes]]
            levels += [np.ones(len(chunks), np.int64), examples.node_levels[nodes]]
            order += [np.arange(len(chunks)), np.arange(len(nodes))]
        joined, all_levels = np.concatenate(vectors), np.concatenate(levels)
        placed = memory_order(all_levels, np.concatenate(order), np.arange(len(joined)))
        return Memories(joined[placed], all_levels[placed])

    def unit(self, group: Sequence[int], way: Way, *, weight: float = 1.0) -> Unit:
        """Questions put in one way; what their prompts have in common is shared."""
        count = 0 if way.memories is None else len(way.memories.levels) * self.config.tokens_per_embedding
        questions = [self.examples.questions[one] for one in group]
        prompts = [
            self.layout.build(one.text, passages=way.passages, memory_tokens=count) for one in questions
        ]
        answers = [self._answer(one.answers[0], self.config.answer_tokens) for one in questions]
        before, after, rests = _shared(prompts)
        branches = [
            Branch(rest, answer, way.mode, number, way.teacher, weight)
            for rest, answer, number in zip(rests, answers, group, strict=True)
        ]
        return Unit(before, way.memories, after, branches)

    def _answer(self, text: str, most: int) -> tuple[int, ...]:
        return self.layout.answer_ids(text)[:most]

    def _recitation(self, chunk: int, kind: str) -> Unit:
        windows = self.examples.windows_of(chunk, kind)
        vectors = windows if len(windows) else self.examples.pooled[[chunk]]
        levels = np.full(len(vectors), 0 if len(windows) else 1, np.int64)
        prompt = self.layout.build(RECITE, memory_tokens=len(vectors) * self.config.tokens_per_embedding)
        before, after, (rest,) = _shared([prompt])
        answer = self._answer(self.examples.texts[chunk], _RECITED_TOKENS)
        return Unit(before, Memories(vectors, levels), after, [Branch(rest, answer, "recite")])


def _shared(prompts: Sequence[Prompt]) -> tuple[tuple[int, ...], tuple[int, ...], list[tuple[int, ...]]]:
    """Ids before the block, ids after it that all prompts share, and the rest of each, at least one id."""
    at = prompts[0].memory_at
    tails = [prompt.ids[at:] for prompt in prompts]
    common = min(len(tail) for tail in tails) - 1
    while any(tail[:common] != tails[0][:common] for tail in tails):
        common -= 1
    return prompts[0].ids[:at], tails[0][:common], [tail[common:] for tail in tails]


def _cut(text: str, rng: np.random.Generator) -> str:
    """A run of words, between 30 and 80 % of the text."""
    words = [match.span() for match in _WORD.finditer(text)]
    if len(words) < 8:
        return text
    size = int(len(words) * rng.uniform(*_CUT))
    first = int(rng.integers(0, len(words) - size + 1))
    return text[words[first][0] : words[first + size - 1][1]]
