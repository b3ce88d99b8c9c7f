"""A tiny random Llama with a byte tokenizer, and a small memory of invented facts."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from toy import ToyEncoder

from mllm_plugin import Document, MemoryIndex
from mllm_plugin.llm.models import LoadedLLM, load_llm
from mllm_plugin.training.llm.collect import Labelled

NAMES = [
    "anna",
    "boris",
    "clara",
    "doris",
    "emil",
    "frida",
    "gustav",
    "hanna",
    "ivan",
    "julia",
    "karl",
    "lena",
]
TOWNS = [
    "rome",
    "oslo",
    "lima",
    "cairo",
    "paris",
    "quito",
    "delhi",
    "tunis",
    "berlin",
    "dakar",
    "seoul",
    "bern",
]


def _save_tiny_llama(folder: Path) -> Path:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {"<pad>": 0, "<end>": 1} | {one: place + 2 for place, one in enumerate(alphabet)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<end>", model_max_length=1024
    ).save_pretrained(folder)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(vocabulary), hidden_size=32, intermediate_size=48, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=1024, tie_word_embeddings=True,
        eos_token_id=1, bos_token_id=None, pad_token_id=0,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def llm_folder(tmp_path_factory) -> Path:
    return _save_tiny_llama(tmp_path_factory.mktemp("llama"))


@pytest.fixture
def llm(llm_folder) -> LoadedLLM:
    return load_llm(llm_folder, device="cpu")


@pytest.fixture
def memory(tmp_path):
    with MemoryIndex.open(tmp_path / "memory", encoder=ToyEncoder(16)) as opened:
        opened.add(
            Document(id=name, text=f"{name} was born in {town} and has lived there for many long years since")
            for name, town in zip(NAMES, TOWNS, strict=True)
        )
        yield opened


@pytest.fixture
def questions() -> list[Labelled]:
    return [
        Labelled(f"where was {name} born", (town,), (name,), place >= 10)
        for place, (name, town) in enumerate(zip(NAMES, TOWNS, strict=True))
    ]
