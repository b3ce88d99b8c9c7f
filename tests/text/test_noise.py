"""What has no meaning is stored, is found by its words, and ranks behind everything else."""

from __future__ import annotations

import base64
from random import Random

import numpy as np
import pytest

from mllm_plugin import Document, MemoryIndex
from mllm_plugin.encoders import DEFAULT_ENCODER, FrameworkEncoder, as_encoder
from mllm_plugin.memory_llm.passages import choose_passages
from mllm_plugin.text.letters import is_noise
from mllm_plugin.types import Hit, MemoryEmbedding
from tests.helpers.toy import ToyEncoder

_RANDOM = Random(0)
_KEY = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"
_BYTES = _RANDOM.randbytes(900)
_NOISE = {
    "hex": _BYTES.hex(),
    "upper-hex": _BYTES.hex().upper(),
    "hash": _KEY,
    "hashes": "\n".join(_RANDOM.randbytes(32).hex() for _ in range(9)),
    "dump": _BYTES.hex(" ", 2),
    "addressed-dump": "\n".join(f"{n:08x}: {_BYTES[n : n + 16].hex(' ')}" for n in range(0, 320, 16)),
    "uuids": "\n".join(
        f"{a}-{b}-{c}" for a, b, c in zip(*[iter(_BYTES.hex(" ", 4).split())] * 3, strict=False)
    ),
    "base64": base64.b64encode(_BYTES).decode(),
    "base64-lines": base64.encodebytes(_BYTES).decode(),
    "data-uri": f"![](data:image/png;base64,{base64.b64encode(_BYTES).decode()})",
    "genome": "\n".join("".join(_RANDOM.choices("ACGT", k=60)) for _ in range(9)),
    "one-letter": "x" * 500,
    "tokens": " ".join(base64.b64encode(_RANDOM.randbytes(30)).decode() for _ in range(5)),
}
_TEXT = {
    "prose": "The museum opens at nine in the morning and closes at six.",
    "commit": f"Fixed in {_KEY[:40]}, which resets the pump when the green button is held for ten seconds.",
    "checksums": f"The archive tides-of-2024.tar.gz has the checksum {_KEY}; compare it after the download.",
    "numbers": "\n".join(", ".join(f"{_RANDOM.random():.3e}" for _ in range(6)) for _ in range(9)),
    "years": " ".join(str(year) for year in range(1900, 1990)),
    "hex-words": "added a bad cab, dead bee, faded facade, a decade added, fed a cafe; bed dabbed " * 3,
    "identifiers": "AbstractSingletonProxyFactoryBean getUserByIdAndName PyErr_SetString toStringTag",
    "path": "https://example.org/docs/user/guide/tides/harbour/opening/hours/of/the/museum/index.html",
    "german": "Rindfleischetikettierungsüberwachungsaufgabenübertragungsgesetz",
    "thai": "ภาษาไทยเป็นภาษาที่มีระดับเสียงของคำแน่นอน" * 9,
    "short": "d41d8cd98f00b204",
}


@pytest.mark.parametrize("kind", _NOISE)
def test_noise_is_recognised(kind):
    assert is_noise(_NOISE[kind])


@pytest.mark.parametrize("kind", _TEXT)
def test_text_is_no_noise(kind):
    assert not is_noise(_TEXT[kind])


@pytest.fixture(scope="module")
def minilm():
    return as_encoder(DEFAULT_ENCODER)


@pytest.fixture(scope="module")
def mixed(minilm, tmp_path_factory):
    """Six documents, and one of each kind of noise among them, more of it than of text."""
    texts = [
        _TEXT["prose"],
        _TEXT["commit"],
        "Our refund policy allows returns within thirty days of purchase.",
        "High water at the harbour comes about an hour later every day.",
        "Bees leave the hive when the temperature rises above ten degrees.",
        "The parliament voted on the new budget in December.",
    ]
    documents = [Document(text, id=f"text-{place}") for place, text in enumerate(texts)]
    documents += [Document(text, id=kind) for kind, text in (_NOISE | {"thai": _TEXT["thai"]}).items()]
    with MemoryIndex.open(tmp_path_factory.mktemp("mixed"), encoder=minilm) as memory:
        memory.add(documents)
        yield memory


