"""Encoders in other processes and in copies."""

from __future__ import annotations

import copy
import os
import pickle
import subprocess
import sys
import threading

import numpy as np
import pytest

from mllm_plugin import EncoderMismatchError, InvalidTypeError
from mllm_plugin.encoders import FrameworkEncoder, VectorsOnly
from mllm_plugin.encoders.huggingface import HuggingFaceEncoder
from tests.encoders.test_encoder_identity import Embeddings
from tests.helpers.tiny_encoder import write_tiny_encoder
from tests.helpers.toy import ToyEncoder

TEXTS = ["the tide is high", "a green bicycle"]


@pytest.fixture
def folder(tmp_path):
    return write_tiny_encoder(tmp_path / "model")


def test_a_pickled_encoder_is_loaded_again_where_it_arrives(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(folder.parent)
    encoder = HuggingFaceEncoder("model", pooling="cls", query_prefix="q: ", window_tokens=8)
    pickled = pickle.dumps(encoder)
    assert len(pickled) < 1000
    (tmp_path / "encoder.pickle").write_bytes(pickled)
    code = (
        "import pickle, sys; encoder = pickle.load(open(sys.argv[1], 'rb'));"
        "print(encoder.fingerprint, encoder.encode_queries(['the tide is high'])[0, :3].tolist())"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "encoder.pickle")]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd="/", env=_environment())
    vector = encoder.encode_queries(["the tide is high"])[0, :3]
    assert done.stdout.split(" ", 1)[0] == encoder.fingerprint
    assert np.allclose(np.array(eval(done.stdout.split(" ", 1)[1])), vector, atol=1e-5)


def _environment():
    return {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}


def test_other_weights_in_its_place_are_an_error(folder):
    pickled = pickle.dumps(HuggingFaceEncoder(folder))
    write_tiny_encoder(folder, seed=1)
    with pytest.raises(EncoderMismatchError, match="use the same files in both places"):
        pickle.loads(pickled)


@pytest.mark.parametrize("named", [None, "mine"])
def test_a_pickled_framework_model_is_what_it_was(named):
    encoder = FrameworkEncoder(Embeddings(seed=1), fingerprint=named, windows=None)
    again = pickle.loads(pickle.dumps(encoder))
    assert (again.fingerprint, again.dim, again.anonymous) == (encoder.fingerprint, 16, named is None)
    assert np.array_equal(again.encode_documents(TEXTS)[0], encoder.encode_documents(TEXTS)[0])


def test_windows_of_a_second_encoder_go_along():
    encoder = pickle.loads(pickle.dumps(FrameworkEncoder(Embeddings(), windows=ToyEncoder())))
    assert len(encoder.encode_documents(TEXTS)[1]) == 2


def test_a_framework_model_that_cannot_be_pickled_says_so_and_can_be_copied():
    model = Embeddings(client=threading.Lock())
    encoder = FrameworkEncoder(model)
    with pytest.raises(
        InvalidTypeError, match=r"the embedding model Embeddings cannot be pickled.*make it anew"
    ):
        pickle.dumps(encoder)
    for again in (copy.copy(encoder), copy.deepcopy(encoder)):
        assert again.model is model
        assert np.array_equal(again.encode_queries(TEXTS), encoder.encode_queries(TEXTS))


def test_other_encoders(folder):
    encoder = HuggingFaceEncoder(folder)
    assert copy.deepcopy({"encoder": encoder})["encoder"] is encoder
    assert vars(pickle.loads(pickle.dumps(VectorsOnly(3, "mine")))) == vars(VectorsOnly(3, "mine"))
