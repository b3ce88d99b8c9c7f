"""Readers: what they write, how they are kept, and how a `MemoryLLM` reads with one."""

from __future__ import annotations

import json
import sqlite3

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from mllm_plugin import AdapterMismatchError, InvalidInputError, MemoryIndex, NotFoundError
from mllm_plugin.hierarchy import document_mark
from mllm_plugin.llm import MemoryReader, load_llm, shipped_reader
from mllm_plugin.memory_llm import MemoryLLM, MemoryLLMConfig
from tests.helpers.llm_tools import documents
from tests.helpers.tiny import write_tiny
from tests.helpers.tiny_memory_llm import random_reader
from tests.helpers.toy import ToyEncoder

QUESTION = "Which part has the violins number 6?"
TEXT = "The ship Aurora sails from Oslo to Lisbon."


@pytest.fixture(scope="module")
def reader(tiny):
    return random_reader(tiny)


@pytest.fixture
def memory(tmp_path):
    with MemoryIndex.open(tmp_path / "memory", encoder=ToyEncoder()) as opened:
        opened.add(documents())
        yield opened


# -- writing


def test_windows_cover_the_text_in_order(tiny, reader):
    [written] = reader.write(tiny, [TEXT])
    ids = tiny.tokenizer(TEXT, add_special_tokens=False)["input_ids"]
    assert written.vectors.shape == (-(-len(ids) // 4), tiny.hidden)
    assert "".join(TEXT[start:end] for start, end in written.spans) == TEXT


def test_an_untrained_reader_writes_weighted_sums_of_words(tiny):
    idf = torch.rand(len(tiny.embeddings.weight), generator=torch.Generator().manual_seed(1)) + 0.5
    [written] = MemoryReader.create(tiny, idf=idf).write(tiny, [TEXT])
    table = tiny.embeddings.weight.detach()
    centred = table - table.mean(dim=0)
    words = torch.nn.functional.normalize(centred, dim=-1) * idf.square()[:, None]
    first = words[tiny.tokenizer(TEXT)["input_ids"][:4]].sum(dim=0)
    expected = table.mean(dim=0) + centred.norm(dim=-1).mean() * torch.nn.functional.normalize(first, dim=0)
    assert np.allclose(written.vectors[0], expected.numpy(), atol=2e-3)


def test_texts_of_all_lengths_together_are_as_alone(tiny, reader):
    texts = [TEXT, "x", TEXT * 40, "", "two words"]
    together = reader.write(tiny, texts)
    assert [len(one.vectors) for one in together] == [11, 1, 420, 0, 3]
    for text, one in zip(texts, together, strict=True):
        [alone] = reader.write(tiny, [text])
        assert np.allclose(alone.vectors, one.vectors, atol=5e-3)
        assert np.array_equal(alone.spans, one.spans)


def test_the_writer_sees_what_comes_after(tiny, reader):
    first, second = reader.write(tiny, [f"{TEXT} One.", f"{TEXT} Two."])
    assert not np.allclose(first.vectors[0], second.vectors[0], atol=1e-3)


def test_the_model_is_what_it_was(tiny, reader):
    ids = tiny.tokenizer(TEXT, return_tensors="pt")["input_ids"]
    with torch.inference_mode():
        before = tiny.model(ids).logits
        reader.write(tiny, [TEXT])
        with reader.applied(tiny.model):
            assert not torch.equal(tiny.model(ids).logits, before)
        assert torch.equal(tiny.model(ids).logits, before)


# -- files


def test_saved_and_loaded_writes_the_same(tiny, reader, tmp_path):
    reader.save(tmp_path, reading={"windows": 8})
    loaded = MemoryReader.load(tmp_path)
    assert loaded.config.reading == {"windows": 8}
    [one], [other] = reader.write(tiny, [TEXT]), loaded.write(tiny, [TEXT])
    assert np.allclose(one.vectors, other.vectors, atol=0.02)
    loaded.save(tmp_path / "again")
    again = MemoryReader.load(tmp_path / "again")
    assert again.fingerprint == loaded.fingerprint
    assert random_reader(tiny, seed=1).fingerprint != reader.fingerprint


@pytest.mark.parametrize(
    "change", [lambda t: t.pop("space.map.weight"), lambda t: t["space.map.weight"].fill_(torch.nan)]
)
def test_damaged_files_are_refused(reader, tmp_path, change):
    reader.save(tmp_path)
    tensors = load_file(tmp_path / "reader.safetensors")
    change(tensors)
    save_file(tensors, tmp_path / "reader.safetensors")
    with pytest.raises(InvalidInputError, match="damaged"):
        MemoryReader.load(tmp_path)
    (tmp_path / "reader.safetensors").write_bytes(b"no tensors")
    with pytest.raises(InvalidInputError, match="cannot be read"):
        MemoryReader.load(tmp_path)
    (tmp_path / "reader.safetensors").unlink()
    with pytest.raises(NotFoundError, match="missing"):
        MemoryReader.load(tmp_path)


def test_an_adapter_of_an_earlier_version_is_refused(tmp_path):
    (tmp_path / "adapter.json").write_text("{}")
    with pytest.raises(InvalidInputError, match=r"adapter of an earlier version.*`mllm train-llm"):
        MemoryReader.load(tmp_path)


def test_seen_documents(reader, tmp_path):
    reader.save(tmp_path, documents=(document_mark(("a",), "secret"),))
    loaded = MemoryReader.load(tmp_path)
    assert loaded.has_seen("secret", ("a",))
    assert not loaded.has_seen("secret")
    assert "secret" not in (tmp_path / "reader.json").read_text()


def test_nothing_there(tmp_path):
    with pytest.raises(NotFoundError, match=r"reader\.json and .* are missing; `mllm train-llm`"):
        MemoryReader.load(tmp_path)


@pytest.mark.parametrize(
    "change", [{"format": 3}, {"hidden": "wide"}, {"scale": 0}, {"format_version": 2}], ids=str
)
def test_a_configuration_that_is_none_is_refused(reader, tmp_path, change):
    reader.save(tmp_path)
    config = json.loads((tmp_path / "reader.json").read_text())
    (tmp_path / "reader.json").write_text(json.dumps(config | change))
    with pytest.raises(InvalidInputError, match="cannot be read"):
        MemoryReader.load(tmp_path)


def test_changes_of_a_wider_model_are_refused(reader, tmp_path):
    other = load_llm(write_tiny(tmp_path / "wide", hidden=64), device="cpu")
    with pytest.raises(InvalidInputError, match="do not fit the model"), reader.applied(other.model):
        pass


def test_two_readers_on_one_model(tiny):
    one, other = random_reader(tiny), random_reader(tiny, seed=1)
    [first], [second] = one.write(tiny, [TEXT]), other.write(tiny, [TEXT])
    assert not np.allclose(first.vectors, second.vectors, atol=1e-2)
    assert np.array_equal(one.write(tiny, [TEXT])[0].vectors, first.vectors)


def test_the_model_is_what_it_was_after_an_error(tiny, reader):
    weight = tiny.model.model.layers[0].mlp.up_proj.weight
    before = weight.data.clone()
    with pytest.raises(RuntimeError), reader.applied(tiny.model):
        raise RuntimeError
    assert torch.equal(weight.data, before)


def test_nothing_is_shipped_for_the_tiny_model(tiny):
    assert shipped_reader(tiny) is None


def test_another_model_is_refused(reader, memory, tmp_path):
    other = load_llm(write_tiny(tmp_path / "other", seed=5), device="cpu")
    with pytest.raises(AdapterMismatchError, match="trained for the model"):
        MemoryLLM.open(memory, model=other, adapter=reader)


# -- reading


def test_memory_alone_reads_windows_of_the_hits_and_no_text(tiny, reader, memory):
    llm = MemoryLLM.open(memory, model=tiny, adapter=reader, config=MemoryLLMConfig(k=2, max_new_tokens=4))
    answer = llm.answer(QUESTION, mode="memory")
    texts = {one.id: one.text for one in documents()}
    hits = memory.search(QUESTION, k=2)
    assert {one.level for one in answer.sources} == {0}
    assert answer.usage.text_tokens == 0
    read = {}
    for one in answer.sources:
        read.setdefault(one.chunk_id, []).append(texts[one.document_id][one.start : one.end])
    assert {chunk: "".join(parts) for chunk, parts in read.items()} == {
        hit.chunk_id: hit.text for hit in hits
    }


def test_both_spells_the_best_out_and_reads_the_others(tiny, reader, memory):
    llm = MemoryLLM(memory, tiny, reader, MemoryLLMConfig(k=3, max_new_tokens=4, chunks=3))
    answer = llm.answer(QUESTION)
    assert answer.mode == "both"
    spelled = [one.chunk_id for one in answer.sources if one.as_text]
    read = {one.chunk_id for one in answer.sources if not one.as_text}
    hits = [hit.chunk_id for hit in memory.search(QUESTION, k=3)]
    assert (spelled, read) == (hits[:1], set(hits[1:]))
    assert {one.level for one in answer.sources if not one.as_text} == {0, 1}


def test_a_chunk_is_written_once_and_a_removal_forgets_it(tiny, memory, monkeypatch):
    reader, asked = random_reader(tiny), []
    write = reader.write
    monkeypatch.setattr(reader, "write", lambda llm, texts: asked.extend(texts) or write(llm, texts))
    llm = MemoryLLM(memory, tiny, reader, MemoryLLMConfig(k=2, max_new_tokens=4, mode="memory"))
    first = llm.answer(QUESTION)
    assert len(asked) == 2
    assert llm.answer(QUESTION) == first
    assert len(asked) == 2
    assert memory.remove([first.sources[0].document_id]).erased
    with sqlite3.connect(memory.path / "cache" / "cache.db") as connection:
        assert connection.execute("SELECT count(*) FROM Cache").fetchone() == (0,)
    assert first.sources[0].document_id not in {one.document_id for one in llm.answer(QUESTION).sources}


def test_what_is_removed_while_it_is_written_is_not_kept(tiny, memory, monkeypatch):
    reader = random_reader(tiny)
    write = reader.write

    def slow(llm, texts):
        memory.remove([first])
        return write(llm, texts)

    first = memory.search(QUESTION, k=1)[0].document_id
    monkeypatch.setattr(reader, "write", slow)
    llm = MemoryLLM(memory, tiny, reader, MemoryLLMConfig(k=2, max_new_tokens=4, mode="memory"))
    llm.answer(QUESTION)
    with sqlite3.connect(memory.path / "cache" / "cache.db") as connection:
        kept = connection.execute("SELECT count(*) FROM Cache").fetchone()
    assert kept == (1,)  # the other chunk's


def test_what_is_masked_is_not_read(tiny, reader, memory):
    llm = MemoryLLM(memory, tiny, reader, MemoryLLMConfig(k=2, max_new_tokens=4, mode="memory"))
    before = llm.answer(QUESTION)
    memory.mask([before.sources[0].document_id])
    masked = {one.document_id for one in llm.answer(QUESTION).sources}
    assert before.sources[0].document_id not in masked
    memory.unmask([before.sources[0].document_id])
    assert llm.answer(QUESTION) == before


# -- declining


def test_declining_is_settled_by_its_threshold(tiny, reader, memory):
    llm = MemoryLLM(memory, tiny, reader, MemoryLLMConfig(k=1, max_new_tokens=4))
    never, always = llm.answer(QUESTION, decline_above=1.0), llm.answer(QUESTION, decline_above=0.0)
    assert (never.known, always.known) == (True, False)
    assert never.unknown == always.unknown
    assert 0 < never.unknown < 1
    assert always.text.startswith(reader.config.refusal[0])
    assert not never.text.startswith(reader.config.refusal[0])
    stream = llm.stream(QUESTION, decline_above=0.0)
    assert "".join(stream) == stream.answer.text == always.text


def test_who_cannot_tell_says_so(tiny, memory):
    answer = MemoryLLM(memory, tiny, None, MemoryLLMConfig(max_new_tokens=2)).answer(QUESTION)
    assert (answer.known, answer.unknown) == (None, None)
