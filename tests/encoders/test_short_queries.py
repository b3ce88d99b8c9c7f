"""Short texts take a quicker way to the same vectors, and batches are planned as they are read."""

from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

from mllm_plugin.encoders.base import document_batches
from mllm_plugin.encoders.huggingface import HuggingFaceEncoder
from mllm_plugin.encoders.onnx import OnnxBert
from mllm_plugin.encoders.short import MOST_TOKENS, ShortBert, short_bert
from mllm_plugin.errors import InvalidInputError
from tests.helpers.tiny_encoder import write_tiny_encoder
from tests.helpers.toy import ToyEncoder

TEXTS = ["a", "the tide is high", "tide 0x80070057?", "seven words, and some of them long", "ab " * 20]


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    return HuggingFaceEncoder(write_tiny_encoder(tmp_path_factory.mktemp("tiny")), device="cpu")


@pytest.fixture
def general(encoder, monkeypatch):
    """Runs that went through the model's own forward pass."""
    seen, plain = [], encoder._model.forward
    monkeypatch.setattr(encoder._model, "forward", lambda **inputs: seen.append(1) or plain(**inputs))
    return seen


@pytest.mark.parametrize("text", TEXTS)
def test_a_short_text_has_the_vectors_of_the_general_way(encoder, general, monkeypatch, text):
    quick = encoder.encode_query_windows([text])
    assert not general
    monkeypatch.setattr(encoder, "_short", None)
    slow = encoder.encode_query_windows([text])
    assert general
    assert np.allclose(quick[0], slow[0], atol=1e-5)
    assert np.allclose(quick[1][0], slow[1][0], atol=1e-5)


@pytest.mark.parametrize("kind", [ShortBert, OnnxBert])
def test_states_are_those_of_the_model(encoder, kind):
    if kind is OnnxBert:
        pytest.importorskip("onnxruntime")
    reader = kind(encoder._model)
    with torch.inference_mode():
        for count in (2, 7, 36):
            tokens = torch.arange(4, 4 + count)
            expected = encoder._model(input_ids=tokens[None]).last_hidden_state[0]
            assert torch.allclose(reader.states(tokens), expected, atol=1e-5)


@pytest.mark.parametrize("missing", ["onnx", "onnxruntime"])
def test_onnx_runtime_is_used_where_it_is_whole(encoder, monkeypatch, missing):
    pytest.importorskip("onnxruntime")
    assert isinstance(short_bert(encoder._model), OnnxBert)
    monkeypatch.setitem(sys.modules, missing, None)
    assert isinstance(short_bert(encoder._model), ShortBert)


def test_threads_side_by_side_get_what_each_asked_for(encoder):
    alone = [encoder.encode_queries([text]) for text in TEXTS]
    with ThreadPoolExecutor(8) as pool:
        for _ in range(20):
            together = pool.map(lambda text: encoder.encode_queries([text]), TEXTS)
            assert all(np.array_equal(one, other) for one, other in zip(alone, together, strict=True))


def test_onnx_runtime_leaves_no_identifier_and_tells_nobody(encoder, tmp_path):
    """Its own releases do, unless told otherwise before they are imported."""
    pytest.importorskip("onnxruntime")
    code = (
        "import sys; from mllm_plugin.encoders.huggingface import HuggingFaceEncoder as Encoder\n"
        "encoder = Encoder(sys.argv[1], device='cpu'); encoder.encode_queries(['a'])\n"
        "print(type(encoder._short).__name__)"
    )
    bare = {"HOME": str(tmp_path), "PATH": os.environ["PATH"], "PYTHONPATH": os.pathsep.join(sys.path)}
    ran = subprocess.run(
        [sys.executable, "-c", code, str(encoder.folder)],
        env=bare,
        capture_output=True,
        text=True,
        check=True,
    )
    assert ran.stdout.split() == ["OnnxBert"]
    assert not [path for path in tmp_path.rglob("*") if "microsoft" in str(path).lower()]


def test_documents_alone_ask_for_no_reader_of_short_texts(tmp_path):
    encoder = HuggingFaceEncoder(write_tiny_encoder(tmp_path), device="cpu")
    encoder.encode_documents(TEXTS)
    assert "_short" not in vars(encoder)


def test_other_models_and_longer_texts_go_the_general_way(encoder, general):
    encoder.encode_queries(["a" * (MOST_TOKENS - 1)])
    encoder.encode_queries(["short", "but two"])
    assert len(general) == 2
    assert ShortBert.reads(encoder._model)
    assert not ShortBert.reads(torch.nn.Linear(2, 2))
    assert not ShortBert.reads(encoder._model.__class__(encoder._model.config).half())


def test_planned_batches_are_the_passes_of_one_call(encoder, general, monkeypatch):
    """So encoding batch by batch costs no more, and gives the same bits."""
    monkeypatch.setattr(encoder, "batch_tokens", 96)
    texts = [text * count for count in (1, 3) for text in TEXTS]
    whole = encoder.encode_documents(texts)
    passes = len(general)
    batches = document_batches(encoder, texts)
    assert 1 < len(batches) < len(texts)
    assert sorted(row for rows in batches for row in rows) == list(range(len(texts)))
    for rows in batches:
        pooled, windows = encoder.encode_documents([texts[row] for row in rows])
        assert np.array_equal(pooled, whole[0][rows])
        assert all(np.array_equal(one, whole[1][row]) for one, row in zip(windows, rows, strict=True))
    assert len(general) == 2 * passes


def test_an_encoder_must_name_every_text_once(encoder, monkeypatch):
    monkeypatch.setattr(encoder, "document_batches", lambda texts: [[0], [0]])
    with pytest.raises(InvalidInputError, match="document_batches"):
        document_batches(encoder, ["a", "b"])


def test_without_a_choice_of_its_own_texts_of_a_length_go_together():
    texts = ["x" * (number * 37 % 200) for number in range(150)]
    batches = document_batches(ToyEncoder(), texts)
    assert [len(rows) for rows in batches] == [64, 64, 22]
    lengths = [len(texts[row]) for rows in batches for row in rows]
    assert lengths == sorted(lengths, reverse=True)
