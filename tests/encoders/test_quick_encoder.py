"""The encoder that needs no torch for a query says and computes what the loaded one does."""

from __future__ import annotations

import json
import shutil
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from mllm_plugin.encoders import DEFAULT_ENCODER, resolve_model
from mllm_plugin.encoders.bert import NumpyBert
from mllm_plugin.encoders.folder import ModelFolder
from mllm_plugin.encoders.huggingface import HuggingFaceEncoder
from mllm_plugin.encoders.identity import is_anonymous
from mllm_plugin.encoders.quick import QuickEncoder, quick_encoder
from mllm_plugin.errors import EncoderMismatchError, InvalidInputError

QUERIES = {
    "short": "How often does the horn sound?",
    "word": "x",
    "windows": "A sentence that goes on and on, over several windows. " * 6,
    "unicode": "Ünïcode — 你好, naïve café ß ﬁ İ 👩‍👩‍👧! \u00ad",
    "one long word": "a" * 150,
    "beyond the input": "fox " * 300,
    "beyond what is quick": "foxes " * 400,
}


@pytest.fixture(scope="module")
def folder():
    return resolve_model(DEFAULT_ENCODER)


@pytest.fixture
def copy(tmp_path, folder):
    return shutil.copytree(folder, tmp_path / "model")


@pytest.fixture(scope="module")
def loaded(folder):
    return HuggingFaceEncoder(folder)


def rewrite(path, **changes) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


@pytest.mark.parametrize("text", QUERIES.values(), ids=QUERIES)
def test_queries_are_the_loaded_encoders(folder, loaded, text):
    quick = quick_encoder(folder)
    pooled, (windows,) = quick.encode_query_windows([text])
    expected, (expected_windows,) = loaded.encode_query_windows([text])
    assert np.allclose(pooled, expected, atol=2e-6)
    assert np.allclose(windows, expected_windows, atol=2e-6)
    assert np.allclose(quick_encoder(folder).encode_queries([text]), expected, atol=2e-6)
    assert np.array_equal(quick_encoder(folder).token_offsets(text), loaded.token_offsets(text))
    assert ("loaded" in vars(quick)) == text.startswith("fox")


def test_it_says_what_the_loaded_encoder_says(folder, loaded):
    quick = quick_encoder(folder)
    told = (quick.dim, quick.fingerprint, quick.max_tokens, quick.folder)
    assert told == (loaded.dim, loaded.fingerprint, loaded.max_tokens, loaded.folder)
    texts = ["ꦗꦮ ꦱꦸꦤ꧀ꦢ", "Füchse ﬁnden", ""]
    assert quick.cannot_read(texts) == loaded.cannot_read(texts) == [True, False, False]
    assert quick.window_tokens == loaded.window_tokens
    assert not is_anonymous(quick)
    assert "loaded" not in vars(quick)


def test_documents_are_the_loaded_encoders(folder, loaded):
    pooled, windows = quick_encoder(folder).encode_documents(["A fox.", "Two foxes."])
    expected, expected_windows = loaded.encode_documents(["A fox.", "Two foxes."])
    assert np.array_equal(pooled, expected)
    assert all(map(np.array_equal, windows, expected_windows))
    assert quick_encoder(folder).window_spans(["A fox."]) == loaded.window_spans(["A fox."])


def test_short_documents_need_not_wait_for_it(folder, loaded):
    quick = quick_encoder(folder, documents=True)
    texts = ["A fox.", " ".join(["Two foxes."] * 20), "Füchse ﬁnden"]
    assert quick.document_batches(texts) == [[0], [1], [2]]
    pooled, windows = quick.encode_documents(texts)
    assert "loaded" not in vars(quick)
    expected, expected_windows = loaded.encode_documents(texts)
    assert np.allclose(pooled, expected, atol=2e-6)
    assert all(np.allclose(*pair, atol=2e-6) for pair in zip(windows, expected_windows, strict=True))
    quick.encode_documents(["A fox. " * 400])
    assert "loaded" in vars(quick)
    assert np.array_equal(quick.encode_documents(texts)[0], loaded.encode_documents(texts)[0])


def test_it_is_loaded_once_for_all_threads(folder):
    quick = quick_encoder(folder)
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: quick.loaded, range(4)))
    assert all(one is found[0] for one in found)


