"""One server with two workers for all tests of the folder, and tokens for it."""

from __future__ import annotations

import pytest

from mllm_plugin.serving import add_token
from tests.helpers.serving_tools import ODD_NAMES, served


@pytest.fixture(scope="package")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("served")


@pytest.fixture(scope="package")
def tokens(folder):
    file = folder / "tokens.json"
    made = {name: add_token(file, name, {"user": name}) for name in ODD_NAMES}
    made["reader"] = add_token(file, "reader", {"user": "ann"}, read_only=True)
    made["few"] = add_token(file, "few", {"user": "few"}, most=2, rate=6)
    made["all"] = add_token(file, "all", {})
    made["planner"] = add_token(file, "planner", {"user": "ann", "agent": "planner"})
    made["split"] = add_token(file, "split", {"user": "ann\x1fx"})
    made["s1"] = add_token(file, "s1", {"session": "s1"})
    return made


@pytest.fixture(scope="package")
def client(folder, tokens):
    with served(folder, workers=2, tokens=str(folder / "tokens.json"), most_bytes=10_000) as started:
        yield started
