"""`mllm ask`: answers, what they rest on, notes, errors."""

from __future__ import annotations

from pathlib import Path

import pytest

from mllm_plugin.llm import MemoryReader, load_llm
from tests.helpers.tiny import write_tiny

QUESTION = "What do herons eat?"
SHORT = ("--max-new-tokens", 4)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def adapter(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("reader")
    MemoryReader.create(load_llm(model, device="cpu"), rank=2, reading={"chunks": 5, "repeat": True}).save(
        folder
    )
    return folder


def test_text_only_shows_what_it_read(mllm, indexed, model):
    result = mllm("ask", QUESTION, "--model", model, "--adapter", "none", "-k", 1, *SHORT)
    assert "\n\nIt read " in result.stdout
    assert "of them memory tokens" not in result.stdout
    assert "text       herons.md [0:" in result.stdout
    assert "Herons eat fish." in result.stdout
    assert "level" not in result.stdout
    assert not result.stderr


def test_embeddings_too(mllm, indexed, model, adapter):
    result = mllm("ask", QUESTION, "--model", model, "--adapter", adapter, *SHORT)
    lines = [line.split()[:2] for line in result.stdout.splitlines() if line.startswith("  ")]
    assert lines == [["text", "herons.md"], ["level", "1"], ["level", "0"]]


def test_what_is_left_out_is_said(mllm, indexed, model, adapter):
    options = ("--model", model, "--adapter", adapter, "--memory-budget", 1, "--text-tokens", 20)
    result = mllm("ask", QUESTION, *options, *SHORT)
    assert "left out" in result.stdout


def test_no_adapter_is_a_note(mllm, indexed, model):
    result = mllm("ask", QUESTION, "--model", model, *SHORT)
    assert result.stderr.count("reads text only") == 1


def test_json_is_one_value(mllm_json, indexed, model, adapter):
    options = ("--model", model, "--adapter", adapter, "--mode", "memory")
    found = mllm_json("ask", QUESTION, *options, *SHORT)
    assert found["question"] == QUESTION
    assert found["mode"] == "memory"
    assert found["usage"]["memory_tokens"] == len(found["sources"])


def test_filters_and_labels(mllm, mllm_json, files, model):
    mllm("index", files, "--label", "all")
    ask = ("ask", QUESTION, "--model", model, "--adapter", "none", *SHORT)
    found = mllm_json(*ask, "--filter", '{"type": {"$ne": "markdown"}}')
    assert {one["document_id"] for one in found["sources"]} == {"quokkas.rst", "deep/compilers.txt"}
    found = mllm_json(*ask, "--exclude-label", "all")
    assert (found["mode"], found["sources"]) == ("none", [])
    assert "has nothing for this question" in mllm(*ask, "--exclude-label", "all").stdout


def test_the_same_seed_writes_the_same(mllm_json, indexed, model):
    ask = ("ask", QUESTION, "--model", model, "--adapter", "none", "--temperature", 1, *SHORT)
    assert mllm_json(*ask, "--seed", 3)["text"] == mllm_json(*ask, "--seed", 3)["text"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--model", "nobody/none"), "model 'nobody/none' was not found"),
        (("--adapter", "nowhere"), "no reader in nowhere"),
        (("--adapter", "none", "--mode", "memory"), "needs a reader"),
        (("--adapter", "none", "--max-new-tokens", 2000), "does not fit the model"),
        (("--adapter", "none", "--stop", ""), "setting 'stop.0'"),
    ],
    ids=["model", "adapter", "mode", "length", "stop"],
)
def test_errors_are_one_line(mllm, indexed, model, options, message):
    result = mllm("ask", QUESTION, "--model", model, *options, code=1)
    assert message in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1


def test_no_question(mllm, indexed, model):
    assert "is empty" in mllm("ask", " ", "--model", model, "--adapter", "none", code=1).stderr
    mllm("ask", code=2)


def test_no_memory(mllm, model):
    assert "no memory at" in mllm("ask", QUESTION, "--model", model, code=1).stderr


def test_nothing_that_is_relevant_enough(mllm_json, mllm, indexed, model):
    options = ("--model", model, "--adapter", "none", "--min-relevance", 1)
    found = mllm_json("ask", QUESTION, *options, *SHORT)
    assert (found["text"], found["known"], found["sources"]) == ("unknown", False, [])
    assert "It read nothing" in mllm("ask", QUESTION, *options, *SHORT).stdout


def test_read_index_writes_ahead_and_goes_on(mllm_json, mllm, indexed, model, adapter):
    options = ("--model", model, "--adapter", adapter)
    first, second = (mllm_json("read-index", *options) for _ in range(2))
    assert first["chunks"] == first["written"] == second["chunks"] > 0
    assert second["written"] == 0
    assert "0 of them written now" in mllm("read-index", *options).stdout
    mllm("read-index", "--adapter", "none", code=1)
