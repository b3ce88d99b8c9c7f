"""Windows of words: another level 0 of the same encoder, with a fingerprint of its own."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mllm_plugin.encoders.huggingface import HuggingFaceEncoder
from mllm_plugin.llm.adapter import Adapter
from mllm_plugin.training.llm.start import spoken, start_projector

TEXT = "The American Broadcasting Company is a commercial broadcast television network."


@pytest.fixture(scope="module")
def encoders() -> tuple[HuggingFaceEncoder, HuggingFaceEncoder]:
    return HuggingFaceEncoder(window_tokens=4), HuggingFaceEncoder(window_tokens=4, window_layer=0)


def test_windows_are_the_words_themselves(encoders) -> None:
    states, words = encoders
    pooled, windows = words.encode_documents([TEXT])
    assert states.fingerprint != words.fingerprint
    assert np.array_equal(pooled, states.encode_documents([TEXT])[0])
    ids = words._tokenizer(TEXT, return_tensors="pt")["input_ids"]
    with torch.inference_mode():
        rows = words._model.embeddings(input_ids=ids)[0, 1:-1]
    expected = [torch.nn.functional.normalize(part.mean(0), dim=-1).numpy() for part in rows.split(4)]
    assert np.allclose(windows[0], np.stack(expected), atol=1e-6)


def test_words_of_windows_follow_the_encoders_offsets(encoders, llm) -> None:
    _, words = encoders
    windows = words.encode_documents([TEXT])[1]
    found = spoken([TEXT], windows, None, llm, size=4, offsets=words.token_offsets)
    texts = [llm.tokenizer.decode(ids.tolist()).strip() for ids in found.words]
    assert " ".join(texts) == TEXT
    assert texts[0] == "The American Broadcasting Company"


def test_a_started_projector_points_to_the_words(llm) -> None:
    rng = np.random.default_rng(0)
    texts = ["".join(rng.choice(list("abcdefghij"), 6)) for _ in range(64)]
    windows = [np.eye(16, dtype=np.float32)[[ord(one[0]) - ord("a")]] for one in texts]
    adapter = Adapter.create(llm, encoder="e", dim=16, lora_rank=0, width=32)
    given = spoken(texts, windows, None, llm)
    first = start_projector(adapter.projector, given, llm, steps=1)
    assert start_projector(adapter.projector, given, llm, steps=60) < first