@pytest.mark.parametrize("mode", ["cls_token", "max_tokens"])
def test_pooling_and_prompts_of_the_folder(copy, mode):
    settings = {f"pooling_mode_{mode}": True, "pooling_mode_mean_tokens": False}
    (copy / "1_Pooling" / "config.json").write_text(json.dumps(settings))
    prompts = {"query": "find what answers: ", "document": "passage: "}
    rewrite(copy / "config_sentence_transformers.json", prompts=prompts)
    quick, loaded = quick_encoder(copy), HuggingFaceEncoder(copy)
    assert (quick.fingerprint, quick.max_tokens) == (loaded.fingerprint, loaded.max_tokens)
    text = "The quick brown fox. " * 10
    pooled, (windows,) = quick.encode_query_windows([text])
    expected, (expected_windows,) = loaded.encode_query_windows([text])
    assert np.allclose(pooled, expected, atol=2e-6)
    assert np.allclose(windows, expected_windows, atol=2e-6)


def test_a_prompt_that_leaves_no_room_is_refused(copy):
    rewrite(copy / "config_sentence_transformers.json", prompts={"query": "fox " * 300})
    with pytest.raises(InvalidInputError, match=r"a prefix of 300 tokens leaves -\d+ of the 256"):
        _ = quick_encoder(copy).max_tokens


def test_another_bert_with_layers_of_its_own(tmp_path, copy):
    from transformers import BertConfig, BertModel

    torch.manual_seed(0)
    config = BertConfig(
        hidden_size=48, num_attention_heads=4, num_hidden_layers=3, intermediate_size=96, layer_norm_eps=1e-5
    )
    BertModel(config).save_pretrained(copy)
    quick, loaded = quick_encoder(copy), HuggingFaceEncoder(copy)
    assert quick.fingerprint == loaded.fingerprint
    pooled, _ = quick.encode_query_windows([QUERIES["windows"]])
    assert np.allclose(pooled, loaded.encode_queries([QUERIES["windows"]]), atol=2e-6)
    assert "loaded" not in vars(quick)


OTHERS = {
    "activation": ("config.json", {"hidden_act": "relu"}),
    "architecture": ("config.json", {"model_type": "mpnet"}),
    "tokenizer": ("tokenizer_config.json", {"tokenizer_class": "PreTrainedTokenizerFast"}),
    "case": ("tokenizer_config.json", {"do_lower_case": False}),
}


@pytest.mark.parametrize(("file", "changes"), OTHERS.values(), ids=OTHERS)
def test_what_numpy_would_read_otherwise_is_left_to_the_loaded_encoder(copy, file, changes):
    rewrite(copy / file, **changes)
    assert not NumpyBert.reads(ModelFolder(copy))


def test_weights_that_lack_a_part_are_left_to_the_loaded_encoder(copy):
    weights = load_file(copy / "model.safetensors")
    del weights["encoder.layer.5.output.dense.bias"]
    save_file(weights, copy / "model.safetensors")
    assert not NumpyBert.reads(ModelFolder(copy))
    (copy / "model.safetensors").write_bytes(b"version https://git-lfs.github.com/spec/v1\n")
    assert not NumpyBert.reads(ModelFolder(copy))


def test_a_folder_that_does_not_say_its_width_is_loaded_at_once(copy):
    from transformers import DistilBertConfig, DistilBertModel

    DistilBertModel(DistilBertConfig(dim=48, n_heads=4, n_layers=2, hidden_dim=96)).save_pretrained(copy)
    encoder = quick_encoder(copy)
    assert isinstance(encoder, HuggingFaceEncoder)
    assert encoder.dim == 48


def test_files_that_change_in_between_are_noticed(copy):
    quick = quick_encoder(copy)
    assert isinstance(quick, QuickEncoder)
    rewrite(copy / "sentence_bert_config.json", max_seq_length=64)
    with pytest.raises(EncoderMismatchError, match="run the command again"):
        quick.encode_documents(["A fox."])


def test_a_damaged_file_of_the_folder_is_named(copy):
    (copy / "modules.json").write_text("[{")
    with pytest.raises(InvalidInputError, match=r"modules\.json is cut short or no JSON"):
        quick_encoder(copy)


def test_a_query_takes_one_thread(monkeypatch) -> None:
    """With more, numpy's threads wait for each other many times longer than they work."""
    from threadpoolctl import threadpool_info

    seen = []
    encoder = quick_encoder(DEFAULT_ENCODER)
    states = NumpyBert._states

    def watched(self, tokens):
        seen.append({one["num_threads"] for one in threadpool_info() if one["user_api"] == "blas"})
        return states(self, tokens)

    monkeypatch.setattr(NumpyBert, "_states", watched)
    encoder.encode_queries(["herons"])
    assert seen == [{1}]
