"""On a CUDA device the encoder, the memory, the language model and both trainings do as on the CPU.

Everything is tiny and made here, so nothing has to be at hand but the packages. $MLLM_DEVICE=cpu rehearses
them where there is no such device; benchmarks/gpu/run_tests.sh runs them where there is.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from mllm_plugin import Document, MemoryIndex
from mllm_plugin.config import MemoryConfig, SearchConfig, TreeConfig
from mllm_plugin.encoders.huggingface import HuggingFaceEncoder
from mllm_plugin.image import Plan, keeper, tensors
from mllm_plugin.image.placed import placed
from mllm_plugin.image.space import Level, arrange
from mllm_plugin.llm import LoadedLLM, load_llm
from mllm_plugin.memory_llm import MemoryLLM, MemoryLLMConfig
from mllm_plugin.text.lexical import TermCounts
from mllm_plugin.training.reader.loop import one_step, optimizer_of
from mllm_plugin.training.reader.modules import Reader
from mllm_plugin.training.reader.prompts import Prompts, prompt_parts
from mllm_plugin.training.reader.rows import Sizes
from mllm_plugin.training.reader.stack import LlamaStack
from mllm_plugin.training.reader.steps import TensorStep
from mllm_plugin.training.reader.tasks import Sampler
from mllm_plugin.training.reader.texts import Asked, prepare
from tests.helpers.image_tools import all_found
from tests.helpers.image_tools import documents as some_documents
from tests.helpers.llm_tools import documents
from tests.helpers.tiny import write_tiny
from tests.helpers.tiny_encoder import write_tiny_encoder
from tests.helpers.tiny_memory_llm import random_reader
from tests.helpers.toy import ToyEncoder

DEVICE = os.environ.get("MLLM_DEVICE", "cuda")
TEXTS = ["the cat sleeps", "a ship sails from oslo to lisbon; it is old", "x", "seven violins and a piano"]

pytestmark = [
    pytest.mark.cuda,
    pytest.mark.skipif(DEVICE == "cuda" and not torch.cuda.is_available(), reason="needs a CUDA device"),
]


@pytest.fixture(scope="module")
def encoder_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_encoder(tmp_path_factory.mktemp("encoder"), dim=32)


@pytest.fixture(scope="module")
def llm_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny(tmp_path_factory.mktemp("llm"), context=4096)


def loaded(folder: Path, device: str) -> LoadedLLM:
    return load_llm(folder, device=device, dtype="float32")


def test_the_encoder_gives_the_same_vectors(encoder_folder: Path) -> None:
    there, here = (HuggingFaceEncoder(encoder_folder, device=device) for device in (DEVICE, "cpu"))
    assert there.device.type == torch.device(DEVICE).type
    for call in ("encode_documents", "encode_query_windows"):
        (pooled, windows), (expected, expected_windows) = (getattr(one, call)(TEXTS) for one in (there, here))
        assert np.allclose(pooled, expected, atol=1e-3)
        assert all(np.allclose(*pair, atol=1e-3) for pair in zip(windows, expected_windows, strict=True))
    assert np.allclose(there.encode_queries(TEXTS[:1]), here.encode_queries(TEXTS[:1]), atol=1e-3)


def test_a_memory_finds_the_same(encoder_folder: Path, tmp_path: Path) -> None:
    found = []
    for device in (DEVICE, "cpu"):
        encoder = HuggingFaceEncoder(encoder_folder, device=device)
        with MemoryIndex.open(tmp_path / device, encoder=encoder) as memory:
            memory.add([Document(f"{text} number {n}", id=f"{n} {text}") for text in TEXTS for n in range(9)])
            memory.mask(["1 x"])
            hits = memory.search("violins and a ship", k=8)
            assert memory.verify().problems == ()
            found.append([(hit.document_id, round(hit.score, 2)) for hit in hits])
    assert [name for name, _ in found[0]] == [name for name, _ in found[1]]
    assert np.allclose(*([score for _, score in one] for one in found), atol=0.02)


@pytest.mark.parametrize("dim", [24, 1100])
@pytest.mark.parametrize("width", [1, 12, None])
def test_the_walk_finds_the_same_to_the_bit(dim: int, width: int | None) -> None:
    rng, device = np.random.default_rng(0), torch.device(DEVICE)

    def normal(shape: tuple[int, int]) -> NDArray[np.float16]:
        return rng.normal(size=shape).astype(np.float16)

    sizes = rng.integers(1, 30, 90)
    top = np.array([20, 30, 40])
    levels = [
        Level(np.arange(len(some)), counts, 0 * some, normal((len(some), dim)), some)
        for some, counts in ((top, np.add.reduceat(sizes, [0, 20, 50])), (sizes, sizes))
    ]
    many, none = int(sizes.sum()), np.zeros(0, np.int64)
    chunks = normal((many, dim))
    chunks[7] = chunks[31]
    live = (np.arange(many) % 9 > 0).astype(np.int64)
    levels.append(Level(np.arange(many), live, 0 * live, chunks, none))
    space = arrange(levels, TermCounts.of(["a"] * many), 1)
    queries = rng.normal(size=(70, 2, dim)).astype(np.float32)
    plan = Plan(width, need=40, paths=[0.3, 0.2, 0.1])
    there = placed(space, device)
    for counts in (None, space.counts(np.arange(many) % 5 == 0)):
        assert all_found(there, queries, plan, counts) == all_found(space, queries, plan, counts)


def test_searches_of_a_memory_there_find_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keeper, "_AT_HAND", ())
    monkeypatch.setattr(keeper, "_PAYS", 1)
    config = MemoryConfig(tree=TreeConfig(fan_out=4), search=SearchConfig(image_from=1))
    opening = {"encoder": ToyEncoder(), "config": config}
    asked = ["word3 word7", "word41 word5 word9"]
    with MemoryIndex.open(tmp_path, **opening) as memory:
        memory.add(some_documents(300))
        memory.search("word1")
        memory._handle.images.settle(60)
        expected = [memory.search_batch(asked, mode=mode, beam_width=5) for mode in ("flat", "beam")]
    with MemoryIndex.open(tmp_path, device=DEVICE, **opening) as memory:
        assert [memory.search_batch(asked, mode=mode, beam_width=5) for mode in ("flat", "beam")] == expected
        ((_, there),) = memory._handle.images._placed.values()
        assert there.kernels is tensors


@pytest.mark.parametrize("mode", ["text", "memory", "both"])
@pytest.mark.parametrize("hot", [0, 1 << 24], ids=["", "hot"])
def test_the_language_model_reads_the_same(llm_folder: Path, tmp_path: Path, mode: str, hot: int) -> None:
    said = []
    for device in (DEVICE, "cpu"):
        llm = loaded(llm_folder, device)
        config = MemoryLLMConfig(mode=mode, max_new_tokens=12, k=3, chunks=3, hot_bytes=hot)
        with MemoryIndex.open(tmp_path / device, encoder=ToyEncoder()) as memory:
            memory.add(documents())
            model = MemoryLLM(memory, llm, random_reader(llm), config)
            said.append([model.answer(one).text for one in ("Which part has the violins?", "What sails?")])
    assert all(said[0])
    assert said[0] == said[1]


def test_the_reader_writes_the_same(llm_folder: Path) -> None:
    there, here = (loaded(llm_folder, device) for device in (DEVICE, "cpu"))
    written = random_reader(there).write(there, TEXTS), random_reader(here).write(here, TEXTS)
    for one, other in zip(*written, strict=True):
        assert np.allclose(one.vectors, other.vectors, atol=5e-3)
        assert np.array_equal(one.spans, other.spans)


def test_the_reader_is_trained(llm_folder: Path) -> None:
    llm = loaded(llm_folder, "cpu")
    told = [(f"d{n}", f"In {1900 + n} the harbour was sold for {n} crowns. It is blue.") for n in range(24)]
    asked = [Asked(f"Price of {n}?", (f"{n} crowns",), f"d{n}") for n in range(24)]
    texts = prepare([(told, asked)], llm.tokenizer)
    sizes = Sizes(chunks=8, short=14, long=6, short_tokens=256, long_tokens=640, predicted=1600)
    torch.manual_seed(0)
    stack = LlamaStack(llm.model.state_dict(), llm.model.config.to_dict(), longest=1024)
    reader = Reader(stack, torch.from_numpy(texts.idf.astype(np.float32)), sizes, rank=4).to(DEVICE)
    sampler = Sampler(texts, Prompts.of(prompt_parts(llm.tokenizer)), sizes)
    optimizer, losses = optimizer_of(reader, 1e-2), []
    for number in range(20):
        step = TensorStep.of(sampler.step(np.random.default_rng(number)), torch.device(DEVICE))
        total, _, _ = one_step(reader, optimizer, step, number / 20)
        losses.append(float(total.detach()))
    assert np.mean(losses[-5:]) < np.mean(losses[:5])
