"""Which encoder a memory was written with: told by what it computes where its name says too little."""

from __future__ import annotations

import hashlib
import json
import runpy
import subprocess
import sys
import textwrap

import numpy as np
import pytest

from mllm_plugin import Document, EncoderMismatchError, MemoryIndex, reembed
from mllm_plugin.encoders import FrameworkEncoder
from mllm_plugin.encoders.identity import AGREEMENT, agreement, sample_of
from tests.helpers.file_tools import changing, value
from tests.helpers.toy import ToyEncoder

TEXTS = [Document("apple pie with cream", id="a"), Document("steel bridge over a river", id="b")]


class Embeddings:
    """A LangChain `Embeddings` of a toy; what is set on it may name the model, or not."""

    def __init__(self, seed=0, noise=0.0, instruction="", **settings):
        self._toy, self._turn = (
            ToyEncoder(),
            np.linalg.qr(np.random.default_rng(seed).normal(size=(16, 16)))[0],
        )
        self._noise, self._drawn, self._instruction = noise, np.random.default_rng(), instruction
        self.asked = 0
        vars(self).update(settings)

    def embed_documents(self, texts):
        self.asked += 1
        vectors = self._toy.encode_queries(texts) @ self._turn
        return (vectors + self._noise * self._drawn.normal(size=vectors.shape)).tolist()

    def embed_query(self, text):
        return self.embed_documents([self._instruction + text])[0]


class Renamed(Embeddings):
    """The same under another name, as when a script's class is imported later."""


def written(folder, model, documents=TEXTS):
    with MemoryIndex.open(folder, encoder=model) as memory:
        memory.add(documents)
        return memory.encoder.fingerprint


def found(folder, model) -> str:
    with MemoryIndex.open(folder, encoder=model) as memory:
        return memory.search("apple pie", k=1)[0].document_id


def as_older_release(folder, fingerprint=None) -> None:
    """Takes out what older releases did not write."""
    with changing(folder) as tx:
        tx.execute("DELETE FROM meta WHERE key = 'probes'")
        if fingerprint:
            tx.execute("UPDATE meta SET value = ? WHERE key = 'encoder'", (fingerprint,))


def test_an_object_among_the_settings_leaves_no_address(tmp_path):
    script = tmp_path / "use.py"
    script.write_text(
        textwrap.dedent("""
            from mllm_plugin.encoders import FrameworkEncoder
            from tests.encoders.test_encoder_identity import Embeddings
            settings = {"model": object(), "encode_kwargs": {"a": object()}, "model_name": "toy"}
            print(FrameworkEncoder(Embeddings(**settings)).fingerprint)
        """)
    )
    run = [sys.executable, str(script)]
    path = {"PYTHONPATH": ":".join(sys.path)}
    names = {subprocess.run(run, env=path, capture_output=True, text=True, check=True).stdout for _ in "ab"}
    assert len(names) == 1
    assert names == {FrameworkEncoder(Embeddings(model_name="toy")).fingerprint + "\n"}


def test_a_model_with_an_object_inside_opens_its_memory_again(tmp_path):
    written(tmp_path, Embeddings(model=object()))
    assert found(tmp_path, Embeddings(model=object())) == "a"


@pytest.mark.parametrize("documents", [[], TEXTS], ids=["empty", "filled"])
@pytest.mark.parametrize("settings", [{}, {"model_name": "toy"}, {"model_path": "/m"}], ids=str)
def test_another_model_is_refused_though_its_name_is_the_same(tmp_path, documents, settings):
    name = written(tmp_path, Embeddings(seed=1, **settings), documents)
    assert FrameworkEncoder(Embeddings(seed=2, **settings)).fingerprint == name
    with pytest.raises(EncoderMismatchError, match=r"cosine.*reembed.*FrameworkEncoder\(model, fingerprint="):
        MemoryIndex.open(tmp_path, encoder=Embeddings(seed=2, **settings))


def test_another_instruction_for_queries_is_another_model(tmp_path):
    written(tmp_path, Embeddings())
    with pytest.raises(EncoderMismatchError, match="differs from what is stored"):
        MemoryIndex.open(tmp_path, encoder=Embeddings(instruction="find the passage about: "))


def test_the_same_model_under_another_name_keeps_the_name_it_had(tmp_path):
    name = written(tmp_path, Embeddings(model_name="old"))
    model = FrameworkEncoder(Renamed(model_name="new"))
    with MemoryIndex.open(tmp_path, encoder=model) as memory:
        assert memory.encoder.fingerprint == name != model.fingerprint
        assert memory.add(TEXTS).unchanged == 2
        assert memory.search("steel bridge", k=1)[0].document_id == "b"
    written(tmp_path / "second", model)
    assert found(tmp_path / "second", Embeddings()) == "a"