@pytest.mark.parametrize("mode", ["beam", "flat", "exact"])
@pytest.mark.parametrize(
    "query", ["hello", "checksum", "when does the museum open", "random letters", "the cat"]
)
def test_no_noise_ranks_before_a_document(mixed, query, mode):
    hits = mixed.search(query, k=6, mode=mode, unique_documents=True)
    assert [hit.document_id[:5] for hit in hits] == ["text-"] * 6
    assert mixed.search(query, k=100, mode=mode)[-1].document_id[:5] != "text-"


@pytest.mark.parametrize("mode", ["beam", "flat", "exact"])
def test_noise_is_found_by_its_words(mixed, mode):
    assert mixed.search(_KEY, k=1, mode=mode)[0].document_id == "hash"
    assert mixed.search(f"which file has {_KEY}", k=1, mode=mode)[0].document_id == "hash"
    assert mixed.search("ภาษาไทย", k=1, mode=mode)[0].document_id == "thai"


def test_modes_agree_on_noise_and_the_memory_verifies(mixed):
    for query in ("hello", _KEY, "ภาษา"):
        beam, flat, exact = (mixed.search(query, k=50, mode=mode) for mode in ("beam", "flat", "exact"))
        assert beam == flat == exact
    assert mixed.verify().problems == ()


def test_noise_is_never_encoded_and_moves_no_node(tmp_path):
    toy = ToyEncoder()
    with MemoryIndex.open(tmp_path / "memory", encoder=toy) as memory:
        report = memory.add([Document(text, id=kind) for kind, text in _NOISE.items()])
        assert (report.added, report.encoded, toy.encoded) == (len(_NOISE), 0, [])
        assert memory.add([Document("some text", id="text")]).encoded == 1
        assert memory.search("anything", k=1)[0].document_id == "text"
        assert memory.get(["hex"])[0].text == _NOISE["hex"]
        records = list(memory.export())
    with MemoryIndex.open(tmp_path / "copy", encoder=toy) as copy:
        copy.import_records(records)
        assert list(copy.export()) == records
        assert copy.verify().problems == ()


def test_a_framework_encoder_sees_no_noise_either(tmp_path):
    class Embeddings:
        def embed_documents(self, texts):
            assert not any(map(is_noise, texts))
            return [[1.0, 2.0]] * len(texts)

        def embed_query(self, text):
            return [1.0, 2.0]

    encoder = FrameworkEncoder(Embeddings(), fingerprint="two")
    with MemoryIndex.open(tmp_path / "memory", encoder=encoder) as memory:
        memory.add([Document(_NOISE["hex"], id="hex"), Document("text", id="text")])
        assert [hit.document_id for hit in memory.search("other", k=9, unique_documents=True)] == [
            "text",
            "hex",
        ]


def test_what_a_tokenizer_does_not_know_has_no_meaning(minilm):
    texts = [_TEXT["thai"], "plain", "naïve café", "ᚠᚢᚦᚨᚱᚲ " * 9, "the word ᚠᚢᚦᚨᚱᚲ is runic"]
    assert minilm.cannot_read(texts) == [True, False, False, True, False]


# -- what is spelled out


def _hit(text: str) -> Hit:
    return Hit("d", 1, text, 0, len(text), 1.0, 0.5, {}, (), ())


def _window(start: int, end: int, score: float) -> MemoryEmbedding:
    return MemoryEmbedding(0, np.zeros((1, 2), np.float32), score, 1, "d", start, end, ())


@pytest.mark.parametrize("text", [_TEXT["thai"], _NOISE["hex"], "你好" * 400], ids=["thai", "hex", "chinese"])
@pytest.mark.parametrize("spans", [[], [(0, 300)], [(0, 60), (60, 120), (120, 300)]], ids=len)
def test_a_text_without_blanks_is_spelled_out_as_far_as_it_fits(text, spans):
    windows = [_window(*span, score) for score, span in enumerate(spans)]
    (passage,) = choose_passages([_hit(text)], windows, 100, len)
    assert 60 < len(passage.text) <= 100
    assert passage.text in text


def test_windows_of_a_text_without_blanks_are_not_widened_to_all_of_it():
    windows = [_window(at, at + 50, float(at == 100)) for at in range(0, 350, 50)]
    (passage,) = choose_passages([_hit(_TEXT["thai"])], windows, 110, len)
    assert passage.start <= 100
    assert passage.end >= 150


def test_words_are_still_whole_where_there_are_blanks():
    text = " ".join(f"harbour{place}" for place in range(60))
    (passage,) = choose_passages([_hit(text)], [_window(203, 214, 1.0), _window(214, 230, 0.0)], 40, len)
    assert set(passage.text.split()) <= set(text.split())
