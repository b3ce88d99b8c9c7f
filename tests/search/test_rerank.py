"""A reranker puts the best chunks into an order of its own, the same one in every mode."""

from __future__ import annotations

import copy
import pickle
from collections import Counter

import numpy as np
import pytest

from mllm_plugin import Document, InvalidInputError, InvalidTypeError, MemoryConfig, MemoryIndex, TreeConfig
from mllm_plugin.hierarchy import PairReranker, as_reranker
from mllm_plugin.protocols import Reranker
from tests.helpers.toy import ToyEncoder

CONFIG = MemoryConfig(tree=TreeConfig(fan_out=4))
DOCUMENTS = [Document(f"note {n} on topic {n % 5} of {n % 3}", id=f"{n:03}") for n in range(120)]
QUESTION = "note on topic 3"


def number(text: str) -> int:
    return int(text.split()[1])


class HighestNumber(Reranker):
    """The higher its number, the better a note."""

    finalists = 20

    def rerank(self, query, texts, scores):
        return [float(number(text)) for text in texts]


class Confirming(Reranker):
    """Gives the scores that it gets."""

    def rerank(self, query, texts, scores):
        return scores

    def relevance(self, score):
        return 0.25


@pytest.fixture(scope="module")
def memory(tmp_path_factory):
    folder = tmp_path_factory.mktemp("reranked") / "memory"
    with MemoryIndex.open(folder, encoder=ToyEncoder(), config=CONFIG) as memory:
        memory.add(DOCUMENTS)
        yield memory


def order(hits):
    return [hit.document_id for hit in hits]


@pytest.mark.parametrize("k", [1, 5, 20, 40])
@pytest.mark.parametrize("mode", ["auto", "flat", "beam", "exact"])
def test_it_orders_the_finalists_and_no_others(memory, mode, k):
    plain = memory.search(QUESTION, k=max(k, 20), mode="exact")
    hits = memory.search(QUESTION, k=k, mode=mode, reranker=HighestNumber())
    assert order(hits) == sorted(order(plain), reverse=True)[:k]
    assert [hit.score for hit in hits] == [float(number(hit.text)) for hit in hits]
    known = {hit.chunk_id: hit for hit in plain}
    for hit in hits:
        assert hit.path[-1].score == known[hit.chunk_id].score
        assert hit.relevance == pytest.approx(1 / (1 + np.exp(-hit.score)))


def test_equal_scores_keep_the_order(memory):
    same = memory.search(QUESTION, k=10, reranker=lambda pairs: [0.0] * len(pairs))
    assert order(same) == order(memory.search(QUESTION, k=10))


def test_without_one_nothing_changes(memory):
    assert memory.search(QUESTION, reranker=None) == memory.search(QUESTION)
    confirmed = memory.search(QUESTION, k=5, reranker=Confirming())
    assert [hit.score for hit in confirmed] == [hit.score for hit in memory.search(QUESTION, k=5)]
    assert {hit.relevance for hit in confirmed} == {0.25}


def test_batch_async_and_recall_do_as_a_search(memory):
    questions = [QUESTION, "note of 2", np.ones(16)]
    single = [memory.search(one, k=3, reranker=HighestNumber()) for one in questions]
    assert memory.search_batch(questions, k=3, reranker=HighestNumber()) == single
    recalls = memory.recall_batch(questions, k=3, reranker=HighestNumber())
    assert [list(one.hits) for one in recalls] == single
    assert [one.node_id for one in recalls[0].levels[1]] == [hit.chunk_id for hit in single[0]]
    assert order(single[2]) == order(memory.search(np.ones(16), k=3)), "a vector has no words to read"


async def test_async(memory):
    hits = await memory.asearch(QUESTION, k=3, reranker=HighestNumber())
    assert hits == memory.search(QUESTION, k=3, reranker=HighestNumber())


def test_of_several_namespaces_it_sees_the_best(tmp_path):
    with MemoryIndex.open(tmp_path, encoder=ToyEncoder(), config=CONFIG) as memory:
        for place, document in enumerate(DOCUMENTS):
            memory.add([document], namespace=("all", f"{place % 2}"))
        plain = memory.search(QUESTION, k=20, namespace="all", prefix=True)
        hits = memory.search(QUESTION, k=3, namespace="all", prefix=True, reranker=HighestNumber())
        assert order(hits) == sorted(order(plain), reverse=True)[:3]
        assert order(memory.search(QUESTION, k=3, namespace=("all", "0"), reranker=HighestNumber())) != order(
            hits
        )


def test_masked_and_filtered_chunks_never_reach_it(tmp_path):
    seen: Counter[str] = Counter()

    def watch(pairs):
        seen.update(text for _, text in pairs)
        return np.arange(len(pairs))

    with MemoryIndex.open(tmp_path, encoder=ToyEncoder(), config=CONFIG) as memory:
        memory.add([Document(one.text, id=one.id, metadata={"n": number(one.text)}) for one in DOCUMENTS])
        memory.mask(["007"])
        memory.search(QUESTION, filter={"n": {"$lt": 30}}, reranker=watch)
        assert sorted(map(number, seen)) == [n for n in range(30) if n != 7]


