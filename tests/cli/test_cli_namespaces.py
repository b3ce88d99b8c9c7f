"""A namespace is spelled on the command line as in Python and JSON, whatever its names hold."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import pytest

from mllm_plugin import Document, MemoryIndex
from mllm_plugin.cli.settings import namespace_options
from tests.helpers.toy import ToyEncoder

NAMESPACES = [
    (),
    ("users",),
    ("users/42",),
    ("users", "42"),
    ("users/42", "a b"),
    ("/",),
    ("a//b", "/"),
    ("[draft]",),
    ('["users", "42"]',),
    ("[1]", "x"),
    ("-x", "--yes"),
    ("Ägypten", "🜁"),
]


@pytest.fixture
def many(folder: Path, encoder: ToyEncoder) -> None:
    with MemoryIndex.open(folder, encoder=encoder) as memory:
        for place, namespace in enumerate(NAMESPACES):
            memory.add([Document(f"herons in {namespace}", id=f"{place}")], namespace=namespace)


@pytest.mark.parametrize("place", range(len(NAMESPACES)))
def test_every_namespace_can_be_named_and_erased(mllm, mllm_json, many, place: int) -> None:
    namespace = NAMESPACES[place]
    as_json = ("--namespace", json.dumps(namespace))
    assert [one["id"] for one in mllm_json("list", *as_json)] == [f"{place}"]
    options = shlex.split(namespace_options(namespace)) if namespace else []
    assert mllm_json("search", "herons", *options)["hits"][0]["namespace"] == list(namespace)
    assert mllm_json("remove", f"{place}", "--yes", *options)["documents"] == 1
    assert len(mllm_json("list", "--prefix")) == len(NAMESPACES) - 1


def test_a_plain_name_is_one_name_in_python_and_here(mllm, mllm_json, files, folder, encoder) -> None:
    found = mllm("index", files, "--namespace", "users/42")
    assert (
        "'users/42' is one name; the names ['users', '42'] are --namespace users --namespace 42"
        in found.stderr
    )
    with MemoryIndex.open(folder, encoder=encoder) as memory:
        assert memory.namespaces() == [("users/42",)]
        assert len(memory.search("herons", namespace="users/42")) == 3
    assert "one name" not in mllm("list", "--namespace", "users/42").stderr
    assert "in users/42" in mllm("search", "herons", "--namespace", "users/42").stdout


@pytest.mark.parametrize("old", ["users/42", "users/42/", "/users//42"])
def test_what_a_slash_meant_before_is_taken_where_only_that_is_there(mllm, files, old: str) -> None:
    mllm("index", files, "--namespace", "users", "--namespace", "42")
    for command in (("search", "herons"), ("list",), ("index", files), ("remove", "herons.md", "--yes")):
        found = mllm(*command, "--namespace", old)
        assert "is spelled --namespace users --namespace 42." in found.stderr
        assert f"""--namespace '["{old}"]'""" in found.stderr
        assert "herons" in found.stdout or command[0] in ("index", "remove")
    assert "herons.md" not in mllm("list", "--namespace", "users", "--namespace", "42").stdout
    mllm("index", files / "herons.md", "--namespace", json.dumps([old]))
    assert mllm("list", "--namespace", old).stdout.splitlines()[-1] == "1 document"


def test_a_slash_alone_was_the_root(mllm, indexed) -> None:
    found = mllm("list", "--namespace", "/")
    assert "without --namespace" in found.stderr
    assert found.stdout == mllm("list", "--namespace", "").stdout == mllm("list").stdout


def test_a_command_s_namespace_stands_for_the_one_before_it(mllm, mllm_json, many) -> None:
    found = mllm_json("--namespace", "users", "list", "--namespace", "users/42")
    assert [one["id"] for one in found] == ["2"]
    assert [one["id"] for one in mllm_json("--namespace", "users", "--namespace", "42", "list")] == ["3"]


def test_a_list_of_other_values_is_wrong_usage(mllm, many) -> None:
    assert "JSON list of strings" in mllm("list", "--namespace", "[1, 2]", code=2).stderr
    assert "empty" in mllm("list", "--namespace", '["a", ""]', code=1).stderr
