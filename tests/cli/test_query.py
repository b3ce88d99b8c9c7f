from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.helpers.toy import ToyEncoder


def test_search_prints_hits_with_their_place(mllm, indexed: Path) -> None:
    lines = mllm("search", "herons eat fish", "-k", "2", "--path").stdout.splitlines()
    assert lines[0].startswith(" 1. score ")
    assert "relevance" in lines[0]
    assert "herons.md [0:" in lines[0]
    assert "Herons eat fish." in lines[1]
    assert lines[2].startswith("    path: ")
    assert "chunk" in lines[2]
    assert len(lines) == 6


@pytest.mark.parametrize(
    "mode", [[], ["--exact"], ["--mode", "beam", "--beam-width", "2"]], ids=["auto", "exact", "beam"]
)
def test_search_as_json(mllm_json, indexed: Path, mode: list[str]) -> None:
    found = mllm_json("search", "quokkas smile", "-k", "1", *mode)
    (hit,) = found["hits"]
    assert found["query"] == "quokkas smile"
    text = (indexed / "quokkas.rst").read_text()
    assert text[hit["start"] : hit["end"]] == hit["text"]
    assert hit["document_id"] == "quokkas.rst"
    assert 0 <= hit["relevance"] <= 1


def test_search_with_a_filter_and_without_a_label(mllm, mllm_json, files: Path) -> None:
    mllm("index", files, "--label", "zoo")
    found = mllm_json("search", "herons", "--filter", '{"type": {"$ne": "markdown"}}')
    assert {hit["document_id"] for hit in found["hits"]} == {"quokkas.rst", "deep/compilers.txt"}
    assert "nothing found" in mllm("search", "herons", "--exclude-label", "zoo").stdout


def test_search_with_a_vector_needs_no_encoder(
    mllm_json, indexed: Path, tmp_path: Path, encoder: ToyEncoder
) -> None:
    vector = tmp_path / "vector.json"
    vector.write_text(json.dumps(encoder.encode_queries(["compilers turn source code"])[0].tolist()))
    assert (
        mllm_json("search", "--vector", vector, "-k", "1")["hits"][0]["document_id"] == "deep/compilers.txt"
    )


def test_namespaces_are_searched_apart_and_together(mllm, mllm_json, files: Path) -> None:
    mllm("index", files, "--namespace", "users", "--namespace", "1")
    mllm("index", files / "herons.md", "--namespace", '["users", "2"]')
    assert mllm_json("search", "herons")["hits"] == []
    assert (
        len(mllm_json("search", "herons", "--namespace", "users", "--namespace", "1", "-k", "9")["hits"]) == 3
    )
    assert len(mllm_json("search", "herons", "--namespace", "users", "--prefix", "-k", "9")["hits"]) == 4
    found = mllm("search", "herons", "--namespace", "users", "--namespace", "2")
    assert 'in ["users", "2"]' in found.stdout


def test_list_shows_labels_and_masks(mllm, mllm_json, files: Path) -> None:
    mllm("index", files, "--label", "zoo")
    mllm("mask", "herons.md", "--label", "draft")
    lines = mllm("list").stdout.splitlines()
    assert lines[0].split() == ["id", "chunks", "characters", "labels", "masked", "by", "begins"]
    assert lines[-1] == "3 documents"
    (row,) = [line for line in lines if line.startswith("herons.md")]
    assert row.split()[1:5] == ["1", "55", "zoo", "draft"]
    assert [one["id"] for one in mllm_json("list", "--masked")] == ["herons.md"]
    assert len(mllm_json("list", "-n", "2", "--label", "zoo")) == 2
    assert mllm_json("list", "--label", "other") == []
    assert "namespace" in mllm("list", "--prefix").stdout


def test_show_prints_a_document(mllm, mllm_json, indexed: Path) -> None:
    out = mllm("show", "herons.md").stdout
    assert "They stand still for hours." in out
    assert "markdown" in out
    assert mllm_json("show", "herons.md")["text"].startswith("# Herons")
    assert "no document 'nope'" in mllm("show", "nope", code=1).stderr


def test_control_characters_do_not_reach_the_terminal(mllm, tmp_path: Path) -> None:
    (tmp_path / "evil.txt").write_text("red \x1b[31mtext\x9b here \u202e.")
    mllm("index", tmp_path / "evil.txt")
    for command in (["search", "red text"], ["show", "evil.txt"], ["list"]):
        assert not {"\x1b", "\x9b", "\u202e"} & set(mllm(*command).stdout)


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["search", "x", "--filter", '{"a": '], 2, "not JSON at line 1, column 7"),
        (["search", "x", "--filter", "[1]"], 2, "expected a JSON object"),
        (["search", "x", "--filter", '{"a": {"$near": 1}}'], 1, "unknown filter operator '$near'"),
        (["search", "x", "-k", "0"], 2, "is not in the range"),
        (["search"], 2, "say what to search for"),
        (["search", "  "], 1, ""),
        (["search", "--vector", "none.json"], 1, "none.json"),
    ],
    ids=["cut filter", "list filter", "operator", "k", "no query", "blank query", "no vector file"],
)
def test_query_errors_say_what_is_wrong(
    mllm, indexed: Path, arguments: list[str], code: int, message: str
) -> None:
    assert message in mllm(*arguments, code=code).stderr


def test_a_list_that_is_cut_says_so(mllm, indexed: Path) -> None:
    assert mllm("list", "-n", "2").stdout.splitlines()[-1] == "the first 2 documents"
    assert mllm("list", "-n", "9").stdout.splitlines()[-1] == "3 documents"