def test_the_memorys_own(tmp_path):
    with MemoryIndex.open(tmp_path, encoder=ToyEncoder(), config=CONFIG, reranker=HighestNumber()) as memory:
        memory.add(DOCUMENTS)
        own = memory.search(QUESTION)
        assert own == memory.search(QUESTION, reranker=HighestNumber())
        assert own != memory.search(QUESTION, reranker=None)
        for other in (copy.copy(memory), pickle.loads(pickle.dumps(memory))):
            with other:
                assert other.search(QUESTION) == own


def test_one_chunk_of_each_document(tmp_path):
    with MemoryIndex.open(tmp_path, encoder=ToyEncoder(), config=CONFIG) as memory:
        long = " ".join(f"note {n} on topic 3 ." for n in range(100))
        memory.add([Document(long, id="long"), *DOCUMENTS[:30]])
        hits = memory.search(QUESTION, k=10, unique_documents=True, reranker=HighestNumber())
        assert len(set(order(hits))) == len(hits) == 10


class SentenceTransformersLike:
    def predict(self, sentences, batch_size=32):
        return np.array([len(text) / 100 for _, text in sentences], dtype=np.float32)


class LangChainLike:
    def score(self, text_pairs):
        return [len(text) / 100 for _, text in text_pairs]


@pytest.mark.parametrize("model", [SentenceTransformersLike(), LangChainLike(), LangChainLike().score])
def test_cross_encoders_of_frameworks(memory, model):
    first, *_ = memory.search(QUESTION, reranker=model)
    assert first.score == pytest.approx(len(first.text) / 100)
    calibrated = memory.search(QUESTION, reranker=PairReranker(model, calibrated=True))[0]
    assert calibrated.relevance == calibrated.score
    assert as_reranker(model).finalists == 50


def test_a_duck_needs_rerank_only():
    class Duck:
        def rerank(self, query, texts, scores):
            return scores

    duck = as_reranker(Duck())
    assert isinstance(duck, Reranker)
    assert (duck.finalists, duck.relevance(0.0)) == (50, 0.5)
    assert duck.relevance(-1000.0) == 0.0


@pytest.mark.parametrize(
    ("scores", "problem"),
    [
        (lambda n: [0.0] * (n + 1), "scores of shape"),
        (lambda n: [float("nan")] * n, "finite"),
        (lambda n: np.zeros((n, 2)), "scores of shape"),
        (lambda n: ["good"] * n, "no numbers"),
    ],
)
def test_what_it_returns_is_checked(memory, scores, problem):
    with pytest.raises(InvalidInputError, match=problem):
        memory.search(QUESTION, reranker=lambda pairs: scores(len(pairs)))


@pytest.mark.parametrize("given", [3, "cross-encoder/ms-marco-MiniLM-L-6-v2", LangChainLike])
def test_what_is_no_reranker_is_refused(tmp_path, memory, given):
    with pytest.raises(InvalidTypeError, match="no reranker"):
        memory.search(QUESTION, reranker=given)
    with pytest.raises(InvalidTypeError, match="no reranker"):
        MemoryIndex.open(tmp_path / "new", encoder=ToyEncoder(), reranker=given)
    assert not (tmp_path / "new").exists()


def test_it_must_want_some_finalists(memory):
    with pytest.raises(InvalidInputError, match="finalists must be at least 1"):
        memory.search(QUESTION, reranker=PairReranker(LangChainLike(), finalists=0))


def test_a_cross_encoder_of_sentence_transformers(tmp_path, memory):
    library = pytest.importorskip("sentence_transformers", reason="pip install sentence-transformers")
    import torch
    from transformers import BertConfig, BertForSequenceClassification, BertTokenizerFast

    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "note", "on", "topic", "of", *map(str, range(120))]
    (tmp_path / "vocab.txt").write_text("\n".join(words))
    BertTokenizerFast(str(tmp_path / "vocab.txt")).save_pretrained(tmp_path)
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    model = BertForSequenceClassification(BertConfig(vocab_size=len(words), num_labels=1, **sizes))
    model.save_pretrained(tmp_path)
    cross_encoder = library.CrossEncoder(str(tmp_path), device="cpu")
    hits = memory.search(QUESTION, k=3, reranker=cross_encoder)
    expected = cross_encoder.predict([(QUESTION, hit.text) for hit in hits])
    assert np.allclose([hit.score for hit in hits], expected, atol=1e-5)
    assert [hit.relevance for hit in hits] == [hit.score for hit in hits], "it ends in a sigmoid"
    plain = library.CrossEncoder(str(tmp_path), device="cpu", activation_fn=torch.nn.Identity())
    assert not PairReranker(plain).calibrated
    assert [hit.score for hit in hits] == sorted((hit.score for hit in hits), reverse=True)
