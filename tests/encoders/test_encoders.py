"""Encoder 1 with the real default model, against a plain reading of its definition."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import torch

from mllm_plugin import (
    Document,
    InvalidInputError,
    InvalidTypeError,
    MemoryIndex,
    ModelNotFoundError,
)
from mllm_plugin.encoders import DEFAULT_ENCODER, FrameworkEncoder, VectorsOnly, as_encoder, resolve_model
from mllm_plugin.encoders.huggingface import HuggingFaceEncoder
from mllm_plugin.text.chunking import split_text
from tests.helpers.file_tools import value
from tests.helpers.toy import ToyEncoder

_TEXTS = [
    "A short one.",
    "The quick brown fox jumps over the lazy dog. " * 8,
    "Ünïcode — 你好, naïve café 👩‍👩‍👧!",
    "one",
]


@pytest.fixture(scope="module")
def minilm():
    return as_encoder(DEFAULT_ENCODER)


@pytest.fixture(scope="module")
def model_folder():
    return resolve_model(DEFAULT_ENCODER)


def _reference(folder, text: str) -> tuple[np.ndarray, np.ndarray]:
    """Mean of the token states, and of every 16 between the special tokens, one text at a time."""
    from transformers import AutoModel, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    inputs = tokenizer(text, truncation=True, max_length=256, return_tensors="pt")
    with torch.inference_mode():
        states = AutoModel.from_pretrained(folder)(**inputs).last_hidden_state[0]
    content = states[1:-1]
    means = torch.stack([content[at : at + 16].mean(dim=0) for at in range(0, len(content), 16)])
    return (torch.nn.functional.normalize(rows, dim=-1).numpy() for rows in (states.mean(dim=0), means))


@pytest.mark.parametrize("place", range(len(_TEXTS)), ids=["short", "long", "unicode", "word"])
def test_pooled_and_windows_are_the_models_own(minilm, model_folder, place, capfd):
    pooled, windows = minilm.encode_documents(_TEXTS)
    expected, expected_windows = _reference(model_folder, _TEXTS[place])
    assert np.allclose(pooled[place], expected, atol=1e-5)
    assert np.allclose(windows[place], expected_windows, atol=1e-5)
    assert np.allclose(minilm.encode_queries([_TEXTS[place]])[0], expected, atol=1e-5)


def test_nothing_to_encode(minilm):
    pooled, windows = minilm.encode_documents([])
    assert pooled.shape == (0, 384)
    assert windows == []


def test_chunks_by_the_models_tokenizer_have_exact_offsets(minilm):
    text = " ".join(_TEXTS) * 5
    spans = split_text(text, 32, minilm.token_offsets)
    assert len(spans) > 10
    tokens = [len(minilm.token_offsets(text[span.start : span.end])) for span in spans]
    assert max(tokens) <= 32
    assert minilm.max_tokens == 254


def test_prefixes_change_vectors_and_fingerprint_but_not_windows_count(minilm, model_folder):
    prefixed = HuggingFaceEncoder(model_folder, query_prefix="query: ", document_prefix="passage: ")
    assert prefixed.fingerprint != minilm.fingerprint
    assert prefixed.max_tokens < minilm.max_tokens
    assert not np.allclose(prefixed.encode_queries(["fox"]), minilm.encode_queries(["fox"]), atol=1e-3)
    assert np.allclose(prefixed.encode_queries(["fox"]), minilm.encode_queries(["query: fox"]), atol=1e-5)
    text = " ".join(["fox"] * 40)
    (windows,), (plain,) = prefixed.encode_documents([text])[1], minilm.encode_documents([text])[1]
    assert windows.shape == plain.shape
    pooled, (asked,) = prefixed.encode_query_windows([text])
    assert np.allclose(pooled, prefixed.encode_queries([text]), atol=1e-5)
    assert asked.shape == plain.shape


@pytest.mark.parametrize(
    ("config", "pooling"), [("pooling_mode_cls_token", "cls"), ("pooling_mode_max_tokens", "max")]
)
def test_pooling_is_read_from_the_models_configuration(tmp_path, minilm, model_folder, config, pooling):
    copy = tmp_path / "model"
    shutil.copytree(model_folder, copy)
    (copy / "1_Pooling" / "config.json").write_text(
        json.dumps({config: True, "pooling_mode_mean_tokens": False})
    )
    encoder = HuggingFaceEncoder(copy)
    assert encoder.pooling == pooling
    assert encoder.fingerprint != minilm.fingerprint
    assert not np.allclose(encoder.encode_queries(["a fox"]), minilm.encode_queries(["a fox"]), atol=1e-2)


def test_modules_that_are_not_understood_are_refused(tmp_path, model_folder):
    copy = tmp_path / "model"
    shutil.copytree(model_folder, copy)
    modules = json.loads((copy / "modules.json").read_text())
    modules.append({"idx": 3, "name": "3", "path": "3_Dense", "type": "sentence_transformers.models.Dense"})
    (copy / "modules.json").write_text(json.dumps(modules))
    with pytest.raises(InvalidInputError, match="Dense is not supported"):
        HuggingFaceEncoder(copy)


def test_a_model_that_is_nowhere_names_all_places(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(
        ModelNotFoundError, match=r"\(1\) the path.*\(2\) local packages.*\(3\).*\(4\) the hub"
    ):
        as_encoder("nobody/no-such-model")


class LangChainLike:
    """The methods of a LangChain `Embeddings`."""

    def __init__(self, model="toy-1", batch_size=4):
        self.model, self.batch_size, self._toy = model, batch_size, ToyEncoder()

    def embed_documents(self, texts):
        return self._toy.encode_documents(texts)[0].tolist()

    def embed_query(self, text):
        return self._toy.encode_queries([text])[0].tolist()


class LlamaIndexLike(LangChainLike):
    """The methods of a LlamaIndex `BaseEmbedding`."""

    embed_documents = embed_query = None

    def get_text_embedding_batch(self, texts):
        return LangChainLike.embed_documents(self, texts)

    def get_query_embedding(self, text):
        return LangChainLike.embed_query(self, text)


@pytest.mark.parametrize("model", [LangChainLike(), LlamaIndexLike()], ids=["langchain", "llama-index"])
def test_framework_embeddings_stand_in(tmp_path, model):
    with MemoryIndex.open(tmp_path / "memory", encoder=model) as memory:
        memory.add([Document("apple pie with cream", id="a"), Document("steel bridge", id="b")])
        assert memory.search("apple", k=1)[0].document_id == "a"
        assert memory.verify().ok


def test_windows_may_come_from_a_second_encoder(tmp_path):
    encoder = FrameworkEncoder(LangChainLike(), windows=ToyEncoder())
    with MemoryIndex.open(tmp_path / "memory", encoder=encoder) as memory:
        memory.add([Document("one two three four five", id="a")])
        assert value(memory, "SELECT length(data) FROM windows") == 2 * (4 + 16)
    with pytest.raises(InvalidInputError, match="8 dimensions, expected 16"):
        FrameworkEncoder(LangChainLike(), windows=ToyEncoder(8))


def test_the_name_of_a_framework_model_is_made_of_what_changes_vectors():
    names = {
        FrameworkEncoder(model).fingerprint
        for model in (LangChainLike(), LangChainLike(batch_size=9), LangChainLike("toy-2"))
    }
    assert len(names) == 2


def test_what_is_no_encoder_is_refused():
    with pytest.raises(InvalidTypeError, match="object is no encoder"):
        as_encoder(object())


def test_vectors_only_memory(tmp_path):
    with MemoryIndex.open(tmp_path / "memory", encoder=VectorsOnly(3)) as memory:
        memory.add([Document("x", id="x"), Document("y", id="y")], embeddings=[[1, 0, 0], [0, 1, 0]])
        assert memory.search([0, 2, 0], k=1)[0].document_id == "y"
        assert memory.search("anything", embedding=[1, 0, 0], k=1)[0].document_id == "x"
        with pytest.raises(InvalidInputError, match="no encoder"):
            memory.add([Document("z")])


def test_unchanged_text_is_never_encoded_again(memory, encoder):
    documents = [Document(f"text number {n} about things", id=str(n)) for n in range(5)]
    assert memory.add(documents).encoded == 5
    seen = len(encoder.encoded)
    assert memory.add(documents).unchanged == 5
    assert memory.add([Document(documents[0].text, id="copy")]).encoded == 0
    assert memory.add([Document(documents[1].text, id="1", metadata={"new": True})]).updated == 1
    assert len(encoder.encoded) == seen
    memory.remove(["0", "copy"])
    assert memory.add([documents[0]]).encoded == 1
