from __future__ import annotations

from pathlib import Path

import pytest


def ids(found: dict) -> set[str]:
    return {hit["document_id"] for hit in found["hits"]}


def test_remove_asks_first(mllm, mllm_json, indexed: Path) -> None:
    result = mllm("remove", "herons.md", input="n\n", code=1)
    assert "Erase 1 document for good?" in result.stderr
    assert "nothing was removed" in result.stderr
    assert "nothing was removed" in mllm("remove", "herons.md", input="", code=1).stderr
    assert len(mllm_json("list")) == 3
    mllm("remove", "herons.md", input="y\n")
    assert len(mllm_json("list")) == 2


def test_remove_prints_the_erasure_report(mllm, mllm_json, indexed: Path, folder: Path) -> None:
    out = mllm("remove", "herons.md", "nope", "--yes").stdout
    assert "1 document, 1 chunk" in out
    assert "yes, no file of the memory holds" in out
    assert "nope" in out
    assert "herons.md" not in ids(mllm_json("search", "herons", "-k", "9"))
    assert not any(b"stand still" in path.read_bytes() for path in folder.rglob("*") if path.is_file())


def test_remove_by_filter_and_by_label(mllm, mllm_json, indexed: Path) -> None:
    mllm("index", indexed / "herons.md", "--namespace", "b", "--label", "old")
    assert mllm_json("remove", "--label", "old", "--namespace", "b", "--yes")["documents"] == 1
    report = mllm_json("remove", "--filter", '{"type": "text"}', "--yes")
    assert (report["documents"], report["erased"]) == (1, True)
    assert {one["id"] for one in mllm_json("list")} == {"herons.md", "quokkas.rst"}


def test_mask_hides_until_unmasked(mllm, mllm_json, indexed: Path) -> None:
    assert mllm("mask", "herons.md", "--label", "draft").stdout == "1 document masked (1 chunk)\n"
    assert "herons.md" not in ids(mllm_json("search", "herons", "-k", "9"))
    assert mllm_json("unmask", "--label", "other")["documents"] == 0
    assert mllm_json("unmask", "--label", "draft")["documents"] == 1
    assert "herons.md" in ids(mllm_json("search", "herons", "-k", "9"))
    assert mllm_json("mask", "--filter", "{}")["documents"] == 3
    assert mllm_json("unmask", "--all")["documents"] == 3
    assert mllm_json("verify")["ok"]


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["remove", "--yes"], 2, "say which documents"),
        (["mask"], 2, "say which documents"),
        (["unmask"], 2, "--all"),
        (["remove", "nope", "--yes"], 1, "no document 'nope'"),
        (["mask", "nope"], 1, "nope"),
        (["unmask", "nope"], 1, "nope"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_edit_errors_change_nothing(
    mllm, mllm_json, indexed: Path, arguments, code: int, message: str
) -> None:
    assert message in mllm(*arguments, code=code).stderr
    assert len(mllm_json("list")) == 3