def test_a_class_of_a_script_and_the_same_one_imported(tmp_path, monkeypatch):
    (tmp_path / "my_model.py").write_text(
        "from tests.encoders.test_encoder_identity import Embeddings, written\n"
        "class MyEmb(Embeddings): pass\n"
        "if __name__ == '__main__': written('memory', MyEmb())\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    runpy.run_path("my_model.py", run_name="__main__")
    import my_model

    assert found("memory", my_model.MyEmb()) == "a"


def test_noise_of_a_service_is_tolerated_and_a_random_model_is_called_one(tmp_path):
    written(tmp_path / "noisy", Embeddings(noise=0.01))
    assert found(tmp_path / "noisy", Embeddings(noise=0.01)) == "a"
    written(tmp_path / "random", Embeddings(noise=9))
    with pytest.raises(EncoderMismatchError, match="other vectors for the same text each time"):
        MemoryIndex.open(tmp_path / "random", encoder=Embeddings(noise=9))


def test_a_fingerprint_that_is_given_decides_alone(tmp_path):
    name = written(tmp_path, Embeddings())
    other, asked = Embeddings(seed=3), 1
    MemoryIndex.open(tmp_path, encoder=FrameworkEncoder(other, fingerprint=name)).close()
    assert other.asked == asked
    MemoryIndex.open(tmp_path, encoder=FrameworkEncoder(other, fingerprint=name, dim=16)).close()
    assert other.asked == asked
    with pytest.raises(EncoderMismatchError, match="got 'mine'"):
        MemoryIndex.open(tmp_path, encoder=FrameworkEncoder(Embeddings(), fingerprint="mine"))


def test_a_memory_of_an_older_release_is_told_by_its_own_chunks(tmp_path):
    name = written(tmp_path, Embeddings(model_name="toy"))
    as_older_release(tmp_path)
    assert found(tmp_path, Embeddings(model_name="toy")) == "a"
    with pytest.raises(EncoderMismatchError, match="of 2 texts differs"):
        MemoryIndex.open(tmp_path, encoder=Embeddings(seed=1, model_name="toy"))
    as_older_release(tmp_path, name.replace(name[-16:], "with an address "))
    assert found(tmp_path, Embeddings(model_name="toy")) == "a"


def test_without_chunks_of_its_own_an_older_memory_goes_by_the_name(tmp_path):
    with MemoryIndex.open(tmp_path, encoder=Embeddings()) as memory:
        memory.add(TEXTS, embeddings=np.eye(16)[:2])
    as_older_release(tmp_path)
    MemoryIndex.open(tmp_path, encoder=Embeddings()).close()
    with pytest.raises(EncoderMismatchError, match="was written with encoder"):
        MemoryIndex.open(tmp_path, encoder=Renamed())


def test_the_stored_name_is_the_one_that_older_releases_look_for(tmp_path):
    written(tmp_path, Embeddings(model_name="toy", encode_kwargs={"normalize_embeddings": True}))
    stored = value(tmp_path, "SELECT value FROM meta WHERE key = 'encoder'")
    fields = '{"encode_kwargs": "{\'normalize_embeddings\': True}", "model_name": "toy"}'
    digest = hashlib.sha256(fields.encode()).hexdigest()[:16]
    assert stored == f"{Embeddings.__module__}.Embeddings:16:{digest}"


def test_vectors_of_an_export_are_taken_over_from_the_same_model_only(tmp_path):
    written(tmp_path / "from", Embeddings(seed=1))
    with MemoryIndex.open(tmp_path / "from", encoder=None) as memory:
        records = json.loads(json.dumps(list(memory.export())))
    for seed, encoded in ((1, 0), (2, 2)):
        with MemoryIndex.open(tmp_path / str(seed), encoder=Embeddings(seed=seed)) as memory:
            assert memory.import_records(records).encoded == encoded
            assert memory.search("apple pie", k=1)[0].document_id == "a"


def test_a_copy_goes_on_with_the_same_model_only(tmp_path, monkeypatch):
    written(tmp_path / "from", ToyEncoder())
    with MemoryIndex.open(tmp_path / "from", encoder=None) as memory:
        stops = Embeddings(seed=1)
        with monkeypatch.context() as patch:
            patch.setattr(MemoryIndex, "import_records", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
            with pytest.raises(KeyboardInterrupt):
                reembed(memory, tmp_path / "to", stops, progress=False)
        with pytest.raises(EncoderMismatchError, match="was begun with another encoder"):
            reembed(memory, tmp_path / "to", Embeddings(seed=2), progress=False)
        assert reembed(memory, tmp_path / "to", Renamed(seed=1), progress=False).added == 2


def test_what_agrees(tmp_path):
    encoder = FrameworkEncoder(Embeddings())
    sample = sample_of(encoder)
    again = type(sample).from_json(sample.to_json(), 16)
    assert again.texts == sample.texts
    assert agreement(encoder, again) == pytest.approx(1, abs=1e-3)
    assert agreement(FrameworkEncoder(Embeddings(seed=1)), again) < AGREEMENT
