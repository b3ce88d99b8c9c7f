"""Encoders in other processes, in copies and on one thread."""

from __future__ import annotations

import copy
import os
import pickle
import subprocess
import sys
import threading

import numpy as np
import pytest
import torch

from mllm_plugin import EncoderMismatchError, InvalidTypeError
from mllm_plugin.encoders import FrameworkEncoder, VectorsOnly, huggingface
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


# -- threads


@pytest.fixture
def two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def test_short_work_has_one_thread_and_the_caller_keeps_its_own(two_threads):
    assert huggingface._on_one_thread(torch.get_num_threads) == 1
    assert torch.get_num_threads() == 2
    found = []
    later = threading.Thread(target=lambda: found.append(torch.get_num_threads()))
    later.start()
    later.join()
    assert found == [2]


def test_an_error_comes_through(two_threads):
    with pytest.raises(ZeroDivisionError):
        huggingface._on_one_thread(lambda: 1 / 0)


def test_only_short_batches_are_read_on_one_thread(folder, two_threads, monkeypatch):
    encoder, seen = HuggingFaceEncoder(folder, device="cpu"), []
    read = encoder._read
    monkeypatch.setattr(encoder, "_read", lambda *given: seen.append(torch.get_num_threads()) or read(*given))
    encoder._weights = 10**8
    short = encoder.encode_queries(["a tide"])
    assert seen == [1]
    long = encoder.encode_queries(["a tide", "a tide of many words which are read together"])
    assert seen == [1, 2]
    assert np.allclose(short[0], long[0], atol=1e-5)


def test_many_callers_at_once(folder, two_threads):
    encoder, found = HuggingFaceEncoder(folder, device="cpu"), {}
    expected = encoder.encode_query_windows(["the tide is high"])[1][0]

    def ask(place):
        found[place] = encoder.encode_query_windows(["the tide is high"])[1][0]

    callers = [threading.Thread(target=ask, args=(place,)) for place in range(12)]
    for one in callers:
        one.start()
    for one in callers:
        one.join()
    assert len(found) == 12
    assert all(np.array_equal(one, expected) for one in found.values())
    assert torch.get_num_threads() == 2


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_forked_process_has_threads_of_its_own(tmp_path):
    code = (
        "import os, warnings, torch; from mllm_plugin.encoders.huggingface import _on_one_thread;"
        "warnings.simplefilter('ignore'); torch.set_num_threads(2); _on_one_thread(int); child = os.fork();"
        "os._exit(_on_one_thread(torch.get_num_threads) + 41) if not child else None;"
        "print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
        env=_environment(),
    )
    assert done.stdout == "42\n"
