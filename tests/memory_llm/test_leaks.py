"""What is masked, removed, filtered out or elsewhere reaches the model neither as text nor as embedding."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from mllm_plugin import Document, MemoryConfig, MemoryIndex, TreeConfig
from mllm_plugin.memory_llm import MemoryLLM, MemoryLLMConfig, facade
from tests.helpers.tiny_memory_llm import random_reader

TOPICS = ("ships", "kettles", "foxes", "lamps", "rivers", "clocks", "maps", "secret")
CODE = "XK-42"
QUESTION = "What is the secret of ships and maps?"
MODES = ("memory", "both", "text")


class TopicEncoder:
    """A dimension for each topic, so that a trace of one in any embedding is seen."""

    dim = len(TOPICS)
    fingerprint = "topics"

    def encode_documents(self, texts):
        windows = [self._of([text[at : at + 24] for at in range(0, len(text), 24)]) for text in texts]
        return self._of(texts), windows

    def encode_queries(self, texts):
        return self._of(texts)

    def _of(self, texts) -> np.ndarray:
        counts = np.array([[text.count(topic) for topic in TOPICS] for text in texts], dtype=np.float32)
        counts[counts.sum(axis=1) == 0, 0] = 1
        return counts / np.linalg.norm(counts, axis=1, keepdims=True)


@pytest.fixture
def memory(tmp_path: Path) -> Iterator[MemoryIndex]:
    """Secrets lie in the root namespace beside public documents, and in another namespace."""
    config = MemoryConfig(tree=TreeConfig(fan_out=3))
    with MemoryIndex.open(tmp_path / "memory", encoder=TopicEncoder(), config=config) as opened:
        public = [
            Document(
                id=f"p{n}",
                text=f"All about {TOPICS[n % 7]} and {TOPICS[n % 5]}, number {n}.",
                metadata={"n": n},
            )
            for n in range(30)
        ]
        secrets = [
            Document(
                id=f"s{n}",
                text=f"The secret of {TOPICS[n]} is {CODE}.",
                metadata={"n": -1},
                labels=("draft",),
            )
            for n in range(3)
        ]
        opened.add([*public, *secrets])
        opened.add(secrets, namespace="elsewhere")
        yield opened


@pytest.fixture
def reader(memory, tiny) -> MemoryLLM:
    config = MemoryLLMConfig(max_new_tokens=1, k=4, expand=2, chunks=4, repeat=True)
    return MemoryLLM(memory, tiny, random_reader(tiny), config)


@pytest.fixture
def seen(reader, monkeypatch):
    """Asks, and returns what the model was given: the text of the prompt, vectors [n, h], levels [n]."""
    given = []
    real = facade.generate

    def generate(llm, prompts, memory, **options):
        given[:] = [(llm.tokenizer.decode(list(prompts[0].ids)), *memory[0])]
        return real(llm, prompts, memory, **options)

    monkeypatch.setattr(facade, "generate", generate)

    def ask(**options):
        answer = reader.answer(QUESTION, **options)
        assert answer.prompt.count(CODE) == given[0][0].count(CODE)
        return given[0]

    return ask


@pytest.fixture
def secret_in(reader, tiny):
    """Whether a text, or a vector that is read, is of a secret."""
    written = reader.adapter.write(tiny, [f"The secret of {TOPICS[n]} is {CODE}." for n in range(3)])
    secret = np.concatenate([np.vstack([one.vectors, one.vectors.mean(axis=0)]) for one in written])

    def found(text: str, vectors: np.ndarray) -> bool:
        apart = [np.abs(secret - one).max(axis=1).min() for one in vectors]
        return CODE in text or min(apart, default=1.0) < 0.01

    return found


def levels_of(levels: np.ndarray) -> set[int]:
    return set(levels.tolist())


@pytest.mark.parametrize("mode", MODES)
def test_it_is_there_to_begin_with(seen, secret_in, mode):
    text, vectors, levels = seen(mode=mode)
    assert secret_in(text, vectors)
    if mode != "text":
        assert all(secret_in("", vectors[levels == level]) for level in (0, 1))


@pytest.mark.parametrize("mode", MODES)
def test_masked_is_gone_and_unmasked_is_back(memory, seen, secret_in, mode):
    before = seen(mode=mode)
    memory.mask(label="draft")
    text, vectors, levels = seen(mode=mode)
    assert not secret_in(text, vectors)
    assert mode == "text" or levels_of(levels) == {0, 1}
    memory.unmask(label="draft")
    after = seen(mode=mode)
    assert after[0] == before[0]
    assert np.array_equal(after[1], before[1])


@pytest.mark.parametrize("mode", MODES)
def test_removed_is_gone(memory, seen, secret_in, mode):
    memory.remove([f"s{n}" for n in range(3)])
    assert not secret_in(*seen(mode=mode)[:2])


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    "options",
    [{"filter": {"n": {"$gte": 0}}}, {"filter": {"n": {"$in": [4, 11]}}}, {"exclude_labels": ["draft"]}],
    ids=["wide", "narrow", "label"],
)
def test_filtered_out_is_not_read_and_a_narrow_filter_leaves_memory(seen, secret_in, mode, options):
    text, vectors, levels = seen(mode=mode, **options)
    assert not secret_in(text, vectors)
    assert mode == "text" or levels_of(levels) == {0, 1}


@pytest.mark.parametrize("mode", MODES)
def test_another_namespace_is_not_read(memory, seen, secret_in, mode):
    memory.remove([f"s{n}" for n in range(3)])
    assert not secret_in(*seen(mode=mode)[:2])
    assert secret_in(*seen(mode=mode, namespace="elsewhere")[:2])
    assert secret_in(*seen(mode=mode, prefix=True)[:2])


def test_a_filter_that_nothing_matches(reader):
    assert reader.answer(QUESTION, filter={"n": 1000}).mode == "none"


def test_streams_and_batches_read_the_same(reader, memory):
    memory.mask(label="draft")
    expected = reader.answer(QUESTION)
    assert reader.stream(QUESTION).answer == expected
    assert reader.answer_batch([QUESTION, "What of the secret?"])[0] == expected
    for answer in reader.answer_batch([QUESTION, "What of the secret?"]):
        assert CODE not in answer.prompt
        assert not {one.document_id for one in answer.sources} & {"s0", "s1", "s2"}
